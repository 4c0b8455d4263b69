//! Plots as SVG.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
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

/// How values lie along an axis: where each is drawn, and which are named (those that plotters finds, where there are none).
pub(super) struct Scale {
    place: fn(f64) -> f64,
    ticks: &'static [f64],
}

pub(super) const LINEAR: Scale = Scale {
    place: |value| value,
    ticks: &[],
};

/// Per cent, by orders of magnitude, from a tenth of one on.
pub(super) const PER_CENT: Scale = Scale {
    place: |value| value.max(0.1).log10(),
    ticks: &[
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0,
    ],
};

/// Per cent that are right, by orders of magnitude of what is wrong, so that 90 and 95 are as far apart as 80 and 90.
pub(super) const ACCURACY: Scale = Scale {
    place: |value| -(100.0 - value).max(0.1).log10(),
    ticks: &[
        0.0, 20.0, 40.0, 60.0, 70.0, 80.0, 85.0, 90.0, 93.0, 95.0, 96.0, 97.0, 98.0, 99.0, 99.5,
    ],
};

impl Scale {
    fn between(&self, low: f64, high: f64) -> Placed {
        let places = RangedCoordf64::from(low..high);
        let ticks = if self.ticks.is_empty() {
            let found = places.key_points(8);
            found.into_iter().map(|place| (place, place)).collect()
        } else {
            let all = self.ticks.iter().map(|&value| ((self.place)(value), value));
            all.filter(|(place, _)| (low..high).contains(place))
                .collect()
        };
        Placed { places, ticks }
    }
}

/// An axis of places, with those that are named and the values there. (plotters' own `with_key_points` has no labels.)
struct Placed {
    places: RangedCoordf64,
    ticks: Vec<(f64, f64)>,
}

impl Ranged for Placed {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        self.places.map(place, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|tick| tick.0).collect()
    }

    fn range(&self) -> Range<f64> {
        self.places.range()
    }
}

impl ValueFormatter<f64> for Placed {
    fn format(place: &f64) -> String {
        rounded(*place)
    }

    fn format_ext(&self, place: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.0 == *place);
        tick.map_or(String::new(), |tick| rounded(tick.1))
    }
}

/// What an axis says and how values lie along it.
pub(super) type Axis<'a> = (&'a str, Scale);

/// Colours that differ also for the colour-blind (P. Tol, qualitative schemes, 2021), once around with each marker.
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
const LEGEND: u32 = 190;

/// Height of a line in the legend.
const LINE: i32 = 17;

fn failed(error: DrawingAreaErrorKind<std::io::Error>) -> anyhow::Error {
    anyhow!("a plot could not be drawn: {error}")
}

/// Lines with bands and a legend.
pub(super) fn curves(curves: &[Curve], x: Axis, y: Axis, size: (u32, u32)) -> Result<String> {
    let ((x, across), (y, up)) = (x, y);
    let size = (size.0, size.1.max(20 + LINE as u32 * curves.len() as u32));
    let placed: Vec<Vec<Point>> = curves
        .iter()
        .map(|curve| {
            let place = |&(x, value, low, high): &Point| {
                let up = |value| (up.place)(value);
                ((across.place)(x), up(value), up(low), up(high))
            };
            curve.points.iter().map(place).collect()
        })
        .collect();
    let points = || placed.iter().flatten();
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
            .build_cartesian_2d(across.between(left, right), up.between(low, high))
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(0xe4, 0xe4, 0xe4))
            .x_desc(x)
            .y_desc(y)
            .draw()
            .map_err(failed)?;
        for (index, (curve, points)) in curves.iter().zip(&placed).enumerate() {
            let (colour, width) = (colour(index, curve.bold), if curve.bold { 3 } else { 1 });
            if points.len() > 1 && points.iter().any(|(_, _, low, high)| low < high) {
                let upper = points.iter().map(|(x, _, _, high)| (*x, *high));
                let lower = points.iter().rev().map(|(x, _, low, _)| (*x, *low));
                let band = upper.chain(lower).collect::<Vec<_>>();
                chart
                    .draw_series([Polygon::new(band, colour.mix(0.08))])
                    .map_err(failed)?;
            }
            if let [(x, _, low, high)] = points[..] {
                let bar = LineSeries::new([(x, low), (x, high)], colour.mix(0.5));
                chart.draw_series(bar).map_err(failed)?;
            }
            let line = points.iter().map(|(x, y, ..)| (*x, *y));
            let series = LineSeries::new(line.clone(), colour.stroke_width(width));
            chart.draw_series(series).map_err(failed)?;
            // Dots, rings, then crosses: on every point, or on some where there are many.
            let marked = line.step_by(points.len().div_ceil(10).max(1));
            let y = 14 + LINE * index as i32;
            let (size, key) = (2 + width, (9, y + 7));
            match index / COLOURS.len() {
                0 => {
                    let dot = |place| Circle::new(place, size, colour.filled());
                    chart.draw_series(marked.map(dot)).map_err(failed)?;
                    legend.draw(&Circle::new(key, 4, colour.filled()))
                }
                1 => {
                    let ring = |place| Circle::new(place, size + 1, colour.stroke_width(2));
                    chart.draw_series(marked.map(ring)).map_err(failed)?;
                    legend.draw(&Circle::new(key, 4, colour.stroke_width(2)))
                }
                _ => {
                    let cross = |place| Cross::new(place, size + 1, colour.stroke_width(2));
                    chart.draw_series(marked.map(cross)).map_err(failed)?;
                    legend.draw(&Cross::new(key, 4, colour.stroke_width(2)))
                }
            }
            .map_err(failed)?;
            let text = TextStyle::from(("sans-serif", 12).into_font()).color(&BLACK);
            legend
                .draw_text(&curve.name, &text, (22, y))
                .map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn rounded(value: f64) -> String {
    if value.abs() >= 10_000.0 {
        format!("{:.0}k", value / 1_000.0)
    } else if value.fract().abs() < 1e-9 {
        format!("{value:.0}")
    } else if (10.0 * value).fract().abs() < 1e-9 {
        format!("{value:.1}")
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
