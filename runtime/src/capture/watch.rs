//! Notices digital silence, as a muted device delivers it.

use swr_core::SAMPLE_RATE_HZ;

use super::Notice;

/// Largest sample of digital silence: a bit of dither in 16 bits.
const SILENCE: f32 = 1.5 / 32_768.0;
/// How long digital silence lasts before it is told. No room is so quiet that a microphone's own noise is not heard.
const SILENT_S: u64 = 5;

/// Notices when a source delivers digital silence.
#[derive(Debug, Default)]
pub(super) struct Watch {
    silent_samples: u64,
}

impl Watch {
    /// Looks at the next samples.
    pub(super) fn hear(&mut self, samples: &[f32]) -> Option<Notice> {
        let limit = SILENT_S * u64::from(SAMPLE_RATE_HZ);
        let before = self.silent_samples;
        match samples.iter().rposition(|sample| sample.abs() > SILENCE) {
            None => self.silent_samples += samples.len() as u64,
            Some(last) => self.silent_samples = (samples.len() - 1 - last) as u64,
        }
        if before >= limit && self.silent_samples < before {
            return Some(Notice::Sound);
        }
        (before < limit && self.silent_samples >= limit)
            .then_some(Notice::Silent { seconds: SILENT_S })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_once_and_so_is_its_end() {
        let mut watch = Watch::default();
        let mut told = Vec::new();
        let mut hear = |watch: &mut Watch, value: f32, seconds: usize| {
            for _ in 0..100 * seconds {
                told.extend(watch.hear(&[value; 160]));
            }
        };
        hear(&mut watch, 1e-3, 10);
        hear(&mut watch, 0.0, 4);
        hear(&mut watch, -1e-3, 1);
        hear(&mut watch, 1e-5, 20);
        hear(&mut watch, 0.1, 2);
        hear(&mut watch, 0.0, 6);
        let silent = Notice::Silent { seconds: SILENT_S };
        assert_eq!(told, [silent.clone(), Notice::Sound, silent]);
    }
}
