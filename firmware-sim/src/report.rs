//! What models cost on a device: whether base and languages fit, what an update sends and wears, how much memory loading takes. Everything is measured on the update code itself,
//! on the device's flash, with the models that are there; what is assumed is said.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use peak_alloc::PeakAlloc;
use serde::{Deserialize, Serialize};
use swr_core::network::graph::streaming_graph;
use swr_core::package::{Delta, merge, onnx::initializers};

use crate::device::{Device, Processor, Storage};
use crate::flash::{Counters, Nor};
use crate::publisher::{Catalogue, Item, Package, SHIPPED};

/// Counts what is allocated; of the program, and of tests that need it.
#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Weeks of updates in a year.
const WEEKS: u32 = 52;
/// Energy of a byte over Wi-Fi, and of a program and an erase: assumptions, in microjoule.
const WIFI_UJ_PER_BYTE: f64 = 0.2;
const FLASH_UJ_PER_PROGRAM: f64 = 30.0;
const FLASH_UJ_PER_ERASE: f64 = 2_000.0;
/// The processor while it verifies and tries, an assumption, in milliwatt: microjoule a millisecond.
const PROCESSOR_MW: f64 = 80.0;

/// The costs of one device.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// The device's name.
    pub device: &'static str,
    /// Languages beside the base.
    pub languages: usize,
    /// Bytes for models that the device has; none for a card, where they do not matter.
    pub storage_bytes: Option<u64>,
    /// Bytes that base and languages occupy: on flash in whole sectors, with the record.
    pub occupied_bytes: u64,
    /// The same for a whole network a language.
    pub whole_models_bytes: u64,
    /// Bytes over the air for a new version of one language: delta, golden clip, signatures.
    pub language_update_bytes: u64,
    /// The same as a whole network.
    pub whole_model_update_bytes: u64,
    /// Bytes over the air for a new base with all its languages.
    pub base_update_bytes: u64,
    /// Highest memory in use while a language is loaded: read, verified, merged, made a network.
    pub load_peak_bytes: u64,
    /// Highest memory in use in a start with a trial.
    pub trial_peak_bytes: u64,
    /// Memory that a loaded language keeps.
    pub loaded_bytes: u64,
    /// Memory for data that the device has.
    pub ram_bytes: u64,
    /// How long the device takes for what it does.
    pub times: Times,
    /// Flash wear, where there is flash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wear: Option<Wear>,
}

/// Instructions of what a device does, counted under qemu-user: `runtime/benches/instructions.sh` counts them and writes the file.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Instructions {
    /// A start without a trial: the record is read.
    start: u64,
    /// Signatures and digests of base and language, as they are checked when the language is loaded.
    verify: u64,
    /// The delta decoded and merged, and the digests of the base's tensors and of what comes out.
    merge: u64,
    /// The language read from flash, verified, merged, made a network.
    load: u64,
    /// The same, and its golden clip heard.
    trial: u64,
    /// A second of audio: front end, network, detector.
    second: u64,
}

#[derive(Deserialize)]
struct Counted {
    aarch64: Instructions,
    armv7: Instructions,
}

const COUNTED: &str = include_str!("../instructions.json");

/// Times by instruction count, by [`TIMES`]; a language is Arabic.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// From the start of the program to a language that listens: the record, then all of `load_ms`.
    pub boot_ms: f64,
    /// Signatures and digests of base and language.
    pub verify_ms: f64,
    /// The delta decoded, merged, and checked.
    pub merge_ms: f64,
    /// The language read, verified, merged, made a network.
    pub load_ms: f64,
    /// Loading the language and hearing its golden clip, once after an update.
    pub trial_ms: f64,
    /// Time for a second of audio, in seconds.
    pub real_time_factor: f64,
}

/// How times are estimated, with the assumption.
pub const TIMES: &str = "times: instructions counted under qemu-user (aarch64; armv7 in place of the Cortex-M33) / clock, one instruction a cycle assumed; reading and writing of flash or card, and what runs before swr does, are left out";

impl Times {
    fn of(device: &Device) -> Result<Self> {
        let counted: Counted = serde_json::from_str(COUNTED)?;
        let counted = match device.processor {
            Processor::Aarch64 => counted.aarch64,
            Processor::Armv7 => counted.armv7,
        };
        let ms = |instructions: u64| instructions as f64 * 1e3 / device.clock_hz as f64;
        Ok(Self {
            boot_ms: ms(counted.start + counted.load),
            verify_ms: ms(counted.verify),
            merge_ms: ms(counted.merge),
            load_ms: ms(counted.load),
            trial_ms: ms(counted.trial),
            real_time_factor: ms(counted.second) / 1e3,
        })
    }
}

