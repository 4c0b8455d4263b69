//! A microphone that is really recorded from, without hardware: PulseAudio with a null sink, whose monitor is the microphone. What is played into the sink
//! is heard; a device that goes away and comes back is picked up again; silence is told.
//!
//! Needs `pulseaudio` and `pulseaudio-utils`: `cargo test --workspace --features swr-runtime/live --test live`.
#![cfg(feature = "live")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const SINK: &str = "sink_name=testsink rate=16000 channels=1 format=s16le";
/// Seconds of the sample that are played.
const CLIP_S: usize = 10;

/// A sound server of our own.
struct Sound {
    folder: TempDir,
    server: Child,
}

impl Sound {
    fn start() -> Sound {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder.path(), private).expect("a private folder");
        let server = Command::new("pulseaudio")
            .args(["-n", "--daemonize=no", "--exit-idle-time=-1"])
            .args(["-L", "module-native-protocol-unix"])
            .args(["-L", &format!("module-null-sink {SINK}")])
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("HOME", folder.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("pulseaudio runs; install pulseaudio and pulseaudio-utils");
        let sound = Sound { folder, server };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !sound
            .command("pactl")
            .arg("info")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("pactl runs")
            .success()
        {
            assert!(Instant::now() < deadline, "pulseaudio does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        sound
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.env("HOME", self.folder.path());
        command
    }

    fn pactl(&self, arguments: &[&str]) {
        let status = self
            .command("pactl")
            .args(arguments)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("pactl runs").success(), "pactl {arguments:?}");
    }

    fn play(&self, clip: &Path) {
        let mut player = self.command("paplay");
        let status = player.arg("--latency-msec=20").arg(clip).status();
        assert!(status.expect("paplay runs").success());
    }
}

impl Drop for Sound {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The program under test, with the lines that it writes.
struct Listening {
    program: Child,
    heard: Receiver<String>,
    said: Receiver<String>,
}

impl Listening {
    fn start(sound: &Sound, arguments: &[&str]) -> Listening {
        let mut program = sound
            .command(env!("CARGO_BIN_EXE_swr"))
            .args(["listen", "--models", models(), "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("swr runs");
        let lines = |stream: Box<dyn std::io::Read + Send>| {
            let (sender, receiver) = channel();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
            receiver
        };
        let heard = lines(Box::new(program.stdout.take().expect("its output")));
        let said = lines(Box::new(program.stderr.take().expect("its messages")));
        Listening {
            program,
            heard,
            said,
        }
    }

    /// Waits for a message that contains `words`.
    fn wait_for(&self, words: &str, seconds: u64) -> String {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.said.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("\"{words}\" was not said in {seconds} s"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// The next `count` keywords. One that is heard twice at once counts once: a sound server may play the beginning of a stream again when it starts.
    fn keywords(&self, count: usize) -> Vec<String> {
        let mut keywords: Vec<String> = Vec::new();
        while keywords.len() < count {
            let line = self.heard.recv_timeout(Duration::from_secs(20));
            let line = line.unwrap_or_else(|_| panic!("no keyword for 20 s after {keywords:?}"));
            let keyword = keyword(&line);
            if keywords.last() != Some(&keyword) {
                keywords.push(keyword);
            }
        }
        keywords
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn models() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../models/small")
}

fn keyword(line: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    event["keyword"].as_str().expect("a keyword").to_string()
}

/// The first seconds of the German sample, and the keywords that are found in them as a file.
fn clip(folder: &Path) -> (PathBuf, Vec<String>) {
    let sample = std::fs::read(format!("{}/../demo/de.flac", models())).expect("the German sample");
    let samples = swr_core::audio::decode_16k_mono(&sample).expect("audio");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: swr_core::SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let clip = folder.join("clip.wav");
    let mut writer = hound::WavWriter::create(&clip, spec).expect("a file");
    for sample in &samples[..CLIP_S * swr_core::SAMPLE_RATE_HZ as usize] {
        writer
            .write_sample((32_768.0 * sample).round() as i16)
            .expect("written");
    }
    writer.finalize().expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_swr"))
        .args(["spot", "--lang", "de", "--json", "--models", models()])
        .arg(&clip)
        .output()
        .expect("swr runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let keywords: Vec<String> = text.lines().map(keyword).collect();
    assert!(keywords.len() >= 3, "{keywords:?}");
    (clip, keywords)
}

#[test]
fn a_microphone_is_heard_lost_and_found_again() {
    let sound = Sound::start();
    let (clip, keywords) = clip(sound.folder.path());

    let output = sound
        .command(env!("CARGO_BIN_EXE_swr"))
        .args(["devices", "--json"])
        .output();
    let output = output.expect("swr runs");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && listed.contains("testsink"),
        "{listed}"
    );

    let listening = Listening::start(&sound, &["--lang", "de"]);
    listening.wait_for("listening to", 20);
    sound.play(&clip);
    assert_eq!(listening.keywords(keywords.len()), keywords);
    listening.wait_for("nothing but silence", 15);

    sound.pactl(&["unload-module", "module-null-sink"]);
    let gone = listening.wait_for("is gone", 20);
    assert!(gone.contains("waiting"), "{gone}");
    sound.pactl(&[
        "load-module",
        "module-null-sink",
        "sink_name=testsink",
        "rate=16000",
        "channels=1",
        "format=s16le",
    ]);
    listening.wait_for("is back", 20);
    sound.play(&clip);
    assert_eq!(listening.keywords(keywords.len()), keywords);
}

#[test]
fn a_device_is_chosen_by_part_of_its_name() {
    let sound = Sound::start();
    sound.pactl(&[
        "load-module",
        "module-null-sink",
        "sink_name=other",
        "sink_properties=device.description=Kitchen",
        "rate=44100",
        "channels=2",
    ]);
    let (clip, keywords) = clip(sound.folder.path());
    // Heard at another rate and in stereo, and only there.
    let listening = Listening::start(&sound, &["--lang", "de", "--device", "kitchen"]);
    let told = listening.wait_for("listening to", 20);
    assert!(told.contains("Kitchen"), "{told}");
    let mut player = sound.command("paplay");
    let status = player
        .args(["--latency-msec=20", "--device=other"])
        .arg(&clip)
        .status();
    assert!(status.expect("paplay runs").success());
    assert_eq!(listening.keywords(keywords.len()), keywords);

    let mut missing = sound.command(env!("CARGO_BIN_EXE_swr"));
    let missing = missing.args([
        "listen",
        "--models",
        models(),
        "--device",
        "nothing like it",
    ]);
    let output = missing.output().expect("swr runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("nothing like it") && said.contains("Kitchen"),
        "{said}"
    );
}
