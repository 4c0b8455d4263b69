//! Folds together: a method's rows on all folds of a language, one after another, as one row on the clips of all. Keywords are divided among the folds
//! by speaker; unknown words and silence are the same clips in all of them, of which each counts in one fold, by turns.

use std::collections::BTreeMap;

use super::super::row::{Cell, ClipRecord, Results, Row};
use super::Place;

/// The folds of a language that are all there for some methods.
pub(super) struct Together {
    pub(super) clips: ClipRecord,
    pub(super) rows: Vec<Row>,
}

/// `fold 2/4` as (2, 4).
fn fold(split: &str) -> Option<(usize, usize)> {
    let (number, of) = split.strip_prefix("fold ")?.split_once('/')?;
    Some((number.parse().ok()?, of.parse().ok()?))
}

/// Whether a place is a single fold.
pub(super) fn is_one(place: &Place) -> bool {
    fold(&place.split).is_some()
}

/// The clips of a fold that count there: its keywords, and of the others every `of`-th.
fn counted(clips: &ClipRecord, (number, of): (usize, usize)) -> Vec<usize> {
    let keywords = clips.labels.len().saturating_sub(2) as u32;
    let mut others = 0;
    let counts = |clip: &usize| {
        let keyword = clips.truth[*clip] < keywords;
        others += usize::from(!keyword);
        keyword || others % of == number % of
    };
    (0..clips.truth.len()).filter(counts).collect()
}

/// The rows of one run's folds, by the fold's number.
type Folds<'a> = BTreeMap<usize, &'a Row>;

/// What can be put together.
pub(super) fn together(results: &Results) -> Vec<Together> {
    let mut places: BTreeMap<(Place, usize), BTreeMap<String, Folds>> = BTreeMap::new();
    for row in &results.rows {
        if let Some((number, of)) = fold(&row.cell.split) {
            // The same but for the fold.
            let run = Cell {
                split: format!("all {of} folds"),
                ..row.cell.clone()
            };
            let place = Place {
                split: run.split.clone(),
                ..Place::of(row)
            };
            let runs = places.entry((place, of)).or_default();
            runs.entry(run.name()).or_default().insert(number, row);
        }
    }
    let together = |((place, of), runs): (&(Place, usize), &BTreeMap<String, Folds>)| {
        let folds: Vec<&ClipRecord> = (1..=*of)
            .map(|number| results.clips_of(&place.language, &format!("fold {number}/{of}")))
            .collect::<Option<_>>()?;
        let places: Vec<(usize, usize)> = folds
            .iter()
            .enumerate()
            .flat_map(|(fold, clips)| {
                let counted = counted(clips, (fold + 1, *of));
                counted.into_iter().map(move |clip| (fold, clip))
            })
            .collect();
        let clips = ClipRecord {
            clips_of: place.split.clone(),
            truth: places
                .iter()
                .map(|(f, clip)| folds[*f].truth[*clip])
                .collect(),
            speakers: places
                .iter()
                .map(|(f, clip)| folds[*f].speakers[*clip].clone())
                .collect(),
            ..folds[0].clone()
        };
        let whole = runs.values().filter(|folds| folds.len() == *of);
        let row = |folds: &Folds| {
            let of = |fold: &usize| folds[&(fold + 1)];
            let predictions: Vec<u32> = places
                .iter()
                .map(|(f, clip)| of(f).predictions[*clip])
                .collect();
            let mut row = folds[&1].clone();
            row.cell.split = place.split.clone();
            row.keyword_posteriors = places
                .iter()
                .map(|(f, clip)| of(f).keyword_posteriors[*clip])
                .collect();
            row.correct = predictions
                .iter()
                .zip(&clips.truth)
                .filter(|(a, b)| a == b)
                .count();
            row.clips = places.len();
            row.predictions = predictions;
            row
        };
        let rows: Vec<Row> = whole.map(row).collect();
        (!rows.is_empty()).then_some(Together { clips, rows })
    };
    places.iter().filter_map(together).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use swr_dataset::NO_SPEAKER;

    #[test]
    fn folds_are_known_by_name() {
        assert_eq!(fold("fold 2/4"), Some((2, 4)));
        assert_eq!(fold("test"), None);
    }

    #[test]
    fn clips_that_every_fold_has_count_once() {
        let clips = ClipRecord {
            language: "xx".into(),
            clips_of: "fold 1/4".into(),
            labels: ["a", "_unknown_", "_silence_"].map(String::from).into(),
            truth: [vec![0; 3], vec![1; 6], vec![2; 5]].concat(),
            speakers: vec![NO_SPEAKER.into(); 14],
            synthetic: false,
        };
        let mut times = [0; 14];
        for number in 1..=4 {
            for clip in counted(&clips, (number, 4)) {
                times[clip] += 1;
            }
        }
        assert_eq!(times[..3], [4; 3], "keywords are other ones in every fold");
        assert_eq!(times[3..], [1; 11]);
    }
}
