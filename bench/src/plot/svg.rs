//! Shapes and text as SVG 1.1, nothing else. Lengths are pixels, y grows downwards.

use std::fmt::Write;

/// Fonts that every browser has.
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";

/// Where a text's x is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) colour: &'static str,
}

/// A drawing under way.
pub(super) struct Svg {
    out: String,
}

impl Svg {
    /// A white sheet; `title` is what screen readers say.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let (width, height) = (Number(width), Number(height));
        let mut svg = Self { out: String::new() };
        svg.push(format_args!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" "#,
                r#"role="img" font-family="{}">"#
            ),
            width, height, width, height, FONTS
        ));
        svg.push(format_args!("<title>{}</title>", escaped(title)));
        svg.push(format_args!(r##"<rect width="{width}" height="{height}" fill="#ffffff"/>"##));
        svg
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{text}").expect("strings take all");
    }

    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        let (x, y, width, height) = (Number(x), Number(y), Number(width), Number(height));
        self.push(format_args!(r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"/>"#));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), width: f64, stroke: &str) {
        let (x1, y1, x2, y2) = (Number(from.0), Number(from.1), Number(to.0), Number(to.1));
        let width = Number(width);
        self.push(format_args!(
            r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}" stroke-width="{width}"/>"#
        ));
    }

    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        let (x, y, radius) = (Number(x), Number(y), Number(radius));
        self.push(format_args!(r#"<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}"/>"#));
    }

    /// A triangle that stands on its base, its middle at the place given.
    pub(super) fn triangle(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        let (left, right) = (Number(x - radius), Number(x + radius));
        let (top, base, x) = (Number(y - radius), Number(y + radius * 0.8), Number(x));
        self.push(format_args!(
            r#"<polygon points="{left},{base} {right},{base} {x},{top}" fill="{fill}"/>"#
        ));
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, font: Font, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y, size, colour) = (Number(x), Number(y), Number(font.size), font.colour);
        let weight = if font.bold { r#" font-weight="600""# } else { "" };
        let text = escaped(text);
        self.push(format_args!(
            r#"<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}"{weight} fill="{colour}">{text}</text>"#
        ));
    }

    /// The whole file.
    pub(super) fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }
}

/// A length with at most one decimal, so that files are short and the same on every machine.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.1}", self.0);
        f.write_str(text.strip_suffix(".0").unwrap_or(&text))
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_text_is_escaped() {
        assert_eq!(
            [Number(1.0), Number(2.25), Number(-0.04)].map(|number| number.to_string()),
            ["1", "2.2", "-0"]
        );
        let mut svg = Svg::new(10.0, 20.0, "a < b & c");
        let font = Font { size: 9.0, bold: true, colour: "#000000" };
        svg.text((1.0, 2.5), Anchor::End, font, "<x>");
        let text = svg.finish();
        assert!(text.contains("<title>a &lt; b &amp; c</title>") && text.contains("&lt;x&gt;"), "{text}");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{text}");
    }
}
