//! What rows say together: accuracy with its uncertainty over speakers, differences between methods on the same clips, curves of errors.

use std::collections::BTreeMap;

use rand::RngExt;
use swr_dataset::NO_SPEAKER;

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

/// Clips whose errors go together: one speaker's. A clip without a known speaker stands for itself.
#[derive(Default)]
struct Clusters {
    /// Of speakers of keywords.
    keywords: Vec<Vec<usize>>,
    /// Of speakers of other words only, and silence.
    others: Vec<Vec<usize>>,
}

impl Clusters {
    fn of(clips: &ClipRecord) -> Self {
        let keywords = clips.labels.len().saturating_sub(2) as u32;
        let mut by_speaker: BTreeMap<(&str, usize), Vec<usize>> = BTreeMap::new();
        for (clip, speaker) in clips.speakers.iter().enumerate() {
            let alone = if speaker == NO_SPEAKER { clip } else { 0 };
            by_speaker.entry((speaker, alone)).or_default().push(clip);
        }
        let mut clusters = Self::default();
        for cluster in by_speaker.into_values() {
            let speaks = cluster.iter().any(|clip| clips.truth[*clip] < keywords);
            let stratum = if speaks {
                &mut clusters.keywords
            } else {
                &mut clusters.others
            };
            stratum.push(cluster);
        }
        clusters
    }
}

/// How many speakers of keywords there are.
pub fn keyword_speakers(clips: &ClipRecord) -> usize {
    Clusters::of(clips).keywords.len()
}

/// The mean of `values`, one per clip, with an interval by bootstrap over speakers: clips of one speaker are not independent, so speakers are drawn
/// with replacement, each with all its clips (A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8); speakers
/// of keywords and others apart (section 3.2), so that every draw has as many of both as there are.
pub fn over_speakers(values: &[f64], clips: &ClipRecord, seed: u64) -> Estimate {
    let sum = |cluster: &Vec<usize>| {
        let sum: f64 = cluster.iter().map(|clip| values[*clip]).sum();
        (sum, cluster.len())
    };
    let Clusters { keywords, others } = Clusters::of(clips);
    let strata: Vec<Vec<(f64, usize)>> = [keywords, others]
        .iter()
        .filter(|stratum| !stratum.is_empty())
        .map(|stratum| stratum.iter().map(sum).collect())
        .collect();
    let mean = |drawn: &mut dyn Iterator<Item = (f64, usize)>| {
        let (sum, clips) = drawn.fold((0.0, 0), |(a, n), (b, m)| (a + b, n + m));
        sum / clips.max(1) as f64
    };
    let mut rng = generator(seed, &[13]);
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let mut drawn = strata.iter().flat_map(|stratum| {
                let draw = |_| stratum[rng.random_range(0..stratum.len())];
                (0..stratum.len()).map(draw).collect::<Vec<_>>()
            });
            mean(&mut drawn)
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    let at = |share: f64| draws[((DRAWS - 1) as f64 * share).round() as usize];
    Estimate {
        value: mean(&mut strata.iter().flatten().copied()),
        interval: (at(0.025), at(0.975)),
    }
}

/// How much more of the same clips `a` gets right than `b`, and how many seeds that both have are averaged first; nothing if there is none.
pub fn ahead(a: &[&Row], b: &[&Row], clips: &ClipRecord) -> Option<(Estimate, usize)> {
    let of_seed = |seed| b.iter().find(|row| row.cell.seed == seed);
    let pairs = a
        .iter()
        .filter_map(|row| Some((*row, *of_seed(row.cell.seed)?)));
    let (a, b): (Vec<&Row>, Vec<&Row>) = pairs.unzip();
    let pairs = correct(&a, clips).into_iter().zip(correct(&b, clips));
    let difference: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
    (!a.is_empty()).then(|| (over_speakers(&difference, clips, 1), a.len()))
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

/// Weights that two rows both change as a share of those that at least one does (Jaccard).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overlap {
    /// What is found.
    pub found: f64,
    /// What would be if as many were drawn at random.
    pub by_chance: f64,
}

