//! `--words`: which keywords are reported. The others still compete, so that one of them is not taken for a wanted one, but are never told.

use anyhow::{Context, bail};
use clap::Args;
use swr_core::labels::NOT_KEYWORDS;

use crate::models::Models;
use crate::spotter::{Listener, Spotter};
use crate::words::nfc;

/// Which keywords are reported.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(super) struct WordsArgs {
    /// Keywords to report, with commas between; the others are heard, but not told [default: all]
    #[arg(long, value_name = "WORD,…", value_delimiter = ',')]
    pub(super) words: Vec<String>,
}

/// What is to be told of a language whose package has one threshold for all keywords, as those of older versions do; `thresholds` are of all labels.
pub(super) fn one_threshold(language: &str, thresholds: &[f32]) -> Option<String> {
    let keywords = &thresholds[..thresholds.len() - NOT_KEYWORDS];
    let (first, others) = keywords.split_first()?;
    let alike = !others.is_empty() && others.iter().all(|threshold| threshold == first);
    alike.then(|| {
        format!(
            "`{language}` has one threshold, {first}, for all keywords: at what rate the wanted words alone are falsely accepted is not known; \
             `swr-train calibrate` gives each its own"
        )
    })
}

impl WordsArgs {
    /// Lets `listeners`, whose thresholds are their packages' own or not, report the wanted words alone; what there is to tell about it. Every word must be
    /// one of some language.
    pub(super) fn apply(
        &self,
        listeners: &mut [Listener],
        own_thresholds: bool,
    ) -> anyhow::Result<Vec<String>> {
        let mut told = Vec::new();
        if self.words.is_empty() {
            return Ok(told);
        }
        let labels: Vec<Vec<String>> = listeners
            .iter()
            .map(|listener| listener.labels().to_vec())
            .collect();
        let named: Vec<(&str, &[String])> = listeners
            .iter()
            .zip(&labels)
            .map(|(listener, labels)| (listener.language(), &labels[..]))
            .collect();
        let wanted = self.among(&named)?;
        for (listener, wanted) in listeners.iter_mut().zip(wanted) {
            let thresholds = &listener.settings().thresholds;
            told.extend(match wanted.contains(&true) {
                true if !own_thresholds => None,
                true => one_threshold(listener.language(), thresholds),
                false => Some(format!(
                    "none of the words wanted is one of `{}`; it reports nothing",
                    listener.language()
                )),
            });
            listener.report_only(wanted);
        }
        Ok(told)
    }

    /// A spotter for `languages` that reports the wanted words alone.
    pub(super) fn spotter<L: AsRef<str>>(
        &self,
        models: &Models,
        languages: &[L],
        step_frames: usize,
    ) -> anyhow::Result<Spotter> {
        let listener = |language: &L| models.listener(language.as_ref(), step_frames);
        let listeners = languages.iter().map(listener);
        let mut listeners = listeners.collect::<Result<Vec<Listener>, _>>()?;
        for notice in self.apply(&mut listeners, true)? {
            eprintln!("swr: {notice}");
        }
        Ok(Spotter::new(listeners)?)
    }

    /// Which labels of each language, given by its code and labels, are reported.
    pub(super) fn among(&self, languages: &[(&str, &[String])]) -> anyhow::Result<Vec<Vec<bool>>> {
        let keywords = |labels: &[String]| -> Vec<String> {
            let count = labels.len() - NOT_KEYWORDS;
            labels[..count].iter().map(|label| nfc(label)).collect()
        };
        let all: Vec<Vec<String>> = languages.iter().map(|(_, l)| keywords(l)).collect();
        if self.words.is_empty() {
            return Ok(languages.iter().map(|(_, l)| vec![true; l.len()]).collect());
        }
        let words: Vec<String> = self.words.iter().map(|word| nfc(word.trim())).collect();
        for word in &words {
            if !all.iter().flatten().any(|keyword| keyword == word) {
                let codes: Vec<&str> = languages.iter().map(|(code, _)| *code).collect();
                let nearest = nearest(word, all.iter().flatten())
                    .context("a language without keywords has no words to report")?;
                bail!(
                    "--words: \"{word}\" is no keyword of {}; the nearest is \"{nearest}\", and `swr inspect` lists all",
                    codes.join(", ")
                );
            }
        }
        let reported = |(_, labels): &(&str, &[String])| {
            let wanted = keywords(labels).into_iter().map(|k| words.contains(&k));
            wanted.chain([false; NOT_KEYWORDS]).collect()
        };
        Ok(languages.iter().map(reported).collect())
    }
}

/// The word most like another.
fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let likeness = |other: &String| strsim::normalized_damerau_levenshtein(word, other);
    words.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(words: &[&str]) -> Vec<String> {
        let all = words.iter().chain(&["_unknown_", "_silence_"]);
        all.map(|word| word.to_string()).collect()
    }

    #[test]
    fn words_are_found_in_whichever_language_has_them() {
        let (de, en) = (labels(&["licht", "öffnen"]), labels(&["left", "off"]));
        let languages = [("de", &de[..]), ("en", &en[..])];
        let only = |words: &[&str]| {
            let words = words.iter().map(|word| word.to_string()).collect();
            WordsArgs { words }.among(&languages)
        };
        let [f, t] = [false, true];
        assert_eq!(only(&[]).unwrap(), [[t; 4], [t; 4]]);
        assert_eq!(
            only(&["licht", "off"]).unwrap(),
            [[t, f, f, f], [f, t, f, f]]
        );
        // However its letters are composed.
        assert_eq!(only(&["o\u{308}ffnen"]).unwrap(), [[f, t, f, f], [f; 4]]);
        let error = only(&["lichts"]).unwrap_err().to_string();
        assert!(
            error.contains("\"lichts\"") && error.contains("\"licht\""),
            "{error}"
        );
        // What is no keyword cannot be wanted.
        assert!(only(&["_unknown_"]).is_err());
    }
}