/// A year in which one language is updated each week.
#[derive(Clone, Debug, Serialize)]
pub struct Wear {
    /// Erases of the sector that was erased most.
    pub most_erases: u32,
    /// Erases of all sectors together.
    pub erases: u64,
    /// Program operations.
    pub programs: u64,
    /// Years until the most worn sector reaches what its data sheet promises.
    pub years: f64,
    /// Energy of an update, by [`ENERGY`].
    pub update_millijoule: f64,
}

/// How the energy of an update is estimated, with its assumptions.
pub const ENERGY: &str = "bytes x 0.2 uJ (Wi-Fi, 1 W at 5 MB/s) + programs x 30 uJ (25 mA, 3.3 V, 0.4 ms) + erases x 2,000 uJ (25 mA, 3.3 V, 25 ms) + (load + trial) x 80 mW, the processor at work";

/// Languages in turn, until there are so many: further ones are the models' own under other names, so that sizes are those of real deltas.
fn languages(catalogue: &Catalogue, count: usize) -> Result<Vec<Package>> {
    let there: Vec<String> = catalogue.languages()?[1..].to_vec();
    if there.is_empty() {
        bail!("the folder of models has no language beside its base");
    }
    let mut packages = Vec::new();
    for number in 0..count {
        let language = &there[number % there.len()];
        packages.push(catalogue.package(Item::good(language, SHIPPED))?);
    }
    Ok(packages)
}

/// Measures a device with a number of languages beside the base.
///
/// # Errors
/// If models are missing or do not fit in the device.
pub fn costs(device: &Device, catalogue: &Catalogue, count: usize) -> Result<Costs> {
    let base = catalogue.package(Item::good(catalogue.base_language(), SHIPPED))?;
    let languages = languages(catalogue, count)?;
    let whole = whole_networks(catalogue)?;
    let whole_of = |package: &Package| whole[&package.entry.language];
    let bytes = |package: &Package| package.bytes.len() as u64;
    let average = |sum: u64| sum / languages.len().max(1) as u64;
    let (unit, fixed) = match device.storage {
        Storage::Nor { sector_bytes, .. } => (sector_bytes as u64, 4 * sector_bytes as u64),
        Storage::Card => (4_096, 0),
    };
    let occupied = |package: &Package| match device.storage {
        Storage::Nor { .. } => bytes(package).next_multiple_of(unit),
        // Every file in blocks of its own.
        Storage::Card => {
            let files = package.files.iter();
            files
                .map(|(_, file)| (file.len() as u64).next_multiple_of(unit))
                .sum()
        }
    };
    let base_manifest =
        base.entry.files.iter().map(|file| file.bytes).sum::<u64>() - whole_of(&base);
    let times = Times::of(device)?;
    let (load_peak_bytes, trial_peak_bytes, loaded_bytes) = memory(catalogue)?;
    Ok(Costs {
        device: device.name,
        languages: languages.len(),
        storage_bytes: match device.storage {
            Storage::Nor {
                sector_bytes,
                sectors,
                ..
            } => Some((sector_bytes * sectors) as u64),
            Storage::Card => None,
        },
        occupied_bytes: fixed + occupied(&base) + languages.iter().map(occupied).sum::<u64>(),
        whole_models_bytes: fixed
            + occupied(&base)
            + languages
                .iter()
                .map(|package| (whole_of(package) + base_manifest).next_multiple_of(unit))
                .sum::<u64>(),
        language_update_bytes: average(languages.iter().map(bytes).sum()),
        whole_model_update_bytes: average(
            languages.iter().map(|p| whole_of(p) + base_manifest).sum(),
        ),
        base_update_bytes: bytes(&base) + languages.iter().map(bytes).sum::<u64>(),
        load_peak_bytes,
        trial_peak_bytes,
        loaded_bytes,
        ram_bytes: device.ram_bytes,
        times,
        wear: match device.storage {
            Storage::Nor {
                word_bytes: 1,
                sectors,
                endurance,
                ..
            } => Some(wear::<1, 4_096>(
                catalogue, sectors, false, endurance, times,
            )?),
            Storage::Nor {
                sectors, endurance, ..
            } => Some(wear::<16, 8_192>(
                catalogue, sectors, true, endurance, times,
            )?),
            Storage::Card => None,
        },
    })
}

