//! Which threshold every keyword gets: from what each threshold finds in development clips, and what it falsely accepts in audio without keywords.
//!
//! Minutes of audio hold too few false accepts to count them keyword by keyword where they are to be rare. What is rare is therefore told from what is
//! less so: the log-odds of false accepts above a level fall off about exponentially, as peaks over a threshold do (Pickands, Annals of Statistics 3, 1975).

use swr_core::package::Calibration;

/// The lowest threshold that is tried, in hundredths: below, a keyword need hardly be the likeliest label.
const LOWEST: u32 = 40;
/// False accepts of a keyword that the fall of its rate is told from, if it has so many.
const PEAKS: usize = 8;
/// A keyword's own counts weigh as much as those of all keywords when it has so many.
const PRIOR: f64 = 5.0;
/// False accepts that a keyword may have without one having been heard.
const UNHEARD: f64 = 0.25;
/// What a false accept an hour costs, in missed shares of a keyword's words: from nothing to everything, each so many times the one before.
const PRICES: (f64, f64, f64) = (1e-4, 1e3, 1.3);

/// What every candidate does when it is the threshold of all keywords: counts `[candidate][keyword]`.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// Hours without keywords.
    pub hours: f64,
    /// Detections in them.
    pub accepts: Vec<Vec<usize>>,
    /// Words of each keyword that were said, `[keyword]`.
    pub words: Vec<usize>,
    /// Words found.
    pub found: Vec<Vec<usize>>,
    /// Detections of a keyword between them, where another word was said.
    pub alarms: Vec<Vec<usize>>,
}

/// The thresholds that are tried, in rising order.
pub(crate) fn candidates() -> Vec<f32> {
    Calibration::steps_from(LOWEST).collect()
}

/// Thresholds of all keywords, and the false accepts an hour that are expected of them.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// `[keyword]`.
    pub thresholds: Vec<f32>,
    /// Of all keywords together.
    pub per_hour: f64,
}

/// Which of the choices, from lax to strict, to take for a rate: the first that is expected to keep it and has `kept` it where it was heard. Minutes of audio
/// hold too little to expect a low rate of anything: then the strictest that has, so that who asks for less never gets more.
pub(crate) fn keeping(
    choices: &[Choice],
    per_hour: f64,
    kept: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut all = (0..choices.len()).filter(|at| kept(*at));
    let expected = all.clone().find(|at| choices[*at].per_hour <= per_hour);
    expected.or_else(|| all.next_back())
}

/// Detections in one recording without keywords.
pub(crate) struct Accepts {
    /// Its length.
    pub hours: f64,
    /// `[choice][keyword]`.
    pub counts: Vec<Vec<usize>>,
}

impl Evidence {
    /// That nothing was heard yet.
    pub(crate) fn nothing(candidates: usize, keywords: usize) -> Self {
        let none = vec![vec![0; keywords]; candidates];
        Self {
            hours: 0.0,
            accepts: none.clone(),
            words: vec![0; keywords],
            found: none.clone(),
            alarms: none,
        }
    }

