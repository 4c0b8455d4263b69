//! Whether audio is loud enough to be heard, and not so loud that it is cut off.

use swr_core::SAMPLE_RATE_HZ;

const SECOND: usize = SAMPLE_RATE_HZ as usize;
/// Seconds in which somebody would have spoken, or a room would at least have been heard.
const QUIET_S: usize = 60;
/// The loudest sample of so long a time is below this only where the gain is far too low: speech at arm's length peaks 20 to 40 dB above it.
const QUIET_DB: f32 = -50.0;
/// Below this there is no sound at all, which the source tells in its own way.
const SILENT_DB: f32 = -100.0;
/// Full scale, nearly: what is cut off lies there.
const FULL: f32 = 0.999;
/// Samples of a second at full scale from which on words are distorted: a hundredth.
const MANY: usize = SECOND / 100;
/// Good seconds after which the same is told again.
const GOOD_S: usize = 60;

/// Watches the level of what is heard.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// Of the second that is under way.
    samples: usize,
    peak: f32,
    full: usize,
    /// The loudest sample since the last loud one was told, and for how many seconds nothing was louder than [`QUIET_DB`].
    loudest: f32,
    quiet_s: usize,
    told_quiet: bool,
    /// Seconds since something was cut off; none if nothing ever was.
    since_cut_s: Option<usize>,
}

impl Level {
    /// Hears samples; what there is to tell.
    pub(super) fn hear(&mut self, samples: &[f32]) -> Vec<String> {
        let mut told = Vec::new();
        let mut rest = samples;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(SECOND - self.samples));
            self.samples += part.len();
            for sample in part {
                self.peak = self.peak.max(sample.abs());
                self.full += usize::from(sample.abs() >= FULL);
            }
            if self.samples == SECOND {
                told.extend(self.second());
                (self.samples, self.peak, self.full) = (0, 0.0, 0);
            }
            rest = after;
        }
        told
    }

    /// A second is over.
    fn second(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        let cut = self.full >= MANY;
        if cut && self.since_cut_s.is_none_or(|seconds| seconds >= GOOD_S) {
            let percent = 100.0 * self.full as f32 / SECOND as f32;
            told.push(format!(
                "the audio is too loud: {percent:.0} % of a second's samples are cut off at full scale; lower the microphone's gain"
            ));
        }
        self.since_cut_s = match cut {
            true => Some(0),
            false => self.since_cut_s.map(|seconds| seconds + 1),
        };
        if decibel(self.peak) >= QUIET_DB {
            (self.quiet_s, self.loudest, self.told_quiet) = (0, 0.0, false);
            return told;
        }
        self.quiet_s += 1;
        self.loudest = self.loudest.max(self.peak);
        let loudest_db = decibel(self.loudest);
        if self.quiet_s >= QUIET_S && !self.told_quiet && loudest_db > SILENT_DB {
            self.told_quiet = true;
            told.push(format!(
                "the audio is very quiet: nothing in {QUIET_S} s was louder than {loudest_db:.0} dBFS; raise the microphone's gain, or check that it is the right one"
            ));
        }
        told
    }
}

fn decibel(peak: f32) -> f32 {
    20.0 * peak.max(1e-9).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of seconds with these peaks, in pieces of any size.
    fn told(peaks: &[f32]) -> Vec<String> {
        let (mut level, mut told) = (Level::default(), Vec::new());
        let samples: Vec<f32> = peaks
            .iter()
            .flat_map(|peak| (0..SECOND).map(move |k| if k % 40 < 20 { *peak } else { -peak }))
            .collect();
        for piece in samples.chunks(7_919) {
            told.extend(level.hear(piece));
        }
        told
    }

    #[test]
    fn a_microphone_that_is_too_quiet_is_told_once() {
        let quiet = [0.001; 200];
        let found = told(&quiet);
        assert!(
            found.len() == 1 && found[0].contains("very quiet") && found[0].contains("-60 dBFS"),
            "{found:?}"
        );
        // Somebody speaks now and then: all is well.
        let spoken: Vec<f32> = (0..200)
            .map(|s| if s % 50 == 0 { 0.05 } else { 0.001 })
            .collect();
        assert!(told(&spoken).is_empty());
        // No sound at all is another matter.
        assert!(told(&[0.0; 200]).is_empty());
    }

    #[test]
    fn what_is_cut_off_is_told_and_again_after_a_while() {
        let found = told(&[0.1, 1.0, 1.0, 0.1]);
        assert!(
            found.len() == 1 && found[0].contains("too loud"),
            "{found:?}"
        );
        let mut peaks = vec![1.0];
        peaks.extend([0.1; 70]);
        peaks.push(1.0);
        assert_eq!(told(&peaks).len(), 2);
        assert!(told(&[0.99; 10]).is_empty());
    }
}
