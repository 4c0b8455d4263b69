//! Plots as SVG.

use anyhow::{Result, anyhow};
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

/// Room for the legend beside a plot, so that it covers nothing.
const LEGEND: u32 = 170;

fn failed(error: DrawingAreaErrorKind<std::io::Error>) -> anyhow::Error {
    anyhow!("a plot could not be drawn: {error}")
}

/// Lines with bands and a legend.
pub(super) fn curves(curves: &[Curve], x: &str, y: &str, size: (u32, u32)) -> Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        let margin = 0.04 * if high > low { high - low } else { 1.0 };
        if low > high {
            (0.0, 1.0)
        } else {
            (low - margin, high + margin)
        }
    };
    let (left, right) = range(&mut points().map(|point| point.0));
    let (low, high) = range(&mut points().flat_map(|point| [point.2, point.3]));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let (area, legend) = root.split_horizontally(size.0 - LEGEND);
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d(left..right, low..high)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(0xe4, 0xe4, 0xe4))
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
                let band = upper.chain(lower).collect::<Vec<_>>();
                chart
                    .draw_series([Polygon::new(band, colour.mix(0.08))])
                    .map_err(failed)?;
            }
            let line = curve.points.iter().map(|(x, y, ..)| (*x, *y));
            let series = LineSeries::new(line.clone(), colour.stroke_width(width));
            chart.draw_series(series).map_err(failed)?;
            if curve.points.len() < 20 {
                let dots = line.map(|point| Circle::new(point, 2 + width, colour.filled()));
                chart.draw_series(dots).map_err(failed)?;
            }
            let y = 14 + 17 * index as i32;
            let key = Rectangle::new([(2, y + 2), (16, y + 9)], colour.filled());
            legend.draw(&key).map_err(failed)?;
            let text = TextStyle::from(("sans-serif", 12).into_font()).color(&BLACK);
            legend
                .draw_text(&curve.name, &text, (22, y))
                .map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
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
