//! Folds together: a method's rows on all folds of a language, one after another, as one row on the clips of all.

use std::collections::BTreeMap;

use super::super::row::{Cell, ClipRecord, Results, Row};

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

/// What can be put together, by language, width, number of folds and training clips.
pub(super) fn together(results: &Results) -> Vec<Together> {
    type Runs<'a> = BTreeMap<usize, &'a Row>;
    let mut all: BTreeMap<(String, String, usize, Option<usize>), BTreeMap<String, Runs>> =
        BTreeMap::new();
    for row in &results.rows {
        if let Some((number, of)) = fold(&row.cell.split) {
            let Cell {
                language,
                tau,
                clips_per_word,
                ..
            } = row.cell.clone();
            // The same but for the fold.
            let run = Cell {
                split: String::new(),
                ..row.cell.clone()
            };
            let place = all.entry((language, tau, of, clips_per_word)).or_default();
            place.entry(run.name()).or_default().insert(number, row);
        }
    }
    let place = |((language, _, of, _), runs): ((String, String, usize, Option<usize>), _)| {
        let runs: BTreeMap<String, Runs> = runs;
        let split = format!("all {of} folds");
        let folds: Vec<&ClipRecord> = (1..=of)
            .map(|number| results.clips_of(&language, &format!("fold {number}/{of}")))
            .collect::<Option<_>>()?;
        let whole = runs.values().filter(|folds| folds.len() == of);
        let rows: Vec<Row> = whole
            .map(|folds| {
                let first = folds[&1];
                let mut row = first.clone();
                row.cell.split = split.clone();
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
            clips_of: split.clone(),
            truth: folds.iter().flat_map(|f| f.truth.clone()).collect(),
            speakers: folds.iter().flat_map(|f| f.speakers.clone()).collect(),
            ..folds[0].clone()
        };
        (!rows.is_empty()).then_some(Together { clips, rows })
    };
    all.into_iter().filter_map(place).collect()
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
