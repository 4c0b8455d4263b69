//! From several channels to one: interleaved samples enter, the samples of one channel or their mean leave.

use super::AudioError;

/// From this difference on, the mean is mostly silence with some sound in it: 20 dB.
const POWER_RATIO: f64 = 100.0;
/// One in so many samples is looked at for its power.
const STRIDE: usize = 8;

/// Makes one channel of several.
#[derive(Clone, Debug)]
pub struct Mixer {
    channels: usize,
    /// From 0; none for the mean.
    chosen: Option<usize>,
    /// Sum of the squares of each channel, and of their mean.
    powers: Vec<f64>,
    mean_power: f64,
}

impl Mixer {
    /// For so many channels, at least one; `channel` counts from 1, and without it the mean of all is taken.
    ///
    /// # Errors
    /// [`AudioError::NoChannel`] if there is none of that number.
    pub fn new(channels: u16, channel: Option<u16>) -> Result<Self, AudioError> {
        let chosen = match channel {
            Some(wanted) if wanted == 0 || wanted > channels => {
                return Err(AudioError::NoChannel {
                    wanted,
                    found: channels,
                });
            }
            wanted => wanted.map(|wanted| usize::from(wanted - 1)),
        };
        Ok(Self {
            channels: channels.max(1).into(),
            chosen,
            powers: vec![0.0; channels.max(1).into()],
            mean_power: 0.0,
        })
    }

    /// Appends a sample for each whole frame of `interleaved`.
    pub fn push(&mut self, interleaved: &[f32], samples: &mut Vec<f32>) {
        let frames = interleaved.chunks_exact(self.channels);
        if let Some(chosen) = self.chosen {
            samples.extend(frames.map(|frame| frame[chosen]));
            return;
        }
        if self.channels > 1 {
            for frame in frames.clone().step_by(STRIDE) {
                for (power, value) in self.powers.iter_mut().zip(frame) {
                    *power += f64::from(value * value);
                }
                self.mean_power += f64::from(mean(frame)).powi(2);
            }
        }
        samples.extend(frames.map(mean));
    }

    /// What to tell of channels of very different loudness, of which the mean was taken.
    pub fn warning(&self) -> Option<String> {
        let numbered = || self.powers.iter().zip(1..);
        let (loud, loudest) = numbered().max_by(|a, b| a.0.total_cmp(b.0))?;
        let (quiet, quietest) = numbered().min_by(|a, b| a.0.total_cmp(b.0))?;
        if *loud <= quiet * POWER_RATIO {
            // Wires of one microphone that are crossed.
            return (*loud > self.mean_power * POWER_RATIO).then(|| {
                format!("its {} channels cancel in their mean, which is heard; --channel {loudest} would hear one alone", self.channels)
            });
        }
        let difference = match *quiet {
            0.0 => "silent".to_owned(),
            quiet => format!(
                "{:.0} dB quieter than channel {loudest}",
                10.0 * libm::log10(loud / quiet)
            ),
        };
        Some(format!(
            "channel {quietest} is {difference}; the mean of all {} is heard, --channel {loudest} would hear that one alone",
            self.channels
        ))
    }
}

/// The mean of a sample of every channel.
pub(super) fn mean(frame: &[f32]) -> f32 {
    frame.iter().sum::<f32>() / frame.len() as f32
}
