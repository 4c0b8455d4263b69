//! The golden clip of a language: one spoken keyword as log-mel frames, and what the network must make of it. A device runs it on a model
//! that it was sent, before it trusts it: digests and signatures tell that the model is the publisher's, the clip that it works here.

use alloc::{format, string::String, vec, vec::Vec};

use sha2::{Digest as _, Sha256};

use crate::detector::mean_logits;
use crate::labels::MAX_LABEL_BYTES;
use crate::network::Network;
use crate::package::{PackageError, check_language};
use crate::settings::{CONTEXT_FRAMES, FrontendSettings, MEL_BINS, WINDOW_FRAMES};

/// First bytes of a golden clip.
const MAGIC: [u8; 4] = [0x9d, b'G', b'L', b'D'];
/// The format that is written and read.
const GOLDEN_VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// Log-mel of level 0; the logarithm's floor, `ln(1e-6)`, lies above it.
const LOWEST_LOG_MEL: f32 = -14.0;
/// Log-mel between neighbouring levels; 255 of them reach 11.5, above what full scale gives.
const LOG_MEL_STEP: f32 = 0.1;
/// The last level.
const LAST_LEVEL: f32 = 255.0;

/// A keyword as a second of log-mel frames in 256 levels, about 4 kB.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// BCP-47 code of the language.
    pub language: String,
    /// The keyword spoken.
    pub label: String,
    /// Posterior that the keyword must reach at least, in hundredths, 1 to 100.
    pub least_posterior: u8,
    /// Frame-major, [`WINDOW_FRAMES`] frames of [`MEL_BINS`] levels, lowest bin first.
    levels: Vec<u8>,
}

impl Golden {
    /// The clip whose log-mel frames are `frames`, `[98, 40]` flattened.
    ///
    /// # Errors
    /// [`PackageError::BadField`] for another number of frames, a value above the last level, a posterior outside of 1 to 100, a bad language or label.
    pub fn new(
        language: &str,
        label: &str,
        least_posterior: u8,
        frames: &[f32],
    ) -> Result<Self, PackageError> {
        let exact = |log_mel: &f32| libm::roundf((log_mel - LOWEST_LOG_MEL) / LOG_MEL_STEP);
        // NaN is in no range.
        let levels = f32::NEG_INFINITY..=LAST_LEVEL;
        if let Some(value) = frames.iter().find(|v| !levels.contains(&exact(v))) {
            return Err(PackageError::BadField {
                field: "log-mel",
                reason: format!(
                    "{value} is louder than a golden clip can be; lower the target of the front end's gain"
                ),
            });
        }
        let level = |log_mel: &f32| exact(log_mel).max(0.0) as u8;
        let golden = Self {
            language: language.into(),
            label: label.into(),
            least_posterior,
            levels: frames.iter().map(level).collect(),
        };
        golden.check_fields()?;
        Ok(golden)
    }

    fn check_fields(&self) -> Result<(), PackageError> {
        let bad = |field, reason| Err(PackageError::BadField { field, reason });
        check_language(&self.language)?;
        if !(1..=MAX_LABEL_BYTES).contains(&self.label.len()) {
            return bad(
                "label",
                format!(
                    "expected 1 to {MAX_LABEL_BYTES} bytes, found {}",
                    self.label.len()
                ),
            );
        }
        if !(1..=100).contains(&self.least_posterior) {
            return bad(
                "least_posterior",
                format!(
                    "expected 1 to 100 hundredths, found {}",
                    self.least_posterior
                ),
            );
        }
        if self.levels.len() != WINDOW_FRAMES * MEL_BINS {
            let found = self.levels.len();
            return bad(
                "frames",
                format!("expected {WINDOW_FRAMES} of {MEL_BINS} values, found {found} values"),
            );
        }
        Ok(())
    }

    /// The log-mel frames, `[98, 40]` flattened, as they are stored.
    pub fn frames(&self) -> Vec<f32> {
        let log_mel = |level: &u8| LOWEST_LOG_MEL + LOG_MEL_STEP * f32::from(*level);
        self.levels.iter().map(log_mel).collect()
    }

