//! Hours of audio as fast as it goes: whether memory, events and their times stay what they were in the first minutes.

use std::fmt;

use anyhow::{Context, ensure};
use serde::Serialize;
use swr_core::SAMPLE_RATE_HZ;

use super::bench::{CHUNK_SAMPLES, NO_MEMORY};
use crate::cpu::own_memory_mib;
use crate::spotter::{Event, Spotter};

/// Between two resets.
const RESET_HOURS: f64 = 1.0;
/// Of posteriors, whose running sums begin anew at other frames in every round.
const SCORE_TOLERANCE: f32 = 1e-3;
/// Of times: one frame, for the same reason.
const TIME_TOLERANCE_S: f64 = 0.0101;

/// What a soak found. A round is the audio once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Soaked {
    hours: f64,
    rounds: usize,
    events_per_round: usize,
    /// Rounds whose events, or whose scores beyond rounding, are not those of the second one.
    rounds_that_differ: usize,
    /// The largest difference between an event's time and the sample clock: the time in the second round plus whole rounds.
    largest_drift_s: f64,
    resets: usize,
    /// Resets after which the first round's events are not, to the bit, those after the first start.
    resets_that_differ: usize,
    /// Memory that the process has allocated, after a quarter of an hour and at the end.
    memory_early_mib: f64,
    memory_end_mib: f64,
}

impl Soaked {
    pub(super) fn passed(&self) -> bool {
        self.events_per_round > 0
            && self.rounds_that_differ == 0
            && self.resets_that_differ == 0
            && self.largest_drift_s < TIME_TOLERANCE_S
            && self.memory_end_mib < self.memory_early_mib + 0.5
    }
}

/// Lets `spotter` hear `audio` again and again, and begins anew every hour.
pub(super) fn soak(spotter: &mut Spotter, audio: &[f32], hours: f64) -> anyhow::Result<Soaked> {
    // Whole chunks, so that every round is cut into frames and steps alike.
    let audio = &audio[..audio.len() / CHUNK_SAMPLES * CHUNK_SAMPLES];
    let round_s = audio.len() as f64 / f64::from(SAMPLE_RATE_HZ);
    ensure!(round_s > 2.0, "the audio is shorter than two seconds");
    ensure!(
        hours >= RESET_HOURS,
        "--soak {hours}: expected at least {RESET_HOURS} hour, after which all begins anew once"
    );
    let of_hours = |hours: f64| (hours * 3_600.0 / round_s).ceil() as usize;
    let (all, between) = (of_hours(hours).max(3), of_hours(RESET_HOURS).max(3));
    let mut found = Soaked {
        hours: all as f64 * round_s / 3_600.0,
        rounds: all,
        events_per_round: 0,
        rounds_that_differ: 0,
        largest_drift_s: 0.0,
        resets: 0,
        resets_that_differ: 0,
        memory_early_mib: 0.0,
        memory_end_mib: 0.0,
    };
    let (mut first, mut second): (Vec<Event>, Vec<Event>) = (Vec::new(), Vec::new());
    let mut events = Vec::new();
    for round in 0..all {
        let since = round % between;
        if since == 0 && round > 0 {
            spotter.reset();
            found.resets += 1;
        }
        events.clear();
        for chunk in audio.chunks(CHUNK_SAMPLES) {
            spotter.push(chunk, &mut events)?;
        }
        match (round, since) {
            (0, _) => first = events.clone(),
            (1, _) => {
                found.events_per_round = events.len();
                second = events.clone();
            }
            (_, 0) => found.resets_that_differ += usize::from(events != first),
            _ => {
                // After a reset the sample clock begins anew; the second round's times are those of one round heard before.
                let shift_s = (since as f64 - 1.0) * round_s;
                let same = |(event, expected): (&Event, &Event)| {
                    event.keyword == expected.keyword
                        && (event.score - expected.score).abs() < SCORE_TOLERANCE
                };
                let alike = events.len() == second.len() && events.iter().zip(&second).all(same);
                found.rounds_that_differ += usize::from(!alike);
                for (event, expected) in events.iter().zip(&second) {
                    let drift_s = (event.time_s - expected.time_s - shift_s).abs();
                    found.largest_drift_s = found.largest_drift_s.max(drift_s);
                }
            }
        }
        if round == of_hours(0.25).min(all - 1) {
            found.memory_early_mib = own_memory_mib().context(NO_MEMORY)?;
        }
    }
    found.memory_end_mib = own_memory_mib().context(NO_MEMORY)?;
    Ok(found)
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.2} h of audio in {} rounds of {} events",
            self.hours, self.rounds, self.events_per_round
        )?;
        writeln!(
            f,
            "  rounds with other events   {}",
            self.rounds_that_differ
        )?;
        writeln!(
            f,
            "  largest drift of a time    {:.1} ms",
            1e3 * self.largest_drift_s
        )?;
        writeln!(
            f,
            "  resets                     {}, with other events after it {}",
            self.resets, self.resets_that_differ
        )?;
        write!(
            f,
            "  memory                     {:.2} MiB after a quarter of an hour, {:.2} at the end",
            self.memory_early_mib, self.memory_end_mib
        )
    }
}
