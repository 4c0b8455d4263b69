//! Claims about devices with flash: no cut breaks one, mistakes in the update code are noticed, and what is wrong from outside is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
#[cfg(feature = "card")]
use swr_firmware_sim::card;
use swr_firmware_sim::cuts::{Extent, Swept};
use swr_firmware_sim::publisher::{Catalogue, Packages};
use swr_firmware_sim::random::{Action, World};
use swr_firmware_sim::scenario::{self, Scenario};
use swr_firmware_sim::sweep::{Part, sweep};
use swr_update::Sabotage;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/small")
}

const PART: Part = Part {
    sectors: 512,
    ecc: false,
};

/// A reduced sweep, for tests; `swr-sim update --cut every` is the whole one.
const SOME: Extent = Extent {
    every: 13,
    torn_states: 6,
    seed: 7,
};

fn swept(scenarios: &[Scenario], extent: &Extent, sabotage: Option<Sabotage>) -> Swept {
    let catalogue = Catalogue::open(&models()).expect("the released models");
    let items = scenarios.iter().flat_map(Scenario::items);
    let packages = Packages::new(&catalogue, items).expect("packages");
    let key = catalogue.public_key().expect("a key");
    let each = scenarios.iter().map(|scenario| {
        sweep::<1, 4_096>(scenario, &packages, &key, &PART, extent, sabotage).expect("a sweep")
    });
    each.fold(Swept::default(), Swept::and)
}

#[test]
fn no_cut_breaks_a_device() {
    let swept = swept(&scenario::all(), &SOME, None);
    assert!(swept.is_clean(), "{:#?}", swept.findings);
    assert!(
        swept.cuts > 100 && swept.torn == 6 * swept.cuts,
        "{swept:?}"
    );
    assert!(
        swept.woke_old > 0 && swept.woke_new > 0 && swept.trials_run > 100 && swept.cut_again > 20
    );
}

#[cfg(feature = "card")]
fn swept_on_a_card(lies: bool) -> Swept {
    let scenarios = scenario::all();
    let catalogue = Catalogue::open(&models()).expect("the released models");
    let items = scenarios.iter().flat_map(Scenario::items);
    let packages = Packages::new(&catalogue, items).expect("packages");
    let key = catalogue.public_key().expect("a key");
    let each = scenarios
        .iter()
        .map(|scenario| card::sweep(scenario, &packages, &key, &SOME, lies).expect("a sweep"));
    each.fold(Swept::default(), Swept::and)
}

#[cfg(feature = "card")]
#[test]
fn no_cut_breaks_a_directory_of_models() {
    let swept = swept_on_a_card(false);
    assert!(swept.is_clean(), "{:#?}", swept.findings);
    assert!(
        swept.cuts > 40 && swept.woke_old > 0 && swept.woke_new > 0,
        "{swept:?}"
    );
}

#[cfg(feature = "card")]
#[test]
fn a_card_that_does_not_sync_is_noticed() {
    let swept = swept_on_a_card(true);
    assert!(swept.lost > 0 && swept.bricked > 0, "{swept:?}");
}

/// Bases with their Arabic, one after the other, are put to use in a real folder while it is read all the time.
#[cfg(feature = "card")]
#[test]
fn who_reads_while_a_release_is_put_to_use_finds_one_that_holds_together() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use swr_firmware_sim::publisher::{Item, SHIPPED};
    use swr_runtime::Models;
    use swr_runtime::install::{self, Disk, Folder, RELEASE};

    let catalogue = Catalogue::open(&models()).expect("the released models");
    let keys = [catalogue.public_key().expect("a key")];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let mut disk = Folder(path.into());
    let mut put_to_use = |version: u32| {
        install::begin(&mut disk).expect("a release");
        for language in ["en", "ar"] {
            let item = Item {
                base: version,
                ..Item::good(language, version)
            };
            for (name, bytes) in catalogue.package(item).expect("a package").files {
                disk.write(&format!("{RELEASE}/{name}"), &bytes)
                    .expect("a file");
            }
        }
        install::commit(&mut disk).expect("a release in use");
        install::settle(&mut disk).expect("a release in its place");
        disk.remove_folder(install::PULL).expect("nothing left");
    };
    put_to_use(SHIPPED);
    // As many releases as are seldom read between, and more where the reader has had little of the processor.
    const LEAST_RELEASES: u32 = 40;
    const MOST_RELEASES: u32 = 4_000;
    const LEAST_READS: usize = 21;
    let (reads, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let renewed = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut renewed, mut highest) = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                let models =
                    Models::open_trusting(path, &keys).expect("a base that holds together");
                let version = models.manifest().model_version;
                assert!(version >= highest, "{version} after {highest}");
                highest = version;
                match models.load("ar") {
                    Ok(_) => drop(reads.fetch_add(1, Ordering::Relaxed)),
                    // Another base came after this one was read.
                    Err(error) => {
                        let now = Models::open_trusting(path, &keys).expect("a base");
                        assert!(now.manifest().model_version > version, "{error}");
                        renewed += 1;
                    }
                }
            }
            renewed
        });
        for version in 1..=MOST_RELEASES {
            put_to_use(SHIPPED + version);
            let enough = reads.load(Ordering::Relaxed) >= LEAST_READS;
            if reader.is_finished() || (enough && version >= LEAST_RELEASES) {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
        reader.join().expect("a reader that read all the time")
    });
    let reads = reads.into_inner();
    assert!(
        reads >= LEAST_READS,
        "{reads} reads, {renewed} of a base that was gone"
    );
}

