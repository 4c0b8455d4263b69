//! Which weights change: a map of the network, and what languages have in common.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use swr_core::package::{Group, Tensors};

use super::super::row::Row;
use super::super::statistics::{Overlap, overlap};
use super::plots::heat_map;
use super::{Place, Seeds, heading, mean};
use crate::baselines::Method;

/// The tensors of a base that a row's bits tell of, with their numbers of weights.
fn tensors(base: &Tensors) -> impl Iterator<Item = (&String, usize)> {
    base.iter()
        .filter(|(name, _)| Group::of(name) != Group::Classifier)
        .map(|(name, tensor)| (name, tensor.data.len()))
}

/// Whether a row is of this base, not of another width.
pub(super) fn is_of(row: &Row, base: &Tensors) -> bool {
    let weights: usize = tensors(base).map(|(_, weights)| weights).sum();
    row.changed_bits.len() == weights.div_ceil(4)
}

/// Of every tensor, the share of weights that change, mean over rows.
fn shares(rows: &[&Row], base: &Tensors) -> Vec<f64> {
    let share = |(name, weights): (&String, usize)| {
        let changed = rows.iter();
        let changed = changed.map(|row| row.changed_by_tensor.get(name).copied().unwrap_or(0));
        mean(changed.map(|changed| changed as f64)) / weights as f64
    };
    tensors(base).map(share).collect()
}

fn map(columns: &[(String, Vec<f64>)], base: &Tensors) -> Result<String> {
    let names = tensors(base).map(|(name, _)| name.trim_end_matches(".weight").to_string());
    Ok(format!(
        "<details><summary><b>Which weights change: share of every tensor, mean over seeds</b></summary>{}</details>",
        heat_map(columns, &names.collect::<Vec<_>>())?
    ))
}

/// The map of one place: a column for every method and budget.
pub(super) fn by_method(methods: &Seeds, base: &Tensors) -> Result<String> {
    let columns: Vec<(String, Vec<f64>)> = methods
        .iter()
        .filter(|((_, method), rows)| method.recipe().is_budgeted() && is_of(rows[0], base))
        .map(|((budget, method), rows)| (format!("{} {budget}", method.name()), shares(rows, base)))
        .collect();
    if columns.is_empty() {
        return Ok(String::new());
    }
    map(&columns, base)
}

/// What SWR changes for each language, beside each other, and how much of that they have in common.
pub(super) fn by_language(places: &BTreeMap<Place, Seeds>, base: &Tensors) -> Result<String> {
    let mut by_budget: BTreeMap<&String, BTreeMap<&String, Vec<&Row>>> = BTreeMap::new();
    for (place, methods) in places
        .iter()
        .filter(|(place, _)| place.clips_per_word.is_none() && place.split == "test")
    {
        for ((budget, method), rows) in methods {
            if *method == Method::Swr && is_of(rows[0], base) {
                let languages = by_budget.entry(budget).or_default();
                languages.entry(&place.language).or_default().extend(rows);
            }
        }
    }
    by_budget.retain(|_, languages| languages.len() > 1);
    if by_budget.is_empty() {
        return Ok(String::new());
    }
    let convolutions: Vec<bool> = tensors(base)
        .flat_map(|(name, weights)| vec![Group::of(name) == Group::Convolution; weights])
        .collect();
    let mut html = heading("What languages have in common");
    html += "<p>Convolution weights that SWR changes in both, as a share of those that it changes in at least one (Jaccard); on the diagonal between \
             seeds. In brackets what as many weights at random would have in common.</p>";
    for (budget, languages) in &by_budget {
        let pair = |a: &String, b: &String| {
            let (first, second) = (&languages[a], &languages[b]);
            let pairs = first.iter().enumerate().flat_map(|(i, x)| {
                let others = if a == b {
                    &second[i + 1..]
                } else {
                    &second[..]
                };
                others
                    .iter()
                    .map(|y| overlap(&x.changed_bits, &y.changed_bits, &convolutions))
            });
            let found: Vec<Overlap> = pairs.collect();
            if found.is_empty() {
                return "–".to_string();
            }
            let mean = |value: &dyn Fn(&Overlap) -> f64| mean(found.iter().map(value));
            format!("{:.2} ({:.2})", mean(&|o| o.found), mean(&|o| o.by_chance))
        };
        let codes: Vec<&String> = languages.keys().copied().collect();
        write!(html, "<h3>Budget {budget}</h3><table><tr><th>")?;
        codes.iter().try_for_each(|b| write!(html, "<th>{b}"))?;
        for a in &codes {
            write!(html, "<tr><td>{a}")?;
            codes
                .iter()
                .try_for_each(|b| write!(html, "<td>{}", pair(a, b)))?;
        }
        html += "</table>";
        let column = |(code, rows): (&&String, &Vec<&Row>)| (code.to_string(), shares(rows, base));
        let columns: Vec<(String, Vec<f64>)> = languages.iter().map(column).collect();
        html += &map(&columns, base)?;
    }
    Ok(html)
}