    /// With what every candidate accepts in recordings.
    pub(crate) fn with<'a>(&self, recordings: impl IntoIterator<Item = &'a Accepts>) -> Self {
        let mut evidence = self.clone();
        for accepts in recordings {
            evidence.hours += accepts.hours;
            for (sums, counts) in evidence.accepts.iter_mut().zip(&accepts.counts) {
                sums.iter_mut().zip(counts).for_each(|(s, c)| *s += c);
            }
        }
        evidence
    }

    /// Choices from the one that misses least to the one that accepts least. Each is the best for its price of a false accept.
    pub(crate) fn choices(&self) -> Vec<Choice> {
        let thresholds = candidates();
        let rates = self.rates(&thresholds);
        let losses = self.losses();
        let (mut price, last, factor) = PRICES;
        let mut choices: Vec<Choice> = Vec::new();
        while price <= last {
            let places: Vec<usize> = (0..self.words.len())
                .map(|keyword| {
                    let cost = |at: &usize| losses[*at][keyword] + price * rates[*at][keyword];
                    // Of equally good thresholds the highest: the quieter device annoys less.
                    let places = (0..thresholds.len()).rev();
                    let least = places.min_by(|a, b| cost(a).total_cmp(&cost(b)));
                    least.unwrap_or_default()
                })
                .collect();
            let choice = Choice {
                thresholds: places.iter().map(|place| thresholds[*place]).collect(),
                per_hour: places.iter().enumerate().map(|(k, at)| rates[*at][k]).sum(),
            };
            if choices.last().map(|c| &c.thresholds) != Some(&choice.thresholds) {
                choices.push(choice);
            }
            price *= factor;
        }
        choices
    }

    /// The share of a keyword's words that are missed, with the alarms it gives for other words taken as missed words, `[candidate][keyword]`.
    fn losses(&self) -> Vec<Vec<f64>> {
        let all = self.words.iter().sum::<usize>().max(1) as f64;
        let loss = |(found, alarms): (&Vec<usize>, &Vec<usize>)| -> Vec<f64> {
            let shared = found.iter().sum::<usize>() as f64 / all;
            let of_keyword = |keyword: usize| {
                let words = self.words[keyword] as f64;
                let found = (found[keyword] as f64 + PRIOR * shared) / (words + PRIOR);
                1.0 - found + alarms[keyword] as f64 / (words + PRIOR)
            };
            (0..self.words.len()).map(of_keyword).collect()
        };
        self.found.iter().zip(&self.alarms).map(loss).collect()
    }

    /// Expected false accepts an hour, `[candidate][keyword]`.
    fn rates(&self, thresholds: &[f32]) -> Vec<Vec<f64>> {
        let levels: Vec<f64> = thresholds.iter().map(|t| log_odds(*t)).collect();
        let tails: Vec<Tail> = (0..self.words.len())
            .map(|keyword| Tail::of(&levels, |at| self.accepts[at][keyword]))
            .collect();
        let count: usize = tails.iter().map(|tail| tail.count).sum();
        let excess: f64 = tails.iter().map(|tail| tail.excess).sum();
        // Without any, as steep as posteriors of nothing in particular.
        let shared = match count {
            0 => 1.0,
            _ => excess / count as f64,
        };
        let rate = |at: usize, keyword: usize| {
            let tail = &tails[keyword];
            let heard = match at < tail.from {
                true => self.accepts[at][keyword] as f64 + UNHEARD,
                false => tail.above(levels[at] - levels[tail.from], shared),
            };
            heard / self.hours.max(f64::MIN_POSITIVE)
        };
        (0..thresholds.len())
            .map(|at| (0..self.words.len()).map(|k| rate(at, k)).collect())
            .collect()
    }
}

fn log_odds(posterior: f32) -> f64 {
    let p = f64::from(posterior);
    (p / (1.0 - p)).ln()
}

/// The false accepts of a keyword from a level on.
struct Tail {
    /// The candidate that the level is.
    from: usize,
    /// How many reach it.
    count: usize,
    /// The sum of what they are above it, in log-odds.
    excess: f64,
}

impl Tail {
    /// From the highest level that enough reach, or the lowest there is; `counts` are those that reach a candidate.
    fn of(levels: &[f64], counts: impl Fn(usize) -> usize) -> Self {
        let from = (0..levels.len()).rev().find(|at| counts(*at) >= PEAKS);
        let from = from.unwrap_or_default();
        let steps = levels.windows(2).enumerate().skip(from);
        Self {
            from,
            count: counts(from),
            // The area under the counts, by trapezoids.
            excess: steps
                .map(|(at, pair)| {
                    let between = (counts(at) + counts(at + 1)) as f64 / 2.0;
                    between * (pair[1] - pair[0])
                })
                .sum(),
        }
    }

