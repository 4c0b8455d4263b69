//! Minutes of speech that says nothing: syllables drawn at random, spoken by every voice in every accent, one utterance after another, as Ogg Opus. It stands for other words
//! where somebody's own recordings hold none ([`crate::babble`]).

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use ogg::{PacketWriteEndInfo, PacketWriter};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use ropus::{Application, Bitrate, Channels, Encoder};
use swr_core::SAMPLE_RATE_HZ;

use super::SynthOptions;
use super::config::read_config;
use super::espeak::{Manner, Speaker, set_peak};
use crate::files::write_atomically;
use crate::progress::Progress;
use crate::random::generator;

const SAMPLES: usize = 10 * 60 * SAMPLE_RATE_HZ as usize;
/// Utterances spoken at a time.
const ROUND: usize = 40;
/// Languages whose spelling says how syllables sound.
const LANGUAGES: [&str; 7] = ["en", "de", "pl", "es", "fr", "it", "ru"];
const ONSETS: [&str; 30] = [
    "", "b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "y", "z", "ch",
    "sh", "st", "tr", "pl", "kr", "br", "fl", "gr", "sp", "kl", "dr",
];
const VOWELS: [&str; 10] = ["a", "e", "i", "o", "u", "ai", "ou", "ia", "ee", "oa"];
const CODAS: [&str; 12] = ["", "", "", "", "n", "r", "s", "l", "t", "m", "k", "nd"];
const BITS_PER_SECOND: u32 = 12_000;
const FRAME_SAMPLES: usize = 320;
/// Granules count samples of 48 kHz (RFC 7845, section 4).
const GRANULES: u64 = 48_000 / SAMPLE_RATE_HZ as u64;

/// Makes `babble.opus` in `options.out`.
pub fn babble(options: &SynthOptions, progress: &Progress) -> Result<()> {
    let config = read_config(options)?;
    let speaker = Speaker::find(&config)?;
    let accents: Vec<&String> = LANGUAGES
        .iter()
        .filter_map(|code| config.languages.get(*code))
        .flat_map(|language| &language.accents)
        .collect();
    ensure!(
        options.languages.is_empty() && !options.replace,
        "babble is made of all languages and replaces what is there; leave --lang and --replace away"
    );
    ensure!(
        !accents.is_empty() && !config.variants.is_empty(),
        "synth config: babble takes accents of {} and variants, found none",
        LANGUAGES.join(", ")
    );
    let utterance = |number: usize| -> Result<Vec<f32>> {
        let mut random = generator(config.seed, &[u64::MAX, number as u64]);
        let accent = accents[number % accents.len()];
        let variant =
            &config.variants[random.random_range(0..config.variants.len() as u64) as usize];
        let manner = Manner::draw(&mut random, config.speed_wpm, config.pitch);
        let words = random.random_range(3u32..=8);
        let text: Vec<String> = (0..words).map(|_| word(&mut random)).collect();
        let (mut samples, _) =
            speaker.say(&format!("{accent}+{variant}"), manner, &text.join(" "))?;
        set_peak(&mut samples, random.random_range(0.2f32..0.9));
        let gap = random.random_range(0.1f32..0.6) * SAMPLE_RATE_HZ as f32;
        samples.resize(samples.len() + gap as usize, 0.0);
        Ok(samples)
    };
    let bar = progress.bar("speaking", SAMPLES / SAMPLE_RATE_HZ as usize);
    let mut samples: Vec<f32> = Vec::new();
    for round in (0..).step_by(ROUND) {
        let spoken: Vec<Vec<f32>> = (round..round + ROUND)
            .into_par_iter()
            .map(utterance)
            .collect::<Result<_>>()?;
        samples.extend(spoken.concat());
        bar.set_position((samples.len() / SAMPLE_RATE_HZ as usize) as u64);
        if samples.len() >= SAMPLES {
            break;
        }
    }
    bar.finish_and_clear();
    samples.truncate(SAMPLES);
    let path = options.out.join("babble.opus");
    let bytes = opus(&samples)?;
    write_atomically(&path, &bytes)?;
    progress.say(&format!(
        "{}: {} bytes, {}",
        path.display(),
        bytes.len(),
        speaker.version
    ));
    Ok(())
}

/// One to four syllables.
fn word(random: &mut ChaCha8Rng) -> String {
    let mut one = |of: &[&str]| of[random.random_range(0..of.len() as u64) as usize].to_string();
    let syllables = one(&["1", "2", "2", "3", "4"]).parse().unwrap_or(1);
    (0..syllables)
        .map(|_| one(&ONSETS) + &one(&VOWELS) + &one(&CODAS))
        .collect()
}

/// An Ogg Opus file of samples at 16 kHz (RFC 7845).
fn opus(samples: &[f32]) -> Result<Vec<u8>> {
    let rate = SAMPLE_RATE_HZ;
    let mut encoder = Encoder::builder(rate, Channels::Mono, Application::Voip)
        .bitrate(Bitrate::Bits(BITS_PER_SECOND))
        .complexity(10)
        .build()
        .context("the Opus encoder")?;
    let skip = u64::from(encoder.lookahead()) * GRANULES;
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend((skip as u16).to_le_bytes());
    head.extend(rate.to_le_bytes());
    head.extend([0; 3]);
    let vendor = b"swr-train synth babble";
    let mut tags = b"OpusTags".to_vec();
    tags.extend((vendor.len() as u32).to_le_bytes());
    tags.extend(vendor);
    tags.extend([0; 4]);
    let mut file = Cursor::new(Vec::new());
    let mut pages = PacketWriter::new(&mut file);
    pages.write_packet(head, 1, PacketWriteEndInfo::EndPage, 0)?;
    pages.write_packet(tags, 1, PacketWriteEndInfo::EndPage, 0)?;
    // What the encoder looks ahead by is pushed out by silence.
    let mut padded = samples.to_vec();
    let whole = (samples.len() + encoder.lookahead() as usize).next_multiple_of(FRAME_SAMPLES);
    padded.resize(whole, 0.0);
    let frames = whole / FRAME_SAMPLES;
    for (number, frame) in padded.chunks_exact(FRAME_SAMPLES).enumerate() {
        let mut packet = vec![0; 1_500];
        let length = encoder
            .encode_float(frame, &mut packet)
            .context("an Opus packet")?;
        packet.truncate(length);
        let end = number + 1 == frames;
        let (info, granule) = match end {
            true => (
                PacketWriteEndInfo::EndStream,
                samples.len() as u64 * GRANULES + skip,
            ),
            false => (
                PacketWriteEndInfo::NormalPacket,
                (number + 1) as u64 * FRAME_SAMPLES as u64 * GRANULES,
            ),
        };
        pages.write_packet(packet, 1, info, granule)?;
    }
    Ok(file.into_inner())
}
