//! Of several languages that hear the same word, one reports it.
//!
//! Networks of different languages know nothing of each other: German "licht" is also an English "left". Events of different languages whose peaks lie close
//! together are one spoken word, and it belongs to the language that is surest of it, measured from its own threshold. So that the others have a say, an
//! event waits a little; of one language alone, none does.

use alloc::vec::Vec;

use super::Event;

/// Peaks closer than this, in frames, are of one word: 0.4 s.
const SAME_WORD_FRAMES: i64 = 40;
/// Frames that an event waits for those of other languages: 0.15 s.
const WAIT_FRAMES: i64 = 15;

/// An event before it is known whether another language has a better claim to its word.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) event: Event,
    /// Whether it is to be told if it wins; a word that nobody wants competes all the same.
    pub(super) reported: bool,
    /// Frame of the audio at which its posterior is highest.
    pub(super) peak: i64,
    /// Frame with which the detector gave it out.
    pub(super) given: i64,
    /// By how much the log-odds of its posterior are above those of its threshold.
    pub(super) sureness: f32,
}

/// What is waiting, and what was decided.
#[derive(Debug, Default)]
pub(super) struct Arbiter {
    /// In order of time.
    waiting: Vec<Claim>,
    /// Those that won, as long as another could be of the same word.
    won: Vec<Claim>,
}

impl Arbiter {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.won.clear();
    }

    /// Takes claims of any language.
    pub(super) fn add(&mut self, claims: Vec<Claim>) {
        self.waiting.extend(claims);
        // The order must not depend on how the audio was cut.
        self.waiting.sort_by_key(|claim| (claim.given, claim.peak));
    }

    /// Appends the events that are decided when every language has heard all frames before `heard`.
    pub(super) fn decide(&mut self, heard: i64, events: &mut Vec<Event>) {
        while let Some(first) = self.waiting.first() {
            if first.given + WAIT_FRAMES >= heard {
                return;
            }
            let claim = self.waiting.remove(0);
            let of_its_word = |other: &&Claim| {
                other.event.language != claim.event.language
                    && (other.peak - claim.peak).abs() < SAME_WORD_FRAMES
            };
            let lost = self.won.iter().any(|other| of_its_word(&other))
                || self
                    .waiting
                    .iter()
                    .filter(of_its_word)
                    .any(|other| other.sureness > claim.sureness);
            if lost {
                continue;
            }
            if claim.reported {
                events.push(claim.event.clone());
            }
            let old = claim.given - 8 * SAME_WORD_FRAMES;
            self.won.retain(|other| other.given > old);
            self.won.push(claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(language: &str, peak: i64, sureness: f32) -> Claim {
        Claim {
            event: Event {
                time_s: peak as f64 / 100.0,
                language: language.into(),
                keyword: "word".into(),
                score: 0.9,
            },
            reported: true,
            peak,
            given: peak + 10,
            sureness,
        }
    }

    /// Languages and peaks of what is reported, with the claims added as their detectors give them.
    fn reported(claims: &[Claim]) -> Vec<(alloc::string::String, f64)> {
        let (mut arbiter, mut events) = (Arbiter::default(), Vec::new());
        for frame in 0..2_000 {
            let given = claims.iter().filter(|claim| claim.given == frame);
            arbiter.add(given.cloned().collect());
            arbiter.decide(frame + 1, &mut events);
        }
        events
            .into_iter()
            .map(|event| (event.language, event.time_s))
            .collect()
    }

    #[test]
    fn a_word_belongs_to_the_language_that_is_surest() {
        let weak_first = [claim("en", 100, 1.0), claim("de", 108, 3.0)];
        assert_eq!(reported(&weak_first), [("de".into(), 1.08)]);
        let strong_first = [claim("en", 100, 3.0), claim("de", 130, 1.0)];
        assert_eq!(reported(&strong_first), [("en".into(), 1.0)]);
        // Too late to be waited for: what was told stays told, and nothing is told twice.
        let late = [claim("en", 100, 1.0), claim("de", 135, 3.0)];
        assert_eq!(reported(&late), [("en".into(), 1.0)]);
    }

    #[test]
    fn other_words_and_the_same_language_are_left_alone() {
        let apart = [claim("en", 100, 1.0), claim("de", 150, 3.0)];
        assert_eq!(reported(&apart).len(), 2);
        let one = [claim("en", 100, 1.0), claim("en", 120, 3.0)];
        assert_eq!(reported(&one).len(), 2);
    }

    #[test]
    fn a_word_that_nobody_wants_still_wins() {
        let mut unwanted = claim("de", 105, 3.0);
        unwanted.reported = false;
        assert!(reported(&[claim("en", 100, 1.0), unwanted]).is_empty());
    }
}