    /// How many are expected at a level so much higher.
    fn above(&self, height: f64, shared: f64) -> f64 {
        let scale = (self.excess + PRIOR * shared) / (self.count as f64 + PRIOR);
        (self.count as f64 + UNHEARD) * (-height / scale.max(1e-3)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many false accepts there are at the lowest candidate, how they fall off, and up to which log-odds the word is found.
    type Truth = (f64, f64, f64);

    /// Evidence of keywords whose false accepts fall off as `scale` and are `accepts` at the lowest candidate, and whose words are all found below a level.
    fn evidence(keywords: &[Truth], hours: f64) -> Evidence {
        let levels: Vec<f64> = candidates().iter().map(|t| log_odds(*t)).collect();
        let at = |f: &dyn Fn(f64, &Truth) -> usize| {
            levels
                .iter()
                .map(|level| keywords.iter().map(|k| f(*level, k)).collect())
                .collect::<Vec<Vec<usize>>>()
        };
        Evidence {
            hours,
            accepts: at(&|level, (accepts, scale, _)| {
                (accepts * (-(level - levels[0]) / scale).exp()).round() as usize
            }),
            words: vec![100; keywords.len()],
            found: at(&|level, (_, _, sure)| {
                (100.0 / (1.0 + ((level - sure) / 0.7).exp())).round() as usize
            }),
            alarms: vec![vec![0; keywords.len()]; levels.len()],
        }
    }

    #[test]
    fn a_rare_false_accept_is_told_from_those_that_are_not_rare() {
        let evidence = evidence(&[(400.0, 1.2, 3.0), (30.0, 0.5, 3.0)], 2.0);
        let thresholds = candidates();
        let rates = evidence.rates(&thresholds);
        let lowest = log_odds(thresholds[0]);
        for (keyword, (accepts, scale)) in [(400.0, 1.2), (30.0, 0.5)].into_iter().enumerate() {
            for (at, threshold) in thresholds.iter().enumerate() {
                let truth = accepts / 2.0 * (-(log_odds(*threshold) - lowest) / scale).exp();
                let told = rates[at][keyword];
                assert!(
                    truth < 0.05 || (0.3..3.0).contains(&(told / truth)),
                    "keyword {keyword} at {threshold}: {told} an hour, in truth {truth}"
                );
            }
        }
    }

    #[test]
    fn a_keyword_that_is_never_falsely_heard_keeps_a_low_threshold() {
        let evidence = evidence(&[(300.0, 1.0, 3.0), (0.0, 1.0, 3.0)], 2.0);
        let choices = evidence.choices();
        let kept = choices.iter().find(|c| c.per_hour <= 5.0).unwrap();
        assert!(kept.thresholds[0] > kept.thresholds[1] + 0.05, "{kept:?}");
        for pair in choices.windows(2) {
            assert!(pair[0].per_hour >= pair[1].per_hour, "{pair:?}");
        }
    }

    #[test]
    fn who_asks_for_less_never_gets_more() {
        let choice = |(level, per_hour)| Choice {
            thresholds: vec![level],
            per_hour,
        };
        let choices = [(0.5, 9.0), (0.7, 4.0), (0.9, 2.0), (0.99, 1.0)].map(choice);
        // The laxest was falsely triggered more often than may be.
        let taken = |rate: f64| keeping(&choices, rate, |at| at > 0);
        assert_eq!(taken(20.0), Some(1));
        assert_eq!(taken(2.0), Some(2));
        assert_eq!(taken(0.1), Some(3));
        assert_eq!(keeping(&choices, 2.0, |_| false), None);
    }

    #[test]
    fn a_word_that_is_lost_anyway_makes_room_for_the_others() {
        // Both are heard in speech as often; one is found up to a high threshold, the other hardly at the lowest.
        let evidence = evidence(&[(100.0, 1.0, 4.0), (100.0, 1.0, -3.0)], 1.0);
        let choices = evidence.choices();
        let kept = choices.iter().find(|c| c.per_hour <= 5.0).unwrap();
        assert!(kept.thresholds[0] < kept.thresholds[1], "{kept:?}");
    }
}
