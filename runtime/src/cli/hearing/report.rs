//! What was measured of a language's hearing, for people: lines of text, and a plot.

use std::fmt;

use plotters::prelude::*;
use swr_dataset::poisson_interval;

use super::{AtRate, ByKeyword, CONFIDENCE, Hearing, MadeSounds, Point, Quiet, RATES};

/// Events that are named where nothing should be heard.
const NAMED: usize = 5;

impl fmt::Display for Hearing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.measured)?;
        if let Some(delay) = self.delay {
            write!(
                f,
                "\n  delay after the word: {:.0} ms, 95 % within {:.0} ms",
                delay.median_ms, delay.late_ms
            )?;
        }
        if let Some(sentences) = &self.sentences {
            write!(f, "\nin sentences\n{sentences}")?;
        }
        for (what, quiet) in [
            ("running speech", &self.negatives),
            ("sound and music", &self.sounds),
        ] {
            if let Some(quiet) = quiet {
                write!(f, "\n{what}\n  {quiet}")?;
            }
        }
        if !self.made.is_empty() {
            write!(f, "\nmade in code")?;
        }
        for made in &self.made {
            write!(f, "\n  {made}")?;
        }
        if !self.levels.is_empty() {
            write!(f, "\nlevel")?;
        }
        let all = self.measured.expected;
        for level in &self.levels {
            let bang = if level.bang { ", after a bang" } else { "" };
            write!(
                f,
                "\n  {:4} dB{bang}: {} of {all} keywords found, {} false alarms",
                level.level_db, level.found, level.false_accepts
            )?;
        }
        write!(
            f,
            "\nby keyword: words found, false alarms, threshold, delay; words found where it alone keeps "
        )?;
        write!(
            f,
            "{} false alarms an hour",
            RATES.map(|r| r.to_string()).join(", ")
        )?;
        for keyword in &self.keywords {
            write!(f, "\n  {keyword}")?;
        }
        write!(f, "\nwith all thresholds moved together")?;
        if let Some(quiet) = &self.negatives {
            let most = poisson_interval(0, quiet.hours, CONFIDENCE).1;
            write!(
                f,
                " (by these hours themselves: without any false alarm they leave {most:.0} an hour possible)"
            )?;
        }
        for at_rate in &self.at_rates {
            write!(f, "\n  {at_rate}")?;
        }
        write!(
            f,
            "\n\n   moved  missed                   false alarms per hour"
        )?;
        // Every other one: the rest is in --json.
        for p in self.points.iter().step_by(2) {
            let missed = |share: f64| 100.0 * (1.0 - share);
            let (low, high) = p.found_interval;
            let (least, most) = p.false_accepts_interval;
            write!(
                f,
                "\n  {:6.2}  {:5.1} % ({:5.1} - {:5.1})  {:8.1} ({least:.1} - {most:.1})",
                p.shift,
                missed(p.found as f64 / p.expected.max(1) as f64),
                missed(high),
                missed(low),
                p.false_accepts_per_hour
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.false_accepts_interval;
        write!(
            f,
            "{} false alarms in {:.3} h of {} files ({} copies), {:.1} per hour ({low:.1} - {high:.1})",
            self.false_accepts, self.hours, self.files, self.copies, self.false_accepts_per_hour
        )?;
        if !self.heard.is_empty() {
            write!(
                f,
                "\n  listen to the surest; where the word is really said, it is no false alarm:"
            )?;
        }
        for accept in self.heard.iter().take(NAMED) {
            write!(
                f,
                "\n    {} at {:.2} s: \"{}\" {:.2}",
                accept.file.display(),
                accept.time_s,
                accept.keyword,
                accept.score
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for MadeSounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events in {} {}, {:.2} h",
            self.heard.len(),
            self.sounds,
            self.kind,
            self.hours
        )?;
        for (index, (sound, keyword, score)) in self.heard.iter().take(NAMED).enumerate() {
            let before = if index == 0 { ": " } else { "; " };
            write!(f, "{before}{sound} is \"{keyword}\" {score:.2}")?;
        }
        if self.heard.len() > NAMED {
            write!(f, "; and {} more", self.heard.len() - NAMED)?;
        }
        Ok(())
    }
}

impl fmt::Display for ByKeyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.found_interval;
        write!(
            f,
            "{:3} of {:<3} ({:3.0} - {:3.0} %) {:3}  {:<7}",
            self.found,
            self.expected,
            100.0 * low,
            100.0 * high,
            self.false_accepts,
            self.threshold
        )?;
        match self.delay {
            Some(delay) => write!(f, " {:4.0} ms ", delay.median_ms)?,
            None => write!(f, "    -    ")?,
        }
        for at_rate in &self.at_rates {
            match at_rate.found {
                Some(found) => write!(f, " {found:3}")?,
                None => write!(f, "   -")?,
            }
        }
        write!(f, "  {}", self.keyword)
    }
}

impl fmt::Display for AtRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {:4} an hour: ", self.false_accepts_per_hour)?;
        let Some(p) = &self.point else {
            return write!(f, "no thresholds keep it");
        };
        let percent = |found: usize, all: usize| 100.0 * found as f64 / all.max(1) as f64;
        let (low, high) = p.found_interval;
        write!(
            f,
            "{:.1} % found ({:.1} - {:.1})",
            percent(p.found, p.expected),
            100.0 * low,
            100.0 * high
        )?;
        match p.found_in_sentences {
            Some((found, all)) => write!(f, ", {:.1} % in sentences", percent(found, all)),
            None => Ok(()),
        }
    }
}

/// Least rate that a plot shows.
const LEAST_PER_HOUR: f64 = 0.5;

/// Words missed against false accepts an hour, both with their intervals, as SVG; one curve for each language.
pub(in super::super) fn plot(curves: &[(&str, &[Point])], title: &str) -> anyhow::Result<String> {
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| {
        anyhow::anyhow!("the plot could not be drawn: {error}")
    };
    let all = || curves.iter().flat_map(|(_, points)| *points);
    let most = all().map(|p| p.false_accepts_per_hour).fold(10.0, f64::max);
    let place = |p: &Point| {
        let missed = 1.0 - p.found as f64 / p.expected.max(1) as f64;
        (p.false_accepts_per_hour.max(LEAST_PER_HOUR), 100.0 * missed)
    };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (720, 480)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d((LEAST_PER_HOUR..2.0 * most).log_scale(), 0.0..100.0)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("false alarms per hour")
            .y_desc("keywords missed, %")
            .draw()
            .map_err(failed)?;
        for (index, (name, points)) in curves.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            for p in *points {
                let ((x, y), (low, high)) = (place(p), p.found_interval);
                let (left, right) = p.false_accepts_interval;
                let across = [(left.max(LEAST_PER_HOUR), y), (right.min(2.0 * most), y)];
                let up = [(x, 100.0 * (1.0 - high)), (x, 100.0 * (1.0 - low))];
                for bar in [across, up] {
                    let bar = LineSeries::new(bar, colour.mix(0.25));
                    chart.draw_series(bar).map_err(failed)?;
                }
            }
            let line = LineSeries::new(points.iter().map(place), colour.stroke_width(2));
            let line = chart.draw_series(line).map_err(failed)?;
            line.label(*name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
            });
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}