#[test]
fn an_update_tries_what_it_changes() {
    use swr_firmware_sim::flash::Nor;
    use swr_firmware_sim::publisher::{Item, SHIPPED};
    use swr_update::Device;

    let catalogue = Catalogue::open(&models()).expect("the released models");
    let keys = [catalogue.public_key().expect("a key")];
    let on = |base, language, version| {
        let item = Item {
            base,
            ..Item::good(language, version)
        };
        let package = catalogue.package(item).expect("a package");
        (package.entry, package.bytes)
    };
    let mut flash = Nor::<1, 4_096>::new(PART.sectors, PART.ecc);
    let factory = ["en", "ar", "de"].map(|language| on(SHIPPED, language, SHIPPED));
    Device::provision(&mut flash, &keys, &factory).expect("a release that fits");
    let mut tried = |release: &[(swr_core::package::Entry, Vec<u8>)]| {
        let mut device = Device::open(&mut flash, &keys).expect("a record");
        for (entry, bytes) in release {
            device.stage(entry).expect("a download");
            device.write(bytes).expect("a write");
            device.finish().expect("all of it");
        }
        device.commit(&[]).expect("a good release");
        let mut tried = Vec::new();
        let see = |model: &swr_update::Model| {
            tried.push(model.language.code.clone());
            Ok(())
        };
        assert!(device.start_with(see).expect("a start").confirmed);
        tried
    };
    assert_eq!(tried(&[on(SHIPPED, "ar", SHIPPED + 1)]), ["ar"]);
    let new = SHIPPED + 2;
    let release = ["en", "ar", "de"].map(|language| on(new, language, new));
    assert_eq!(tried(&release), ["en", "ar", "de"]);
}

/// The scenario in which a mistake must show, and how closely one must look.
fn shows(sabotage: Sabotage) -> (&'static str, usize) {
    match sabotage {
        Sabotage::InPlace | Sabotage::EraseFirst | Sabotage::AcknowledgeEarly => ("languages", 7),
        Sabotage::ResumeUnseen | Sabotage::RepairErasesFirst => ("languages", 7),
        Sabotage::BaseFirst => ("new-base", 4),
        Sabotage::NoTrial | Sabotage::FloorBeforeTrial => ("bad-release", 13),
        Sabotage::Unsigned => ("unsigned", 13),
        Sabotage::EndlessTrial => ("crash", 13),
    }
}

#[test]
fn every_mistake_in_the_update_code_is_noticed() {
    let mut clean = BTreeSet::new();
    for sabotage in Sabotage::ALL {
        let (name, every) = shows(sabotage);
        let mut scenarios = scenario::all();
        scenarios.retain(|scenario| scenario.name == name);
        let extent = Extent {
            every,
            torn_states: 3,
            ..SOME
        };
        // The same cuts of the code as it is, once.
        if clean.insert((name, every)) {
            assert!(swept(&scenarios, &extent, None).is_clean(), "{name}");
        }
        let broken = swept(&scenarios, &extent, Some(sabotage));
        assert!(!broken.is_clean(), "{sabotage:?} goes unnoticed in {name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random lives: sends, commits, removals, restarts and cuts beside a plain map.
    #[test]
    fn random_lives_keep_their_promises(ecc: bool, actions in prop::collection::vec(any::<[u8; 4]>().prop_map(Action::of), 1..60)) {
        static WORLD: std::sync::OnceLock<World> = std::sync::OnceLock::new();
        let world = WORLD.get_or_init(|| {
            World::new(&Catalogue::open(&models()).expect("the released models")).expect("a world")
        });
        if let Err(broke) = world.live(ecc, &actions) {
            prop_assert!(false, "{broke}");
        }
    }
}
