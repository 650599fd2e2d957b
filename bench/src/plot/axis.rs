//! The vertical axis: where a value lies between bottom (0) and top (1), and which lines are drawn.

use super::Value;

/// Lines that a linear axis has at most, above zero.
const TICKS_MAX: f64 = 6.0;

/// Range of an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Axis {
    /// From zero to a multiple of `step`.
    Linear { step: f64, top: f64 },
    /// From 10^`bottom` to 10^`top`.
    Logarithmic { bottom: i32, top: i32 },
}

impl Axis {
    /// An axis that has room for all `values`.
    pub(super) fn around<'a>(logarithmic: bool, values: impl Iterator<Item = &'a Value>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for value in values {
            least = least.min(value.low);
            most = most.max(value.high).max(value.middle);
        }
        if most <= 0.0 {
            (least, most) = (1.0, 1.0);
        }
        if logarithmic {
            // A value of zero has no place on it; it is drawn at the bottom.
            let bottom = least.max(most / 1e6).log10().floor() as i32;
            return Self::Logarithmic { bottom, top: (most.log10().ceil() as i32).max(bottom + 1) };
        }
        let step = nice_step(most / TICKS_MAX);
        // Numbers stand above the highest mark.
        Self::Linear { step, top: (most * 1.06 / step).ceil() * step }
    }

    /// Where `value` lies: 0 at the bottom, 1 at the top.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match *self {
            Self::Linear { top, .. } => value / top,
            Self::Logarithmic { bottom, top } => {
                (value.max(f64::MIN_POSITIVE).log10() - f64::from(bottom)) / f64::from(top - bottom)
            }
        };
        place.clamp(0.0, 1.0)
    }

    /// Places and labels of the lines.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        match *self {
            Self::Linear { step, top } => {
                let count = (top / step).round() as u32;
                let decimals = (-step.log10().floor()).max(0.0) as usize;
                (0..=count)
                    .map(|nth| f64::from(nth) * step)
                    .map(|value| (self.place(value), format!("{value:.decimals$}")))
                    .collect()
            }
            Self::Logarithmic { bottom, top } => (bottom..=top)
                .map(|power| {
                    let decimals = usize::try_from(-power).unwrap_or(0);
                    let value = 10f64.powi(power);
                    (self.place(value), format!("{value:.decimals$}"))
                })
                .collect(),
        }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|nice| *nice >= step).unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(logarithmic: bool, values: &[(f64, f64)]) -> Axis {
        let values: Vec<_> =
            values.iter().map(|&(low, high)| Value { low, middle: (low + high) / 2.0, high }).collect();
        Axis::around(logarithmic, values.iter())
    }

    #[test]
    fn linear_axes_start_at_zero_and_have_few_round_lines() {
        for most in [0.03, 0.7, 1.0, 3.3, 97.0, 4_223.0, 1e6] {
            let axis = axis(false, &[(most / 10.0, most)]);
            let ticks = axis.ticks();
            assert!((3..=9).contains(&ticks.len()), "{most}: {ticks:?}");
            assert_eq!(ticks[0].0, 0.0);
            assert_eq!(ticks.last().expect("has some").0, 1.0);
            assert!(axis.place(most) > 0.7 && axis.place(most) < 0.96, "{most}: {axis:?}");
        }
        assert_eq!(axis(false, &[(0.0, 4_223.0)]).ticks()[1].1, "1000");
        assert_eq!(axis(false, &[(0.0, 0.7)]).ticks()[1].1, "0.2");
    }

    #[test]
    fn logarithmic_axes_have_whole_decades() {
        let axis = axis(true, &[(0.5, 30.0), (3.0, 900.0)]);
        let labels: Vec<_> = axis.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0.1", "1", "10", "100", "1000"]);
        assert!((axis.place(10.0) - 0.5).abs() < 1e-9);
        assert_eq!(axis.place(0.0), 0.0);
    }

    #[test]
    fn no_values_and_zeros_have_an_axis() {
        for logarithmic in [false, true] {
            assert!(axis(logarithmic, &[]).ticks().iter().all(|(place, _)| place.is_finite()));
            assert!(axis(logarithmic, &[(0.0, 0.0)]).place(0.0).is_finite());
        }
        assert!(axis(true, &[(0.0, 5.0)]).ticks().len() < 9, "a zero does not stretch it without end");
    }
}
