//! Something that a device does, so many times: what `runtime/benches/instructions.sh` counts the instructions of.
//!
//! `cargo run -p swr-firmware-sim --no-default-features --example parts -- models/small load 3`

use std::path::Path;

use anyhow::{Context, Result, bail};
use swr_core::SAMPLE_RATE_HZ;
use swr_core::network::Network;
use swr_core::package::{
    Delta, DetachedSignature, Digest, PublicKey, Tensors, digest, merge, onnx::initializers,
};
use swr_firmware_sim::flash::Nor;
use swr_firmware_sim::listen::hear;
use swr_firmware_sim::publisher::{Catalogue, Item, Package, SHIPPED};
use swr_update::Device;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let models = arguments.next().context("expected a folder of models")?;
    let part = arguments.next().context("expected a part")?;
    let times: usize = arguments
        .next()
        .context("expected how many times")?
        .parse()?;
    let catalogue = Catalogue::open(Path::new(&models))?;
    let release = [
        catalogue.package(Item::good("en", SHIPPED))?,
        catalogue.package(Item::good("ar", SHIPPED))?,
    ];
    let tensors = initializers(release[0].file("base.onnx")?)?;
    let delta = release[1].file("ar.swr")?;
    let merged = merge(&tensors, &Delta::read(delta)?)?;
    let keys = [catalogue.public_key()?];
    let mut flash = Nor::<1, 4_096>::new(128, false);
    let provisioned = release
        .clone()
        .map(|package| (package.entry, package.bytes));
    Device::provision(&mut flash, &keys, &provisioned)?;

    for _ in 0..times {
        match part.as_str() {
            "start" => drop(Device::open(&mut flash, &keys)?.start()?),
            "verify" => verify(&keys[0], &release, &tensors)?,
            "merge" => drop(merge(&tensors, &Delta::read(delta)?)?),
            "build" => drop(Network::new(&merged)?),
            "load" => drop(Device::open(&mut flash, &keys)?.load("ar")?),
            "trial" => {
                let model = Device::open(&mut flash, &keys)?.load("ar")?;
                model.golden.check(&model.network, &model.language.labels)?;
            }
            // The second's own: what a start takes and the silence around it are the same for any number of seconds.
            "second" => {}
            _ => bail!("{part}: no such part"),
        }
    }
    if part == "second" {
        let model = Device::open(&mut flash, &keys)?.load("ar")?;
        let mut random = 1u32;
        let second = [0.0; SAMPLE_RATE_HZ as usize].map(|_: f32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((random >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * 0.1
        });
        let heard = hear(&model, &second.repeat(times), |_| ())?;
        println!("{} keywords", heard.len());
    }
    Ok(())
}

/// Signatures and digests of a base and a language, as a device checks them when it loads the language.
fn verify(key: &PublicKey, release: &[Package; 2], tensors: &Tensors) -> Result<()> {
    for package in release {
        for (name, file) in &package.files {
            match name.strip_suffix(".minisig") {
                Some(signed) => {
                    let signature: DetachedSignature = std::str::from_utf8(file)?.parse()?;
                    key.check(package.file(signed)?, &signature)?;
                }
                None if name.ends_with(".swr") => key.check_embedded(file)?,
                None => {}
            }
        }
        Digest::of_bytes(&package.bytes);
    }
    Digest::of_bytes(release[0].file("base.onnx")?);
    digest(tensors);
    Ok(())
}
