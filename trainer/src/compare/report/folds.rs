//! Folds together: a method's rows on all folds of a language, one after another, as one row on the clips of all.

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
        let clips: Vec<&ClipRecord> = (1..=*of)
            .map(|number| results.clips_of(&place.language, &format!("fold {number}/{of}")))
            .collect::<Option<_>>()?;
        let whole = runs.values().filter(|folds| folds.len() == *of);
        let rows: Vec<Row> = whole
            .map(|folds| {
                let mut row = folds[&1].clone();
                row.cell.split = place.split.clone();
                for other in folds.values().skip(1) {
                    row.predictions.extend(&other.predictions);
                    row.keyword_posteriors.extend(&other.keyword_posteriors);
                    row.correct += other.correct;
                    row.clips += other.clips;
                }
                row
            })
            .collect();
        let clips = ClipRecord {
            clips_of: place.split.clone(),
            truth: clips.iter().flat_map(|fold| fold.truth.clone()).collect(),
            speakers: clips
                .iter()
                .flat_map(|fold| fold.speakers.clone())
                .collect(),
            ..clips[0].clone()
        };
        (!rows.is_empty()).then_some(Together { clips, rows })
    };
    places.iter().filter_map(together).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_known_by_name() {
        assert_eq!(fold("fold 2/4"), Some((2, 4)));
        assert_eq!(fold("test"), None);
    }
}
