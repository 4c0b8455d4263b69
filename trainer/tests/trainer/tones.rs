//! Words made of tones, in the layouts of the datasets.

use std::path::{Path, PathBuf};

const SAMPLE_RATE_HZ: u32 = 16_000;

/// One second with a tone from 0.3 to 0.5 s and one from 0.5 to 0.7 s, in Hz.
fn write_tones(path: &Path, hz: [f32; 2], level: f32) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).expect("a new file");
    for i in 0..SAMPLE_RATE_HZ {
        let t = i as f32 / SAMPLE_RATE_HZ as f32;
        let hz = if t < 0.5 { hz[0] } else { hz[1] };
        let envelope = if (0.3..0.7).contains(&t) { level } else { 0.0 };
        let sample = envelope * (t * hz * std::f32::consts::TAU).sin() * 30_000.0;
        writer
            .write_sample(sample as i16)
            .expect("a written sample");
    }
    writer.finalize().expect("a written file");
}

/// Clips of words, each two tones and each clip by another speaker, who has a pitch and a level: `<word>/<speaker>_nohash_0.wav`, or with a language in the
/// layout of MSWC, `mswc/<language>/clips/<word>/…` with a table of splits: 22 clips of a word TRAIN, then 8 DEV, then TEST.
pub(crate) fn speech(
    folder: &Path,
    language: Option<&str>,
    words: &[(&str, [f32; 2])],
    clips: usize,
) -> PathBuf {
    let place = language.map(|language| folder.join("mswc").join(language));
    let mut table = "SET,LINK,WORD,VALID,SPEAKER,GENDER\n".to_string();
    for (word, hz) in words {
        for n in 0..clips {
            let hz = hz.map(|hz| hz * (1.0 + 0.004 * n as f32));
            let level = 0.2 + 0.02 * (n % 30) as f32;
            let (path, link) = match &place {
                None => {
                    let name = format!("{word}/{:08x}_nohash_0.wav", n * 77_777 + 1);
                    (folder.join(&name), name)
                }
                Some(place) => {
                    let link = format!("{word}/common_voice_{word}_{n}.wav");
                    (place.join("clips").join(&link), link)
                }
            };
            write_tones(&path, hz, level);
            let set = match n {
                0..22 => "TRAIN",
                22..30 => "DEV",
                _ => "TEST",
            };
            table += &format!("{set},{link},{word},True,speaker{n},NA\n");
        }
    }
    if let (Some(place), Some(language)) = (&place, language) {
        let file = place.join(format!("{language}_splits.csv"));
        std::fs::write(file, table).expect("a table");
    }
    folder.to_path_buf()
}
