//! All thresholds at once: what a language finds in a stream and what it falsely reports on negatives, at each of them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use plotters::prelude::*;
use serde::Serialize;
use swr_core::SAMPLE_RATE_HZ;
use swr_core::detector::{Detector, DetectorSettings};
use swr_core::matching::{Detected, Matched, match_detections};
use swr_core::model::Language;
use swr_core::package::Digest;
use swr_core::spotter::detect_in_recording;
use swr_dataset::{audio_below, poisson_interval, wilson_interval};

use super::script::TOLERANCE_SAMPLES;
use super::stream::{CONFIDENCE, Measured};
use crate::DEFAULT_STEP_FRAMES;
use crate::capture::{Recording, Source};
use crate::engine::Engine;
use crate::models::Model;

/// Posteriors that are tried for all keywords.
const THRESHOLDS: std::ops::RangeInclusive<u32> = 1..=19;
const THRESHOLD_STEP: f32 = 0.05;
/// A network with a detector for every threshold; the first one has the package's.
pub(super) struct Sweep {
    language: Language,
    engine: Engine,
    detectors: Vec<Detector>,
    thresholds: Vec<f32>,
}

/// What one threshold does.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Point {
    threshold: f32,
    found: usize,
    expected: usize,
    false_reject_rate: f64,
    false_reject_interval: (f64, f64),
    false_alarms: usize,
    false_alarms_per_hour: f64,
    false_alarms_interval: (f64, f64),
}

/// What was reported of one keyword at the package's thresholds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ByKeyword {
    keyword: String,
    threshold: f32,
    found: usize,
    expected: usize,
    false_alarms: usize,
}

/// Audio without keywords.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Negatives {
    files: usize,
    /// Files that hold the same bytes as another; they count once.
    copies: usize,
    hours: f64,
    false_alarms: usize,
    false_alarms_per_hour: f64,
    false_alarms_interval: (f64, f64),
}

/// Figures of all thresholds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Swept {
    /// The stream at the package's thresholds.
    #[serde(flatten)]
    pub(super) measured: Measured,
    /// Other audio at them.
    pub(super) negatives: Option<Negatives>,
    /// One threshold for all keywords; false alarms are those on the negatives where there are any.
    pub(super) points: Vec<Point>,
    pub(super) keywords: Vec<ByKeyword>,
}

impl Sweep {
    pub(super) fn new(model: &Model) -> anyhow::Result<Self> {
        let classes = model.language.labels.len();
        let thresholds: Vec<f32> = THRESHOLDS
            .map(|step| step as f32 * THRESHOLD_STEP)
            .collect();
        let package = &model.language.detector;
        let mut all = vec![package.clone()];
        all.extend(thresholds.iter().map(|threshold| DetectorSettings {
            thresholds: vec![*threshold; classes],
            ..package.clone()
        }));
        let detector = |settings| Detector::new(&model.language.labels, settings);
        Ok(Self {
            language: model.language.clone(),
            engine: model.engine(DEFAULT_STEP_FRAMES)?,
            detectors: all.into_iter().map(detector).collect::<Result<_, _>>()?,
            thresholds,
        })
    }

    /// Detections in a recording by every detector, as a stream of its own that a second of silence ends.
    pub(super) fn hear(&mut self, samples: &[f32]) -> anyhow::Result<Vec<Vec<Detected>>> {
        let context_frames = self.language.context_frames;
        let detectors = &mut self.detectors;
        let found = detect_in_recording(&mut self.engine, context_frames, samples, detectors)?;
        let detected = |found: Vec<_>| found.into_iter().map(Detected::from).collect();
        Ok(found.into_iter().map(detected).collect())
    }

