//! Listens to seconds of noise with front end, fused network and detector alone, as a device without tract would: what `runtime/benches/instructions.sh` counts
//! the instructions of.
//!
//! `cargo run -p swr-core --example listen -- models 10`

use std::path::PathBuf;

use swr_core::detector::{Detector, DetectorSettings};
use swr_core::frontend::Frontend;
use swr_core::network::Network;
use swr_core::package::{Manifest, onnx::initializers};
use swr_core::{MEL_BINS, SAMPLE_RATE_HZ};

/// Samples that arrive together, and frames of a step: 40 ms.
const CHUNK_SAMPLES: usize = 640;
const STEP_FRAMES: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let models = PathBuf::from(arguments.next().ok_or("expected a folder of models")?);
    let seconds: usize = arguments.next().ok_or("expected seconds")?.parse()?;
    let manifest = Manifest::parse(&std::fs::read(models.join("base.json"))?)?;
    let network = Network::new(&initializers(&std::fs::read(models.join("base.onnx"))?)?)?;
    let mut state = network.state();
    let mut frontend = Frontend::new(&manifest.frontend)?;
    let thresholds = manifest.thresholds.per_label(manifest.labels.len());
    let mut detector = Detector::new(&manifest.labels, DetectorSettings::new(thresholds))?;

    let (mut frames, mut logits, mut found) = (Vec::new(), Vec::new(), 0);
    let mut random = 1u32;
    for _ in 0..seconds * SAMPLE_RATE_HZ as usize / CHUNK_SAMPLES {
        let noise = [0.0; CHUNK_SAMPLES].map(|_: f32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((random >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * 0.1
        });
        frontend.push(&noise, &mut frames)?;
        let whole = frames.len() / (STEP_FRAMES * MEL_BINS) * STEP_FRAMES * MEL_BINS;
        logits.clear();
        network.step(&mut state, &frames[..whole], &mut logits)?;
        frames.drain(..whole);
        found += detector.push(&logits).len();
    }
    println!("{seconds} s, {found} keywords");
    Ok(())
}
