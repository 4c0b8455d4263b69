//! Words made of tones, in the layouts of the datasets.

use std::path::{Path, PathBuf};

const SAMPLE_RATE_HZ: u32 = 16_000;

/// One second with a tone from 0.3 to 0.5 s and one from 0.5 to 0.7 s, in Hz.
pub(crate) fn write_tones(path: &Path, hz: [f32; 2], level: f32) {
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

/// `<word>/<speaker>_nohash_<n>.wav`: each word two tones, each of 30 speakers a pitch and a level.
#[allow(dead_code)]
pub(crate) fn speech(folder: &Path, words: &[(&str, [f32; 2])]) -> PathBuf {
    for (word, hz) in words {
        for speaker in 0..30 {
            let name = format!("{word}/{:08x}_nohash_0.wav", speaker * 77_777 + 1);
            let pitch = 1.0 + 0.004 * speaker as f32;
            write_tones(
                &folder.join(name),
                hz.map(|hz| hz * pitch),
                0.2 + 0.02 * speaker as f32,
            );
        }
    }
    folder.to_path_buf()
}

/// `mswc/<language>/clips/<word>/…` below a folder, with the table of its splits: of each word so many clips, each by another speaker, 22 of them TRAIN,
/// then 22 DEV, then TEST.
#[allow(dead_code)]
pub(crate) fn mswc(folder: &Path, language: &str, words: &[(&str, f32)], clips: usize) {
    let place = folder.join("mswc").join(language);
    let mut table = "SET,LINK,WORD,VALID,SPEAKER,GENDER\n".to_string();
    for (word, hz) in words {
        for n in 0..clips {
            let set = ["TRAIN", "DEV", "TEST"][(n / 22).min(2)];
            let link = format!("{word}/common_voice_{word}_{n}.wav");
            let hz = hz * (1.0 + 0.004 * n as f32);
            write_tones(&place.join("clips").join(&link), [hz, hz], 0.3);
            table += &format!("{set},{link},{word},True,speaker{n},NA\n");
        }
    }
    std::fs::write(place.join(format!("{language}_splits.csv")), table).expect("a table");
}
