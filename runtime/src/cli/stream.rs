//! Detections and false alarms in a stream made of recordings: what `swr eval --stream` and `swr demo --data` report.

use std::fmt;

use serde::Serialize;
use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ};
use swr_dataset::{
    Clip, Detected, Matched, StreamOptions, Task, match_detections, poisson_interval,
    wilson_interval,
};

use crate::DEFAULT_STEP_FRAMES;
use crate::models::Models;
use crate::spotter::{Event, Spotter};

/// How long after a word's end its detection still counts: the posterior peaks when the word fills the average over one second.
pub(super) const TOLERANCE_SAMPLES: usize = SAMPLE_RATE_HZ as usize;

/// Confidence of all intervals.
pub(super) const CONFIDENCE: f64 = 0.95;

/// What was found in a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Measured {
    /// Length of the stream.
    pub(super) hours: f64,
    /// Keywords spoken.
    pub(super) expected: usize,
    /// Keywords found.
    pub(super) found: usize,
    /// Share found; none without keywords.
    pub(super) detection_rate: Option<f64>,
    /// Wilson interval of the share.
    pub(super) detection_interval: (f64, f64),
    /// Detections of no keyword, of another one, or of one a second time.
    pub(super) false_alarms: usize,
    /// False alarms per hour.
    pub(super) false_alarms_per_hour: f64,
    /// Exact Poisson interval of that rate.
    pub(super) false_alarms_interval: (f64, f64),
}

/// Makes a stream of `clips` and lets the language of `task` listen to it.
pub(super) fn measure(
    models: &Models,
    task: &Task,
    clips: &[Clip],
    options: &StreamOptions,
) -> anyhow::Result<Measured> {
    let stream = swr_dataset::stream(task, clips, options)?;
    let mut spotter = Spotter::new(models, &[&task.language], DEFAULT_STEP_FRAMES)?;
    let mut events = Vec::new();
    spotter.push(&stream.samples, &mut events)?;
    spotter.finish(&mut events)?;
    let detected = detected(&events, &task.labels);
    let Matched {
        hits, false_alarms, ..
    } = match_detections(&stream.events, &detected, TOLERANCE_SAMPLES);
    Ok(Measured::new(
        stream.hours(),
        stream.events.len(),
        hits.len(),
        false_alarms.len(),
    ))
}

/// `events` as the matching takes them, with labels as indexes into `labels`.
pub(super) fn detected(events: &[Event], labels: &[String]) -> Vec<Detected> {
    let detected = |event: &Event| {
        let label = labels.iter().position(|label| *label == event.keyword)?;
        let hops = (event.time_s * f64::from(SAMPLE_RATE_HZ) / HOP_SAMPLES as f64).round();
        Some(Detected {
            label,
            at_samples: hops as usize * HOP_SAMPLES,
        })
    };
    events.iter().filter_map(detected).collect()
}

impl Measured {
    pub(super) fn new(hours: f64, expected: usize, found: usize, false_alarms: usize) -> Measured {
        Measured {
            hours,
            expected,
            found,
            detection_rate: (expected > 0).then(|| found as f64 / expected as f64),
            detection_interval: wilson_interval(found, expected),
            false_alarms,
            false_alarms_per_hour: false_alarms as f64 / hours,
            false_alarms_interval: poisson_interval(false_alarms as u64, hours, CONFIDENCE),
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "  keywords found: {} of {}, {:.1} % ({:.1} - {:.1})",
            self.found,
            self.expected,
            100.0 * self.detection_rate.unwrap_or(0.0),
            100.0 * self.detection_interval.0,
            100.0 * self.detection_interval.1
        )?;
        write!(
            formatter,
            "  false alarms: {} in {:.3} h, {:.1} per hour ({:.1} - {:.1})",
            self.false_alarms,
            self.hours,
            self.false_alarms_per_hour,
            self.false_alarms_interval.0,
            self.false_alarms_interval.1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_quiet_minutes_prove_little() {
        let measured = Measured::new(1.0 / 6.0, 120, 120, 0);
        assert_eq!(measured.false_alarms_per_hour, 0.0);
        assert!(measured.false_alarms_interval.1 > 17.0, "{measured}");
        assert!(measured.detection_interval.0 < 1.0, "{measured}");
    }
}
