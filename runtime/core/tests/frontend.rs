//! The claims of the front end: numbers equal to an independent implementation, bits that never change, and streams equal to whole clips.

use proptest::prelude::*;
use swr_core::frontend::{Frontend, FrontendError, frame_count, log_mel};
use swr_core::{FrontendSettings, GainSettings};

/// Largest difference to the f64 reference, in the log domain; f32 comes within 2e-6 on this signal.
const TOLERANCE: f32 = 1e-4;

/// The signal of golden/frontend.py: integers of 16 bits, so that both sides have exactly the same samples.
fn golden_signal() -> Vec<f32> {
    let mut state = 1u32;
    (0..8_000i32)
        .map(|n| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 16) as i32 - 32_768;
            let sample = match n {
                ..5_000 => {
                    let triangle = ((n * (400 + n / 4)) % 65_536 - 32_768).abs() - 16_384;
                    triangle.div_euclid(2) + noise.div_euclid(16)
                }
                5_000..6_500 => 0,
                _ => noise,
            };
            sample as f32 / 32_768.0
        })
        .collect()
}

/// FNV-1a over the bits of the values.
fn hash(values: &[f32]) -> u64 {
    values
        .iter()
        .flat_map(|value| value.to_bits().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Features by the default settings.
fn features(samples: &[f32]) -> Result<Vec<f32>, FrontendError> {
    log_mel(&FrontendSettings::default(), samples)
}

/// Those with the slow gain.
fn levelled() -> FrontendSettings {
    FrontendSettings {
        gain: Some(GainSettings::default()),
        ..FrontendSettings::default()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn features_equal_the_reference() {
    let plain = FrontendSettings::default();
    like_the_reference(&plain, include_str!("../golden/frontend.csv"));
    like_the_reference(&levelled(), include_str!("../golden/frontend-gain.csv"));
}

fn like_the_reference(settings: &FrontendSettings, csv: &str) {
    let expected: Vec<f32> = csv
        .lines()
        .flat_map(|line| line.split(','))
        .map(|value| value.parse().expect("a number in the reference"))
        .collect();
    let features = log_mel(settings, &golden_signal()).expect("finite samples");
    assert_eq!(features.len(), expected.len());
    for (index, (found, expected)) in features.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() < TOLERANCE,
            "frame {}, mel bin {}: found {found}, expected {expected}",
            index / 40,
            index % 40
        );
    }
}

#[test]
fn features_have_the_same_bits_on_every_machine() {
    let features = features(&golden_signal()).expect("finite samples");
    assert_eq!(
        hash(&features),
        0x166b_eb94_32e3_5822,
        "the front end's bits changed"
    );
}

#[test]
fn levelled_features_have_the_same_bits_on_every_machine() {
    let features = log_mel(&levelled(), &golden_signal()).expect("finite samples");
    assert_eq!(
        hash(&features),
        0x9111_8eb5_fa39_5790,
        "the gain's bits changed"
    );
}

#[test]
fn a_signal_30_db_below_has_the_same_levelled_features_soon() {
    // Noise of -20 dB of full scale, and of -50 dB: what the gain aims at, and what it still reaches.
    let mut state = 1u32;
    let noise: Vec<f32> = (0..32_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 0.35 - 0.175
        })
        .collect();
    let quiet: Vec<f32> = noise.iter().map(|sample| sample * 0.031_622_78).collect();
    let of = |samples| log_mel(&levelled(), samples).expect("finite");
    let (loud, quiet) = (of(&noise), of(&quiet));
    let largest = |frames: std::ops::Range<usize>| {
        let values = frames.start * 40..frames.end * 40;
        let pairs = loud[values.clone()].iter().zip(&quiet[values]);
        pairs.fold(0f32, |largest, (a, b)| largest.max((a - b).abs()))
    };
    assert!(largest(120..198) < 0.01, "{}", largest(120..198));
    // In the mean the power is the target's.
    let frame_power = |frame: &[f32]| frame.iter().map(|value| value.exp()).sum::<f32>();
    let settled = loud[120 * 40..].chunks_exact(40);
    let mean = settled.map(frame_power).sum::<f32>() / 78.0;
    assert!((250.0..600.0).contains(&mean), "{mean}");
}

#[test]
fn another_microphone_is_heard_before_the_gain() {
    let mut response = [1.0; 40];
    response[30..].fill(0.0);
    let signal = golden_signal();
    let of = |response: &[f32; 40], samples: &[f32]| {
        let mut frontend = Frontend::new(&levelled()).expect("settings that are computed");
        frontend.hear_through(response);
        let mut frames = Vec::new();
        frontend.push(samples, &mut frames).expect("finite");
        frames
    };
    let (plain, narrow) = (of(&[1.0; 40], &signal), of(&response, &signal));
    assert_eq!(
        bits(&plain),
        bits(&log_mel(&levelled(), &signal).expect("finite"))
    );
    for (plain, narrow) in plain.chunks_exact(40).zip(narrow.chunks_exact(40)) {
        assert!(narrow[30..].iter().all(|value| *value == libm::logf(1e-6)));
        // What is left makes up for it.
        assert!(
            narrow[..30]
                .iter()
                .zip(plain)
                .all(|(narrow, plain)| narrow >= plain)
        );
    }
    // A microphone that is quieter in every band is no other microphone, but for the first frames.
    let quiet = of(&[1e-2; 40], &signal);
    let last = 20 * 40..25 * 40;
    let pairs = quiet[last.clone()].iter().zip(&plain[last]);
    for (quiet, plain) in pairs {
        assert!((quiet - plain).abs() < 0.05, "{quiet} {plain}");
    }
}

#[test]
fn a_click_does_not_make_deaf() {
    // A tone at -30 dB of full scale, and a click at full scale in its midst, as of a switch: 5 ms.
    let tone = |n: usize| 0.03 * (2.0 * std::f32::consts::PI * 1_000.0 * n as f32 / 16_000.0).sin();
    let plain: Vec<f32> = (0..64_000).map(tone).collect();
    let mut clicked = plain.clone();
    for (n, sample) in clicked[32_000..32_080].iter_mut().enumerate() {
        *sample = if n % 2 == 0 { 1.0 } else { -1.0 };
    }
    let of = |samples: &[f32]| log_mel(&levelled(), samples).expect("finite");
    let (plain, clicked) = (of(&plain), of(&clicked));
    // How much softer the tone is heard, so many frames after the click.
    let lost_db = |frames: usize| {
        let at = (200 + frames) * 40 + 13;
        10.0 * (plain[at] - clicked[at]) / std::f32::consts::LN_10
    };
    assert!(lost_db(10) < 16.0, "{} dB", lost_db(10));
    assert!(lost_db(60) < 10.0, "{} dB", lost_db(60));
    assert!(lost_db(150) < 0.1, "{} dB", lost_db(150));
}

#[test]
fn the_level_falls_as_fast_as_it_is_told() {
    // A loud second, then a quiet tone: the gain comes back at 12 dB a second.
    let tone = |amplitude: f32, n: usize| {
        amplitude * (2.0 * std::f32::consts::PI * 1_000.0 * n as f32 / 16_000.0).sin()
    };
    let samples: Vec<f32> = (0..48_000)
        .map(|n| tone(if n < 16_000 { 0.5 } else { 0.005 }, n))
        .collect();
    let frames = log_mel(&levelled(), &samples).expect("finite");
    // At the tone's own mel bin, from the first whole quiet frame on to one a second later.
    let at = |frame: usize| frames[frame * 40 + 13];
    let rise_db = 10.0 * (at(205) - at(105)) / std::f32::consts::LN_10;
    assert!((rise_db - 12.0).abs() < 0.05, "{rise_db}");
}

#[test]
fn silence_is_the_logarithm_of_the_floor() {
    let features = features(&[0.0; 480]).expect("finite samples");
    assert_eq!(bits(&features), bits(&[libm::logf(1e-6); 40]));
}

#[test]
fn one_second_has_98_frames() {
    assert_eq!(frame_count(16_000), 98);
    assert_eq!(frame_count(480), 1);
    assert_eq!(frame_count(479), 0);
    assert_eq!(features(&[0.0; 16_000]).expect("zeros").len(), 98 * 40);
}

#[test]
fn a_pure_tone_is_loudest_in_its_mel_bin() {
    let tone: Vec<f32> = (0..480)
        .map(|n| (2.0 * std::f32::consts::PI * 1_000.0 * n as f32 / 16_000.0).sin())
        .collect();
    let features = features(&tone).expect("finite samples");
    let loudest = (0..40)
        .max_by(|&a, &b| features[a].total_cmp(&features[b]))
        .expect("40 bins");
    // 1000 Hz lies at 1000 mel; the peaks are 2840.02 / 41 = 69.27 mel apart, and the first one is at 69.27.
    assert_eq!(loudest, (1_000.0f64 / 69.27).round() as usize - 1);
}

#[test]
fn bad_samples_are_refused_and_nothing_is_taken() {
    let mut frontend = Frontend::new(&FrontendSettings::default()).expect("the default settings");
    let signal = golden_signal();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.1e6, -1e30] {
        frontend.reset();
        let mut frames = Vec::new();
        frontend.push(&signal[..700], &mut frames).expect("finite");
        let before = frames.clone();
        let mut spoilt = signal[700..1_500].to_vec();
        spoilt[600] = bad;
        match frontend.push(&spoilt, &mut frames) {
            Err(FrontendError::BadSample { index: 600, .. }) => {}
            other => panic!("expected sample 600 to be refused, found {other:?}"),
        }
        assert_eq!(bits(&frames), bits(&before));
        frontend
            .push(&signal[700..1_500], &mut frames)
            .expect("finite");
        let whole = features(&signal[..1_500]).expect("finite");
        assert_eq!(bits(&frames), bits(&whole));
    }
}

