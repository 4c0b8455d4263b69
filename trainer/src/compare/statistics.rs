//! What rows say together: accuracy with its uncertainty over speakers, differences between methods on the same clips, curves of errors.

use std::collections::BTreeMap;

use rand::RngExt;

use super::row::{ClipRecord, Row};
use crate::random::generator;

/// Draws of a bootstrap.
const DRAWS: usize = 10_000;

/// A value and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value on all clips.
    pub value: f64,
    /// Ends of the interval: quantiles 2.5 and 97.5 % of the bootstrap.
    pub interval: (f64, f64),
    /// Share of draws above 0.
    pub above_zero: f64,
}

/// Share of right answers of every clip, averaged over rows, which differ by seed.
pub fn correct(rows: &[&Row], clips: &ClipRecord) -> Vec<f64> {
    let mut share = vec![0.0; clips.truth.len()];
    for row in rows {
        for ((share, truth), found) in share.iter_mut().zip(&clips.truth).zip(&row.predictions) {
            *share += f64::from(u8::from(truth == found)) / rows.len() as f64;
        }
    }
    share
}

/// The mean of `values`, one per clip, with an interval by bootstrap over speakers: clips of one speaker are not independent, so speakers are drawn
/// with replacement, each with all its clips (A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
pub fn over_speakers(values: &[f64], speakers: &[String], seed: u64) -> Estimate {
    let mut by_speaker: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for (value, speaker) in values.iter().zip(speakers) {
        let (sum, clips) = by_speaker.entry(speaker).or_default();
        *sum += value;
        *clips += 1;
    }
    let sums: Vec<(f64, usize)> = by_speaker.into_values().collect();
    let mean = |drawn: &mut dyn Iterator<Item = (f64, usize)>| {
        let (sum, clips) = drawn.fold((0.0, 0), |(a, n), (b, m)| (a + b, n + m));
        sum / clips.max(1) as f64
    };
    let mut rng = generator(seed, &[13]);
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| mean(&mut (0..sums.len()).map(|_| sums[rng.random_range(0..sums.len())])))
        .collect();
    draws.sort_by(f64::total_cmp);
    let at = |share: f64| draws[((DRAWS - 1) as f64 * share).round() as usize];
    Estimate {
        value: mean(&mut sums.iter().copied()),
        interval: (at(0.025), at(0.975)),
        above_zero: draws.iter().filter(|draw| **draw > 0.0).count() as f64 / DRAWS as f64,
    }
}

/// How much more of the same clips `a` gets right than `b`, seeds averaged first.
pub fn ahead(a: &[&Row], b: &[&Row], clips: &ClipRecord) -> Estimate {
    let (a, b) = (correct(a, clips), correct(b, clips));
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    over_speakers(&difference, &clips.speakers, 1)
}

/// One point of a curve of detection errors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorRates {
    /// Share of keyword clips that are not detected as what they are.
    pub missed: f64,
    /// Share of other clips that are detected as some keyword.
    pub false_accepts: f64,
}

/// Error rates at thresholds on the likeliest keyword's posterior, from 0 to 1 in steps of a hundredth, averaged over rows.
pub fn error_rates(rows: &[&Row], clips: &ClipRecord) -> Vec<ErrorRates> {
    let keywords = clips.labels.len() as u32 - 2;
    let at = |threshold: u16| {
        let (mut missed, mut words, mut accepted, mut others) = (0usize, 0usize, 0usize, 0usize);
        for row in rows {
            let found = row
                .predictions
                .iter()
                .zip(&row.keyword_posteriors)
                .zip(&clips.truth);
            for ((label, posterior), truth) in found {
                let detected = *label < keywords && *posterior >= threshold;
                if *truth < keywords {
                    words += 1;
                    missed += usize::from(!(detected && label == truth));
                } else {
                    others += 1;
                    accepted += usize::from(detected);
                }
            }
        }
        ErrorRates {
            missed: missed as f64 / words.max(1) as f64,
            false_accepts: accepted as f64 / others.max(1) as f64,
        }
    };
    (0..=100).map(|hundredth| at(hundredth * 10)).collect()
}

/// Units that two rows both change as a share of those that at least one does (Jaccard), from their changed bits.
pub fn overlap(a: &str, b: &str) -> f64 {
    let digits = |bits: &str| {
        bits.chars()
            .map(|digit| digit.to_digit(16).unwrap_or(0))
            .collect::<Vec<u32>>()
    };
    let (mut both, mut any) = (0, 0);
    for (a, b) in digits(a).into_iter().zip(digits(b)) {
        both += (a & b).count_ones();
        any += (a | b).count_ones();
    }
    f64::from(both) / f64::from(any.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speakers_not_clips_are_what_is_uncertain() {
        // Two speakers, one always right, one never: clips as independent would give a narrow interval.
        let values: Vec<f64> = (0..1_000).map(|clip| f64::from(clip % 2)).collect();
        let two: Vec<String> = (0..1_000).map(|clip| (clip % 2).to_string()).collect();
        let found = over_speakers(&values, &two, 1);
        assert_eq!((found.value, found.interval), (0.5, (0.0, 1.0)));
        let many: Vec<String> = (0..1_000).map(|clip| clip.to_string()).collect();
        let found = over_speakers(&values, &many, 1);
        assert!(
            (found.interval.0 - 0.469).abs() < 0.006 && (found.interval.1 - 0.531).abs() < 0.006,
            "{found:?}"
        );
    }

    #[test]
    fn overlap_is_of_bits() {
        assert_eq!(overlap("f0", "f0"), 1.0);
        assert_eq!(overlap("f0", "0f"), 0.0);
        assert_eq!(overlap("c0", "60"), 1.0 / 3.0);
        assert_eq!(overlap("", ""), 0.0);
    }
}
