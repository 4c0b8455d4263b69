//! A device's start: the record, then a language read from flash, verified, merged and made a network, so many times: what `runtime/benches/instructions.sh` counts the
//! instructions of.
//!
//! `cargo run -p swr-firmware-sim --no-default-features --example load -- models 3`

use std::path::Path;

use anyhow::{Context, Result};
use swr_firmware_sim::flash::Nor;
use swr_firmware_sim::publisher::{Catalogue, Flaw, Item, SHIPPED};
use swr_update::Device;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let models = arguments.next().context("expected a folder of models")?;
    let loads: usize = arguments
        .next()
        .context("expected a number of loads")?
        .parse()?;
    let catalogue = Catalogue::open(Path::new(&models))?;
    let release = ["en", "ar"].map(|language| {
        let package = catalogue.package(Item {
            language,
            version: SHIPPED,
            base: SHIPPED,
            flaw: Flaw::None,
        })?;
        Ok((package.entry, package.bytes))
    });
    let release: Vec<_> = release.into_iter().collect::<Result<_>>()?;
    let keys = [catalogue.public_key()?];
    let mut flash = Nor::<1, 4_096>::new(128, false);
    Device::provision(&mut flash, &keys, &release)?;
    for _ in 0..loads {
        let mut device = Device::open(&mut flash, &keys)?;
        device.start()?;
        let model = device.load("ar")?;
        println!("{}: {} classes", model.language, model.network.classes());
    }
    Ok(())
}