#[test]
fn the_largest_sample_gives_finite_features() {
    let loudest = FrontendSettings {
        gain: Some(GainSettings {
            smoothing: f32::MIN_POSITIVE,
            fall_db_per_s: 0.0,
            target: 1e12,
            least: 1e-6,
        }),
        ..FrontendSettings::default()
    };
    for settings in [FrontendSettings::default(), levelled(), loudest] {
        let features = log_mel(&settings, &[1e6; 4_800]).expect("the limit itself is allowed");
        assert!(features.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn other_settings_are_refused_by_name() {
    let default = FrontendSettings::default();
    let cases = [
        (
            "sample_rate_hz",
            FrontendSettings {
                sample_rate_hz: 8_000,
                ..default
            },
        ),
        (
            "window_samples",
            FrontendSettings {
                window_samples: 400,
                ..default
            },
        ),
        (
            "hop_samples",
            FrontendSettings {
                hop_samples: 320,
                ..default
            },
        ),
        (
            "fft_size",
            FrontendSettings {
                fft_size: 1_024,
                ..default
            },
        ),
        (
            "mel_bins",
            FrontendSettings {
                mel_bins: 80,
                ..default
            },
        ),
        (
            "low_hz",
            FrontendSettings {
                low_hz: 20.0,
                ..default
            },
        ),
        (
            "high_hz",
            FrontendSettings {
                high_hz: 7_600.0,
                ..default
            },
        ),
        (
            "log_floor",
            FrontendSettings {
                log_floor: f32::NAN,
                ..default
            },
        ),
    ];
    let gain = GainSettings::default();
    let gains = [
        (
            "gain.smoothing",
            GainSettings {
                smoothing: 0.0,
                ..gain
            },
        ),
        (
            "gain.fall_db_per_s",
            GainSettings {
                fall_db_per_s: -1.0,
                ..gain
            },
        ),
        (
            "gain.target",
            GainSettings {
                target: f32::NAN,
                ..gain
            },
        ),
        ("gain.least", GainSettings { least: 0.0, ..gain }),
    ];
    let gains = gains.map(|(name, gain)| {
        let gain = Some(gain);
        (name, FrontendSettings { gain, ..default })
    });
    for (name, settings) in cases.into_iter().chain(gains) {
        match Frontend::new(&settings) {
            Err(
                FrontendError::UnsupportedSetting { field, .. }
                | FrontendError::BadGain { field, .. },
            ) => {
                assert_eq!(field, name);
            }
            other => panic!("expected {name} to be refused, found {other:?}"),
        }
    }
}

#[test]
fn settings_survive_json_and_refuse_unknown_fields() {
    let settings = levelled();
    let json = serde_json::to_string(&settings).expect("plain numbers");
    assert_eq!(
        serde_json::from_str::<FrontendSettings>(&json).expect("own output"),
        settings
    );
    let json = serde_json::to_string(&FrontendSettings::default()).expect("plain numbers");
    assert!(!json.contains("gain"), "{json}");
    let unknown = json.replace("log_floor", "log_ceiling");
    assert!(serde_json::from_str::<FrontendSettings>(&unknown).is_err());
}

proptest! {
    #[test]
    fn any_chunking_gives_the_bits_of_the_whole(
        samples in prop::collection::vec(-1.0f32..=1.0, 0..3_000),
        chunk_lengths in prop::collection::vec(0usize..700, 1..20),
        earlier in prop::collection::vec(-1.0f32..=1.0, 0..600),
        with_level in any::<bool>(),
    ) {
        let settings = if with_level { levelled() } else { FrontendSettings::default() };
        let mut frontend = Frontend::new(&settings).expect("settings that are computed");
        // A used front end that was reset is like a new one.
        frontend.push(&earlier, &mut Vec::new()).expect("finite");
        frontend.reset();

        let mut frames = Vec::new();
        let mut rest = samples.as_slice();
        for length in chunk_lengths.iter().cycle() {
            // Zero-length chunks are tried, too; the one added here lets the loop end.
            let (chunk, left) = rest.split_at(rest.len().min(*length));
            frontend.push(chunk, &mut frames).expect("finite");
            let (next, left) = left.split_at(left.len().min(1));
            frontend.push(next, &mut frames).expect("finite");
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(frames.len(), frame_count(samples.len()) * 40);
        prop_assert_eq!(bits(&frames), bits(&log_mel(&settings, &samples).expect("finite")));
    }
}
