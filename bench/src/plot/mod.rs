//! Charts of results as SVG files: groups of marks in panels that share one vertical axis.
//!
//! Role: pure, from numbers to text; `transfer::charts` says what is shown. Own code, since it is little and plotting
//! crates bring fonts and rasterisers. Invariant: the same numbers give the same file, byte for byte.

mod axis;
mod svg;

use axis::Axis;
use svg::{Anchor, Font, Svg};

const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 104.0;
const PLOT_HEIGHT: f64 = 280.0;
const BOTTOM: f64 = 44.0;
/// Between panels.
const PANEL_GAP: f64 = 22.0;
/// Between groups of one panel.
const GROUP_GAP: f64 = 22.0;
/// From mark to mark.
const STEP: f64 = 25.0;
const BAR: f64 = 21.0;

const INK: &str = "#1f2328";
const FAINT_INK: &str = "#59636e";
const GRID: &str = "#e4e7eb";
const AXIS: &str = "#8b949e";

/// What a chart compares, in one colour everywhere.
#[derive(Debug, Clone)]
pub struct Series {
    /// As in the legend.
    pub name: String,
    /// `#rrggbb`.
    pub colour: &'static str,
}

/// Three values of one measurement, rising.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// Least, or first quantile.
    pub low: f64,
    /// Median, or second quantile.
    pub middle: f64,
    /// Most, or third quantile.
    pub high: f64,
}

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar from zero to the middle, its number above, a whisker from low to high; linear axis.
    Bars,
    /// A line from low (dot) over middle (dash) to high (triangle); logarithmic axis.
    Quantiles,
}

/// Marks side by side, one per series; `None` where there is no value.
#[derive(Debug, Clone)]
pub struct Group {
    /// Below the axis.
    pub label: String,
    /// In the order of the series.
    pub values: Vec<Option<Value>>,
}

/// Groups under one heading.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Above its groups.
    pub title: String,
    /// From left to right.
    pub groups: Vec<Group>,
}

/// A whole chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is shown, with its unit.
    pub title: String,
    /// How it was measured.
    pub subtitle: String,
    /// How values are drawn.
    pub style: Style,
    /// Decimals of the numbers above bars.
    pub decimals: usize,
    /// In the order of the values.
    pub series: Vec<Series>,
    /// From left to right.
    pub panels: Vec<Panel>,
}

impl Chart {
    /// The chart as an SVG file.
    pub fn svg(&self) -> String {
        let group_width = STEP * self.series.len() as f64 + GROUP_GAP;
        let title_width = |panel: &Panel| 8.2 * panel.title.len() as f64;
        let panel_width = |panel: &Panel| (group_width * panel.groups.len() as f64).max(title_width(panel));
        let gaps = PANEL_GAP * self.panels.len().saturating_sub(1) as f64;
        let plot_width = self.panels.iter().map(panel_width).sum::<f64>() + gaps;
        // A chart with few groups still has room for its head.
        let width = (LEFT + plot_width + RIGHT).max(780.0);
        let mut svg = Svg::new(width, TOP + PLOT_HEIGHT + BOTTOM, &self.title);
        self.draw_head(&mut svg);
        let values = self
            .panels
            .iter()
            .flat_map(|panel| &panel.groups)
            .flat_map(|group| group.values.iter().flatten());
        let axis = Axis::around(self.style == Style::Quantiles, values);
        let mut left = LEFT;
        for (nth, panel) in self.panels.iter().enumerate() {
            let right = left + panel_width(panel);
            draw_grid(&mut svg, &axis, (left, right), nth == 0);
            text(&mut svg, ((left + right) / 2.0, TOP - 12.0), Anchor::Middle, 13.0, true, &panel.title);
            let room = (right - left) / panel.groups.len().max(1) as f64;
            for (nth, group) in panel.groups.iter().enumerate() {
                self.draw_group(&mut svg, &axis, left + room * (nth as f64 + 0.5), group);
            }
            left = right + PANEL_GAP;
        }
        svg.finish()
    }

    fn draw_head(&self, svg: &mut Svg) {
        text(svg, (16.0, 26.0), Anchor::Start, 16.0, true, &self.title);
        let faint = Font { size: 12.0, bold: false, colour: FAINT_INK };
        svg.text((16.0, 44.0), Anchor::Start, faint, &self.subtitle);
        let mut x = 16.0;
        for series in &self.series {
            svg.rect((x, 57.0), (12.0, 12.0), series.colour);
            text(svg, (x + 17.0, 67.5), Anchor::Start, 12.0, false, &series.name);
            x += 17.0 + 7.2 * series.name.len() as f64 + 18.0;
        }
        if self.style == Style::Quantiles {
            x += 10.0;
            svg.circle((x, 63.0), 4.5, FAINT_INK);
            svg.text((x + 9.0, 67.5), Anchor::Start, faint, "p50");
            svg.line((x + 48.0, 63.0), (x + 60.0, 63.0), 2.5, FAINT_INK);
            svg.text((x + 65.0, 67.5), Anchor::Start, faint, "p99");
            svg.triangle((x + 108.0, 63.0), 5.0, FAINT_INK);
            svg.text((x + 118.0, 67.5), Anchor::Start, faint, "p99.9");
        }
    }