/// The overlap of two rows' changed bits, of the weights that `counts` alone.
pub fn overlap(a: &str, b: &str, counts: &[bool]) -> Overlap {
    let bits = |digits: &str| -> Vec<bool> {
        let digits = digits.chars().map(|digit| digit.to_digit(16).unwrap_or(0));
        let bits = digits.flat_map(|digit| (0..4).map(move |i| digit & (8 >> i) != 0));
        let counted = bits.zip(counts).filter(|(_, counts)| **counts);
        counted.map(|(bit, _)| bit).collect()
    };
    let (a, b) = (bits(a), bits(b));
    let count = |bits: &[bool]| bits.iter().filter(|bit| **bit).count() as f64;
    let both = a.iter().zip(&b).filter(|(a, b)| **a && **b).count() as f64;
    let jaccard = |both: f64| both / (count(&a) + count(&b) - both).max(1.0);
    Overlap {
        found: jaccard(both),
        by_chance: jaccard(count(&a) * count(&b) / (a.len().max(1) as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Cell;
    use super::*;
    use crate::baselines::Method;
    use swr_core::package::Counts;

    /// Clips of one keyword, then of unknown words.
    fn clips(keyword: Vec<String>, unknown: Vec<String>) -> ClipRecord {
        ClipRecord {
            language: "xx".into(),
            clips_of: "test".into(),
            labels: ["a", "_unknown_", "_silence_"].map(String::from).into(),
            truth: [vec![0; keyword.len()], vec![1; unknown.len()]].concat(),
            speakers: [keyword, unknown].concat(),
            synthetic: false,
        }
    }

    #[test]
    fn speakers_not_clips_are_what_is_uncertain() {
        // Two speakers, one always right, one never: clips as independent would give a narrow interval.
        let values: Vec<f64> = (0..1_000).map(|clip| f64::from(clip % 2)).collect();
        let named = |name: &dyn Fn(usize) -> String| clips((0..1_000).map(name).collect(), vec![]);
        let two = named(&|clip| (clip % 2).to_string());
        let found = over_speakers(&values, &two, 1);
        assert_eq!((found.value, found.interval), (0.5, (0.0, 1.0)));
        for many in [
            named(&|clip| clip.to_string()),
            named(&|_| NO_SPEAKER.into()),
        ] {
            let found = over_speakers(&values, &many, 1);
            assert!(
                (found.interval.0 - 0.469).abs() < 0.006
                    && (found.interval.1 - 0.531).abs() < 0.006,
                "{found:?}"
            );
        }
    }

    #[test]
    fn every_draw_has_as_many_keyword_speakers_as_there_are() {
        // Keywords always right, other words never: how many are drawn of either is not what is uncertain.
        let keyword = (0..80).map(|clip| (clip % 4).to_string()).collect();
        let unknown = (0..20).map(|clip| format!("u{clip}")).collect();
        let clips = clips(keyword, unknown);
        let values: Vec<f64> = (0..100)
            .map(|clip| f64::from(u8::from(clip < 80)))
            .collect();
        let found = over_speakers(&values, &clips, 1);
        assert_eq!((found.value, found.interval), (0.8, (0.8, 0.8)));
        assert_eq!(keyword_speakers(&clips), 4);
    }

    /// A row of a seed.
    fn row(seed: u64, predictions: Vec<u32>) -> Row {
        Row {
            cell: Cell {
                language: "xx".into(),
                method: Method::Swr,
                budget: "10%".parse().unwrap(),
                seed,
                tau: "1".into(),
                split: "test".into(),
                clips_per_word: None,
            },
            run: String::new(),
            settings: String::new(),
            allowed: 0,
            used: 0,
            file_bytes: 0,
            changed: Counts::default(),
            changed_by_tensor: BTreeMap::new(),
            correct: 0,
            clips: predictions.len(),
            predictions,
            keyword_posteriors: Vec::new(),
            heard: None,
            seconds: 0.0,
            changed_bits: String::new(),
            curve: Vec::new(),
            gates: Vec::new(),
        }
    }

    #[test]
    fn methods_are_told_apart_by_the_seeds_that_both_have() {
        let clips = clips(vec!["s".into(); 2], vec!["t".into(); 2]);
        let half = |seed| row(seed, vec![0, 0, 2, 2]);
        let all = |seed| row(seed, vec![0, 0, 1, 1]);
        // The third seed, which only one has, would lower the difference.
        let (a, b) = ([all(1), half(2), half(3)], [half(2), half(1)]);
        let (a, b): (Vec<&Row>, Vec<&Row>) = (a.iter().collect(), b.iter().collect());
        let (found, seeds) = ahead(&a, &b, &clips).unwrap();
        assert_eq!((found.value, seeds), (0.25, 2));
        assert_eq!(ahead(&b, &a, &clips).unwrap().0.value, -0.25);
        assert!(ahead(&a[2..], &b, &clips).is_none());
    }

    #[test]
    fn overlap_is_of_the_bits_that_count() {
        let of = |a, b| overlap(a, b, &[true; 8]);
        assert_eq!(of("f0", "f0").found, 1.0);
        assert_eq!(of("f0", "0f").found, 0.0);
        assert_eq!(of("c0", "60").found, 1.0 / 3.0);
        assert_eq!(of("f0", "f0").by_chance, 2.0 / 6.0);
        let first = [true, true, true, true, false, false, false, false];
        assert_eq!(overlap("cf", "cf", &first).by_chance, 1.0 / 3.0);
        assert_eq!(overlap("8f", "c0", &first).found, 0.5);
        assert_eq!(overlap("", "", &[]).found, 0.0);
    }
}
