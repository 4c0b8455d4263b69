//! Plots as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

/// A line with a band.
pub(super) struct Curve {
    pub(super) name: String,
    /// Drawn thicker than others.
    pub(super) bold: bool,
    pub(super) points: Vec<Point>,
}

/// Place, value, lower and upper end.
pub(super) type Point = (f64, f64, f64, f64);

/// Colours that differ also for the colour-blind (P. Tol, qualitative schemes, 2021), once around with each dash.
const COLOURS: [RGBColor; 9] = [
    RGBColor(0x44, 0x77, 0xaa),
    RGBColor(0xee, 0x66, 0x77),
    RGBColor(0x22, 0x88, 0x33),
    RGBColor(0xcc, 0xbb, 0x44),
    RGBColor(0x66, 0xcc, 0xee),
    RGBColor(0xaa, 0x33, 0x77),
    RGBColor(0x77, 0x77, 0x77),
    RGBColor(0x99, 0x77, 0x00),
    RGBColor(0x00, 0x77, 0x66),
];

fn colour(index: usize, bold: bool) -> RGBColor {
    if bold {
        BLACK
    } else {
        COLOURS[index % COLOURS.len()]
    }
}

/// Lines with bands and a legend; `logarithmic` is the horizontal axis.
pub(super) fn curves(
    curves: &[Curve],
    x: &str,
    y: &str,
    size: (u32, u32),
    logarithmic: bool,
) -> Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let range = |value: &dyn Fn(&Point) -> f64, empty: (f64, f64)| {
        points()
            .map(value)
            .fold(None, |range: Option<(f64, f64)>, v| {
                Some(range.map_or((v, v), |(low, high)| (low.min(v), high.max(v))))
            })
            .unwrap_or(empty)
    };
    let (left, right) = range(&|point| point.0, (1.0, 2.0));
    let (low, high) = (
        range(&|point| point.2, (0.0, 1.0)).0,
        range(&|point| point.3, (0.0, 1.0)).1,
    );
    let margin = 0.05 * (high - low).max(1e-6);
    let (low, high) = (low - margin, high + margin);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        if logarithmic {
            draw(
                &root,
                ((0.9 * left.max(1.0))..(1.1 * right.max(2.0))).log_scale(),
                low..high,
                curves,
                x,
                y,
            )?;
        } else {
            let right = if right > left { right } else { left + 1.0 };
            draw(&root, left..right, low..high, curves, x, y)?;
        }
        root.present()
            .map_err(|error| anyhow!("a plot could not be drawn: {error}"))?;
    }
    Ok(svg)
}

fn draw<X>(
    root: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    across: X,
    up: std::ops::Range<f64>,
    curves: &[Curve],
    x: &str,
    y: &str,
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let failed =
        |error: DrawingAreaErrorKind<std::io::Error>| anyhow!("a plot could not be drawn: {error}");
    let mut chart = ChartBuilder::on(root)
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(52)
        .right_y_label_area_size(170)
        .build_cartesian_2d(across, up)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .draw()
        .map_err(failed)?;
    for (index, curve) in curves.iter().enumerate() {
        let (colour, width) = (colour(index, curve.bold), if curve.bold { 3 } else { 1 });
        if curve.points.len() > 1 && curve.points.iter().any(|(_, _, low, high)| low < high) {
            let upper = curve.points.iter().map(|(x, _, _, high)| (*x, *high));
            let lower = curve.points.iter().rev().map(|(x, _, low, _)| (*x, *low));
            let band = Polygon::new(upper.chain(lower).collect::<Vec<_>>(), colour.mix(0.08));
            chart.draw_series([band]).map_err(failed)?;
        }
        let line = curve.points.iter().map(|(x, y, ..)| (*x, *y));
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(width)))
            .map_err(failed)?;
        if curve.points.len() < 20 {
            let dots = line.map(|point| Circle::new(point, 2 + width, colour.filled()));
            chart.draw_series(dots).map_err(failed)?;
        }
    }
    // A legend beside the plot, so that it covers nothing.
    let (width, _) = root.dim_in_pixel();
    for (index, curve) in curves.iter().enumerate() {
        let at = (width as i32 - 168, 14 + 17 * index as i32);
        let colour = colour(index, curve.bold);
        root.draw(&Rectangle::new(
            [(at.0, at.1 + 2), (at.0 + 14, at.1 + 9)],
            colour.filled(),
        ))
        .map_err(failed)?;
        let text = TextStyle::from(("sans-serif", 12).into_font()).color(&BLACK);
        root.draw_text(&curve.name, &text, (at.0 + 20, at.1))
            .map_err(failed)?;
    }
    Ok(())
}

fn tick(value: f64) -> String {
    if value.abs() >= 10_000.0 {
        format!("{:.0}k", value / 1_000.0)
    } else if value.fract().abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Shares from 0 to 1 as shades: `columns` of values, one for each of the rows called `names`.
pub(super) fn heat_map(columns: &[(String, Vec<f64>)], names: &[String]) -> Result<String> {
    const CELL: i32 = 15;
    let longest = |names: &mut dyn Iterator<Item = &String>| {
        names.map(|name| name.chars().count()).max().unwrap_or(0) as i32
    };
    let left = 12 + 7 * longest(&mut names.iter());
    let top = 12 + 7 * longest(&mut columns.iter().map(|(name, _)| name));
    let size = (
        left + CELL * columns.len() as i32 + 12,
        top + CELL * names.len() as i32 + 12,
    );
    let mut svg = String::new();
    {
        let root =
            SVGBackend::with_string(&mut svg, (size.0 as u32, size.1 as u32)).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<std::io::Error>| {
            anyhow!("a plot could not be drawn: {error}")
        };
        let text = TextStyle::from(("sans-serif", 11).into_font()).color(&BLACK);
        for (row, name) in names.iter().enumerate() {
            root.draw_text(name, &text, (4, top + CELL * row as i32 + 2))
                .map_err(failed)?;
        }
        for (column, (name, values)) in columns.iter().enumerate() {
            let x = left + CELL * column as i32;
            let style = text.transform(FontTransform::Rotate270);
            root.draw_text(name, &style, (x + 2, top - 4))
                .map_err(failed)?;
            for (row, value) in values.iter().enumerate() {
                let y = top + CELL * row as i32;
                let shade =
                    |full: f64| (255.0 - (255.0 - full) * value.clamp(0.0, 1.0).powf(0.6)) as u8;
                let colour = RGBColor(shade(8.0), shade(48.0), shade(107.0));
                root.draw(&Rectangle::new(
                    [(x, y), (x + CELL - 1, y + CELL - 1)],
                    colour.filled(),
                ))
                .map_err(failed)?;
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}