    fn draw_group(&self, svg: &mut Svg, axis: &Axis, middle: f64, group: &Group) {
        let bottom = TOP + PLOT_HEIGHT;
        text(svg, (middle, bottom + 20.0), Anchor::Middle, 12.0, false, &group.label);
        let left = middle - STEP * self.series.len() as f64 / 2.0;
        for (nth, (value, series)) in group.values.iter().zip(&self.series).enumerate() {
            let x = left + STEP * (nth as f64 + 0.5);
            match (value, self.style) {
                (None, _) => text(svg, (x, bottom - 5.0), Anchor::Middle, 10.0, false, "–"),
                (Some(value), Style::Bars) => self.draw_bar(svg, axis, x, *value, series.colour),
                (Some(value), Style::Quantiles) => draw_quantiles(svg, axis, x, *value, series.colour),
            }
        }
    }

    fn draw_bar(&self, svg: &mut Svg, axis: &Axis, x: f64, value: Value, colour: &str) {
        let y = |value: f64| TOP + PLOT_HEIGHT * (1.0 - axis.place(value));
        let (low, middle, high) = (y(value.low), y(value.middle), y(value.high));
        svg.rect((x - BAR / 2.0, middle), (BAR, TOP + PLOT_HEIGHT - middle), colour);
        // Whiskers that would be a dot say nothing.
        if low - high > 2.0 {
            svg.line((x, low), (x, high), 1.2, INK);
            svg.line((x - 3.5, low), (x + 3.5, low), 1.2, INK);
            svg.line((x - 3.5, high), (x + 3.5, high), 1.2, INK);
        }
        let label = format!("{:.*}", self.decimals, value.middle);
        text(svg, (x, middle.min(high) - 4.0), Anchor::Middle, 10.0, false, &label);
    }
}

fn draw_quantiles(svg: &mut Svg, axis: &Axis, x: f64, value: Value, colour: &str) {
    let y = |value: f64| TOP + PLOT_HEIGHT * (1.0 - axis.place(value));
    svg.line((x, y(value.low)), (x, y(value.high)), 2.0, colour);
    svg.line((x - 6.0, y(value.middle)), (x + 6.0, y(value.middle)), 2.5, colour);
    svg.circle((x, y(value.low)), 4.5, colour);
    svg.triangle((x, y(value.high)), 5.0, colour);
}

fn draw_grid(svg: &mut Svg, axis: &Axis, (left, right): (f64, f64), with_labels: bool) {
    for (place, label) in axis.ticks() {
        let y = TOP + PLOT_HEIGHT * (1.0 - place);
        svg.line((left, y), (right, y), 1.0, GRID);
        if with_labels {
            let faint = Font { size: 11.0, bold: false, colour: FAINT_INK };
            svg.text((left - 8.0, y + 4.0), Anchor::End, faint, &label);
        }
    }
    svg.line((left, TOP + PLOT_HEIGHT), (right, TOP + PLOT_HEIGHT), 1.0, AXIS);
}

fn text(svg: &mut Svg, at: (f64, f64), anchor: Anchor, size: f64, bold: bool, text: &str) {
    svg.text(at, anchor, Font { size, bold, colour: INK }, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(style: Style) -> Chart {
        let value = |middle: f64| Some(Value { low: middle / 2.0, middle, high: middle * 2.0 });
        let group = |label: &str, values| Group { label: label.into(), values };
        let panel = |title: &str, groups| Panel { title: title.into(), groups };
        let series = [("ours", "#d55e00"), ("theirs", "#0072b2")];
        Chart {
            title: "Throughput & more".into(),
            subtitle: "how".into(),
            style,
            decimals: 0,
            series: series.map(|(name, colour)| Series { name: name.into(), colour }).to_vec(),
            panels: vec![
                panel(
                    "left",
                    vec![
                        group("one", vec![value(100.0), value(10.0)]),
                        group("two", vec![value(50.0), None]),
                    ],
                ),
                panel("right", vec![group("three", vec![value(1.0), value(400.0)])]),
            ],
        }
    }

    fn bars(svg: &str) -> Vec<f64> {
        // Of the legend's squares and the sheet neither has this width.
        let heights = svg.lines().filter(|line| line.starts_with("<rect") && line.contains(r#"width="21""#));
        let height = |line: &str| line.split_once("height=\"")?.1.split_once('"')?.0.parse().ok();
        heights.map(|line| height(line).expect("a bar has a height")).collect()
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        let svg = chart(Style::Bars).svg();
        let bars = bars(&svg);
        assert_eq!(bars.len(), 5, "one per value");
        assert!((bars[0] / bars[1] - 10.0).abs() < 0.1 && (bars[4] / bars[0] - 4.0).abs() < 0.1, "{bars:?}");
        assert!(
            bars.iter().all(|height| *height > 0.0 && *height <= PLOT_HEIGHT / 2.0),
            "room for the whiskers"
        );
        for text in
            ["Throughput &amp; more", ">how<", ">ours<", ">theirs<", ">one<", ">left<", ">400<", ">–<"]
        {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn quantiles_have_their_three_marks() {
        let svg = chart(Style::Quantiles).svg();
        let count = |what: &str| svg.matches(what).count();
        assert_eq!((count("<circle"), count("<polygon")), (6, 6), "five values and the legend");
        assert!(svg.contains(">p99.9<") && svg.contains(">100<") && svg.contains(">1000<"), "decades");
        assert!(bars(&svg).is_empty());
    }

    #[test]
    fn a_chart_without_values_is_a_chart() {
        let mut empty = chart(Style::Quantiles);
        empty
            .panels
            .iter_mut()
            .flat_map(|panel| &mut panel.groups)
            .for_each(|group| group.values = vec![None, None]);
        assert!(!empty.svg().contains("NaN"));
        empty.panels.clear();
        assert!(!empty.svg().contains("NaN"));
    }
}