    /// Reads a clip from the bytes of its file.
    ///
    /// # Errors
    /// [`PackageError::NotAGolden`], [`PackageError::Damaged`], [`PackageError::UnsupportedVersion`] and [`PackageError::BadField`], in this order.
    pub fn read(bytes: &[u8]) -> Result<Self, PackageError> {
        let damaged = |what| PackageError::Damaged {
            what,
            offset: bytes.len().saturating_sub(CHECKSUM_BYTES),
        };
        if !bytes.starts_with(&MAGIC) {
            return Err(PackageError::NotAGolden);
        }
        let (body, found) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(damaged("checksum"))?;
        if checksum(body) != *found {
            return Err(damaged("checksum"));
        }
        let mut rest = body.get(MAGIC.len()..).ok_or(damaged("length"))?;
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at_checked(count).ok_or(damaged("length"))?;
            rest = left;
            Ok::<_, PackageError>(taken)
        };
        let [version, least_posterior, language, label] = *take(4)? else {
            return Err(damaged("length"));
        };
        if version != GOLDEN_VERSION {
            return Err(PackageError::UnsupportedVersion {
                what: "golden clip",
                found: version.into(),
                supported: GOLDEN_VERSION.into(),
            });
        }
        let mut text = |count: u8| {
            let bytes = take(count.into())?.to_vec();
            String::from_utf8(bytes).map_err(|_| damaged("text"))
        };
        let golden = Self {
            language: text(language)?,
            label: text(label)?,
            least_posterior,
            levels: rest.to_vec(),
        };
        golden.check_fields()?;
        Ok(golden)
    }

    /// The bytes of the file.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([
            GOLDEN_VERSION,
            self.least_posterior,
            self.language.len() as u8,
            self.label.len() as u8,
        ]);
        bytes.extend(self.language.as_bytes());
        bytes.extend(self.label.as_bytes());
        bytes.extend(&self.levels);
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        bytes
    }

    /// What a network hears in evaluation: 46 frames of digital silence, then the clip's 98; `[144, 40]` flattened.
    pub fn frames_in_context(&self) -> Vec<f32> {
        let silence = libm::logf(FrontendSettings::default().log_floor);
        let mut frames = vec![silence; CONTEXT_FRAMES * MEL_BINS];
        frames.extend(self.frames());
        frames
    }

    /// Runs the clip through `network`, whose classes are `labels`; the posterior of its keyword.
    ///
    /// # Errors
    /// As [`Golden::judge`].
    pub fn check(&self, network: &Network, labels: &[String]) -> Result<f32, PackageError> {
        let mut logits = Vec::new();
        let run = network.step(&mut network.state(), &self.frames_in_context(), &mut logits);
        run.map_err(|error| self.failed(format!("{error}")))?;
        self.judge(&logits, labels)
    }

    /// Judges what a network made of [`Golden::frames_in_context`]: its logits, `[144, classes]` flattened, of the classes `labels`. The posterior of the keyword.
    ///
    /// # Errors
    /// [`PackageError::Golden`] if there is no such keyword, another label is stronger, or this one has less than the posterior asked for.
    pub fn judge(&self, logits: &[f32], labels: &[String]) -> Result<f32, PackageError> {
        let frames = CONTEXT_FRAMES + WINDOW_FRAMES;
        let wanted = labels.iter().position(|label| *label == self.label);
        let Some(wanted) = wanted.filter(|_| logits.len() == frames * labels.len()) else {
            return Err(self.failed("a network without this keyword".into()));
        };
        let mean = mean_logits(logits, labels.len(), CONTEXT_FRAMES..frames);
        let mean = mean.map_err(|error| self.failed(format!("{error}")))?;
        let largest = mean.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shares: Vec<f32> = mean.iter().map(|x| libm::expf(x - largest)).collect();
        let all: f32 = shares.iter().sum();
        let strongest = (0..labels.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b]));
        let strongest = strongest.unwrap_or(wanted);
        let posterior = shares[wanted] / all;
        // Written so that a posterior that is no number fails.
        if strongest == wanted && posterior >= f32::from(self.least_posterior) / 100.0 {
            return Ok(posterior);
        }
        let (label, share) = (&labels[strongest], shares[strongest] / all);
        Err(self.failed(format!("{label:?} with {share:.2}")))
    }

    fn failed(&self, heard: String) -> PackageError {
        PackageError::Golden {
            language: self.language.clone(),
            expected: self.label.clone(),
            least: f32::from(self.least_posterior) / 100.0,
            heard,
        }
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::digest(body);
    core::array::from_fn(|byte| digest[byte])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_louder_than_the_last_level_is_refused() {
        let frames = |value| vec![value; WINDOW_FRAMES * MEL_BINS];
        Golden::new("en", "stop", 50, &frames(11.5)).expect("the last level");
        for value in [11.6, f32::INFINITY, f32::NAN] {
            let refused = Golden::new("en", "stop", 50, &frames(value));
            let field = match refused {
                Err(PackageError::BadField { field, .. }) => field,
                other => panic!("expected {value} to be refused, found {other:?}"),
            };
            assert_eq!(field, "log-mel");
        }
    }
}