    /// Measures a stream, and `negatives`: files, or folders with audio anywhere below.
    pub(super) fn measure(
        &mut self,
        stream: &swr_dataset::Stream,
        negatives: &[PathBuf],
        mut progress: impl FnMut(usize, usize),
    ) -> anyhow::Result<Swept> {
        let found = self.hear(&stream.samples)?;
        let matched: Vec<Matched> = found
            .iter()
            .map(|found| match_detections(&stream.events, found, TOLERANCE_SAMPLES))
            .collect();
        let mut files = Vec::new();
        for path in negatives {
            files.extend(audio_below(path)?);
        }
        ensure!(
            negatives.is_empty() || !files.is_empty(),
            "--negatives: no audio file there"
        );
        let (mut seen, mut samples, mut copies, mut unheard) = (BTreeSet::new(), 0, 0, 0);
        let mut alarms = vec![Vec::new(); self.detectors.len()];
        for (number, path) in files.iter().enumerate() {
            progress(number, files.len());
            // Files are counted, and one that cannot be heard is told: the hours are those of the others.
            let mut recording = match Recording::open(path, None) {
                Ok(recording) => recording,
                Err(error) => {
                    eprintln!("swr: {error}; left out");
                    unheard += 1;
                    continue;
                }
            };
            while let Some(notice) = recording.notice() {
                eprintln!("swr: {notice}");
            }
            let bytes: Vec<u8> = recording
                .samples()
                .iter()
                .flat_map(|s| s.to_le_bytes())
                .collect();
            if !seen.insert(Digest::of_bytes(&bytes)) {
                copies += 1;
                continue;
            }
            samples += recording.samples().len();
            let found = self.hear(recording.samples());
            let found = found.with_context(|| path.display().to_string())?;
            for (all, found) in alarms.iter_mut().zip(found) {
                all.extend(found);
            }
        }
        ensure!(
            files.is_empty() || unheard < files.len(),
            "--negatives: none of {unheard} files can be heard"
        );
        if unheard > 0 {
            eprintln!(
                "swr: {unheard} of {} files of negatives are left out",
                files.len()
            );
        }
        let hours = samples as f64 / f64::from(SAMPLE_RATE_HZ) / 3_600.0;
        let expected = stream.events.len();
        // On negatives if there are any, else on what is no keyword in the stream.
        let alarms_of = |detector: usize| match files.is_empty() {
            true => (matched[detector].false_alarms.len(), stream.hours()),
            false => (alarms[detector].len(), hours),
        };
        let point = |(at, threshold): (usize, &f32)| {
            let found = matched[at + 1].hits.len();
            let (false_alarms, hours) = alarms_of(at + 1);
            Point {
                threshold: *threshold,
                found,
                expected,
                false_reject_rate: (expected - found) as f64 / expected.max(1) as f64,
                false_reject_interval: wilson_interval(expected - found, expected),
                false_alarms,
                false_alarms_per_hour: false_alarms as f64 / hours,
                false_alarms_interval: poisson_interval(false_alarms as u64, hours, CONFIDENCE),
            }
        };
        let package = self.detectors[0].settings().thresholds.clone();
        let by_keyword = |(label, keyword): (usize, &String)| {
            let of_stream = |detection: &usize| found[0][*detection].label == label;
            let false_alarms = match files.is_empty() {
                true => matched[0]
                    .false_alarms
                    .iter()
                    .filter(|d| of_stream(d))
                    .count(),
                false => alarms[0]
                    .iter()
                    .filter(|alarm| alarm.label == label)
                    .count(),
            };
            let events = stream.events.iter().filter(|event| event.label == label);
            ByKeyword {
                keyword: keyword.clone(),
                threshold: package[label],
                found: matched[0].hits.iter().filter(|(_, d)| of_stream(d)).count(),
                expected: events.count(),
                false_alarms,
            }
        };
        let keywords = &self.language.labels[..self.language.labels.len() - 2];
        Ok(Swept {
            measured: Measured::new(
                stream.hours(),
                expected,
                matched[0].hits.len(),
                matched[0].false_alarms.len(),
            ),
            negatives: (!files.is_empty()).then(|| Negatives {
                files: files.len(),
                copies,
                hours,
                false_alarms: alarms[0].len(),
                false_alarms_per_hour: alarms[0].len() as f64 / hours,
                false_alarms_interval: poisson_interval(alarms[0].len() as u64, hours, CONFIDENCE),
            }),
            points: self.thresholds.iter().enumerate().map(point).collect(),
            keywords: keywords.iter().enumerate().map(by_keyword).collect(),
        })
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.measured)?;
        if let Some(negatives) = &self.negatives {
            let Negatives {
                files,
                copies,
                hours,
                false_alarms,
                false_alarms_per_hour,
                false_alarms_interval: (low, high),
            } = negatives;
            write!(
                f,
                "\n  negatives: {false_alarms} in {hours:.3} h of {files} files ({copies} copies), {false_alarms_per_hour:.1} per hour ({low:.1} - {high:.1})"
            )?;
        }
        write!(
            f,
            "\n\n  threshold  missed                   false alarms per hour"
        )?;
        for p in &self.points {
            let ((low, high), (least, most)) = (p.false_reject_interval, p.false_alarms_interval);
            write!(
                f,
                "\n  {:9.2}  {:5.1} % ({:5.1} - {:5.1})  {:8.1} ({least:.1} - {most:.1})",
                p.threshold,
                100.0 * p.false_reject_rate,
                100.0 * low,
                100.0 * high,
                p.false_alarms_per_hour
            )?;
        }
        Ok(())
    }
}

/// False rejects against false alarms per hour, both with their intervals, as SVG.
pub(super) fn plot(points: &[Point], title: &str) -> anyhow::Result<String> {
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| {
        anyhow::anyhow!("the plot could not be drawn: {error}")
    };
    let most = points
        .iter()
        .map(|p| p.false_alarms_interval.1)
        .fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (720, 480)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..most, 0.0..100.0)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("false alarms per hour")
            .y_desc("keywords missed, %")
            .draw()
            .map_err(failed)?;
        let place = |p: &Point| (p.false_alarms_per_hour, 100.0 * p.false_reject_rate);
        let colour = RGBColor(0x44, 0x77, 0xaa);
        for p in points {
            let ((x, y), (low, high)) = (place(p), p.false_reject_interval);
            let (left, right) = p.false_alarms_interval;
            let across = [(left, y), (right, y)];
            let up = [(x, 100.0 * low), (x, 100.0 * high)];
            for bar in [across, up] {
                let bar = LineSeries::new(bar, colour.mix(0.35));
                chart.draw_series(bar).map_err(failed)?;
            }
        }
        let line = LineSeries::new(points.iter().map(place), colour.stroke_width(2));
        chart.draw_series(line).map_err(failed)?;
        let labels = points.iter().map(|p| {
            let text = format!("{:.2}", p.threshold);
            EmptyElement::at(place(p))
                + Circle::new((0, 0), 3, colour.filled())
                + Text::new(text, (5, -12), ("sans-serif", 11))
        });
        chart.draw_series(labels).map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}