/// Bytes of each language's merged network as a file of its own.
fn whole_networks(catalogue: &Catalogue) -> Result<BTreeMap<String, u64>> {
    let read = |name: &str| std::fs::read(catalogue.models().join(name));
    let base_bytes = read("base.onnx")?;
    let base = initializers(&base_bytes)?;
    let mut whole = BTreeMap::from([(
        catalogue.base_language().to_owned(),
        base_bytes.len() as u64,
    )]);
    for language in &catalogue.languages()?[1..] {
        let merged = merge(&base, &Delta::read(&read(&format!("{language}.swr"))?)?)?;
        let onnx = streaming_graph(1.0, &merged)?;
        whole.insert(language.clone(), onnx.len() as u64);
    }
    Ok(whole)
}

type SmallFlash = Nor<1, 4_096>;

/// A device with the base and every language of the folder.
fn provisioned<const W: usize, const E: usize>(
    catalogue: &Catalogue,
    sectors: usize,
    ecc: bool,
) -> Result<Nor<W, E>> {
    let mut flash = Nor::new(sectors, ecc);
    let mut release = Vec::new();
    for language in catalogue.languages()? {
        let package = catalogue.package(Item::good(&language, SHIPPED))?;
        release.push((package.entry, package.bytes));
    }
    swr_update::Device::provision(&mut flash, &[catalogue.public_key()?], &release)?;
    Ok(flash)
}

fn update<const W: usize, const E: usize>(
    flash: &mut Nor<W, E>,
    catalogue: &Catalogue,
    package: &Package,
) -> Result<()> {
    let mut device = swr_update::Device::open(flash, &[catalogue.public_key()?])?;
    let from = device.stage(&package.entry)? as usize;
    device.write(&package.bytes[from..])?;
    device.finish()?;
    device.commit(&[])?;
    Ok(())
}

/// Peaks while a language is loaded and in a start with a trial, and what a loaded language keeps. Nothing else of the process may run meanwhile.
fn memory(catalogue: &Catalogue) -> Result<(u64, u64, u64)> {
    let mut flash: SmallFlash = provisioned(catalogue, 512, false)?;
    let keys = [catalogue.public_key()?];
    let languages = catalogue.languages()?;
    let (mut load_peak, mut kept) = (0, 0);
    for language in &languages {
        let mut device = swr_update::Device::open(&mut flash, &keys)?;
        let before = ALLOCATED.current_usage();
        ALLOCATED.reset_peak_usage();
        let model = device.load(language)?;
        load_peak = load_peak.max(ALLOCATED.peak_usage().saturating_sub(before));
        kept = kept.max(ALLOCATED.current_usage().saturating_sub(before));
        drop(model);
    }
    let language = &languages[languages.len() - 1];
    let package = catalogue.package(Item::good(language, SHIPPED + 1))?;
    update(&mut flash, catalogue, &package)?;
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    swr_update::Device::open(&mut flash, &keys)?.start()?;
    let trial_peak = ALLOCATED.peak_usage().saturating_sub(before);
    Ok((load_peak as u64, trial_peak as u64, kept as u64))
}

/// A year of weekly updates, each of another language.
fn wear<const W: usize, const E: usize>(
    catalogue: &Catalogue,
    sectors: usize,
    ecc: bool,
    endurance: u32,
    times: Times,
) -> Result<Wear> {
    let mut flash: Nor<W, E> = provisioned(catalogue, sectors, ecc)?;
    let keys = [catalogue.public_key()?];
    let languages = catalogue.languages()?[1..].to_vec();
    let (start, worn) = (flash.counters(), flash.wear().to_vec());
    let mut sent = 0;
    for week in 0..WEEKS {
        let language = &languages[week as usize % languages.len()];
        let package = catalogue.package(Item::good(language, SHIPPED + 1 + week))?;
        sent += package.bytes.len();
        update(&mut flash, catalogue, &package)?;
        let started = swr_update::Device::open(&mut flash, &keys)?.start()?;
        if let Some(refused) = started.refused {
            bail!("week {week}: {refused}");
        }
    }
    let Counters {
        programs, erases, ..
    } = flash.counters();
    let (programs, erases) = (programs - start.programs, erases - start.erases);
    let in_the_year = flash.wear().iter().zip(&worn).map(|(now, then)| now - then);
    let most_erases = in_the_year.max().unwrap_or(0);
    let energy = sent as f64 * WIFI_UJ_PER_BYTE
        + programs as f64 * FLASH_UJ_PER_PROGRAM
        + erases as f64 * FLASH_UJ_PER_ERASE;
    let update_millijoule = energy / 1_000.0 / f64::from(WEEKS)
        + (times.load_ms + times.trial_ms) * PROCESSOR_MW / 1_000.0;
    Ok(Wear {
        most_erases,
        erases,
        programs,
        years: f64::from(endurance) / f64::from(most_erases.max(1)),
        update_millijoule,
    })
}
