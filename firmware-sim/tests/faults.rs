//! Claims about what comes from outside or from the part itself: garbage, hostile images, rot, worn sectors, full flashes, downloads that never end. The device
//! stays on its last good models and says why.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use swr_core::package::PublicKey;
use swr_firmware_sim::flash::{Defects, Nor};
use swr_firmware_sim::publisher::{Catalogue, Item, Package, SHIPPED};
use swr_update::{Device, MAX_LANGUAGES, Model, UpdateError};

type Flash = Nor<1, 4_096>;
/// Sectors of the record, before the models.
const RECORD_SECTORS: u32 = 4;
const SECTOR: u32 = 4_096;

fn catalogue() -> Catalogue {
    let models: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/small");
    Catalogue::open(&models).expect("the released models")
}

fn package(language: &'static str, version: u32) -> Package {
    catalogue()
        .package(Item::good(language, version))
        .expect("a package")
}

fn keys() -> [PublicKey; 1] {
    [catalogue().public_key().expect("a key")]
}

/// A flash with English and Arabic.
fn provisioned(flash: Flash) -> Flash {
    let mut flash = flash;
    let release = [package("en", SHIPPED), package("ar", SHIPPED)].map(|p| (p.entry, p.bytes));
    Device::provision(&mut flash, &keys(), &release).expect("a release that fits");
    flash
}

/// What a device loads: models, and errors in the place of those that it cannot.
fn loaded(flash: &mut Flash) -> Vec<Result<Model, UpdateError>> {
    let mut device = Device::open(flash, &keys()).expect("a record");
    device.start().expect("a start");
    let languages: Vec<String> = device.installed().map(|(l, _)| l.to_owned()).collect();
    languages
        .iter()
        .map(|language| device.load(language))
        .collect()
}

fn runs(flash: &mut Flash) -> Vec<(String, u32)> {
    let models = loaded(flash).into_iter();
    let models = models.map(|model| model.expect("a model that holds"));
    models
        .map(|m| (m.language.code, m.language.model_version))
        .collect()
}

fn en_and_ar(version: u32) -> Vec<(String, u32)> {
    vec![("en".into(), SHIPPED), ("ar".into(), version)]
}

fn update(flash: &mut Flash, package: &Package) -> Result<(), UpdateError> {
    let mut device = Device::open(flash, &keys())?;
    let from = device.stage(&package.entry)?;
    device.write(&package.bytes[from as usize..])?;
    device.finish()?;
    device.commit(&[])
}

#[test]
fn a_copy_of_a_flash_has_its_own_power() {
    let flash = Flash::new(8, false);
    let copy = flash.clone();
    copy.power().off();
    assert!(flash.power().is_on() && !copy.power().is_on());
}

#[test]
fn a_flash_without_a_record_is_said_to_be_one() {
    let blank = Device::open(&mut Flash::new(512, false), &keys()).unwrap_err();
    assert_eq!(blank, UpdateError::NotProvisioned);
}

#[test]
fn a_record_of_another_format_is_told_from_garbage() {
    use sha2::Digest as _;
    let mut flash = provisioned(Flash::new(512, false));
    let record = [7u8, 1, 2, 3];
    let mut bytes = 99u64.to_le_bytes().to_vec();
    bytes.extend((record.len() as u32).to_le_bytes());
    bytes.extend(record);
    let digest = sha2::Sha256::digest(&bytes);
    bytes.extend(digest);
    flash.overwrite(0, &bytes);
    let error = Device::open(&mut flash, &keys()).unwrap_err();
    assert_eq!(
        error,
        UpdateError::UnsupportedRecord {
            found: 7,
            supported: 1
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Records that are whole, and say anything: nothing panics, nothing beyond the flash is read, and what runs is signed.
    #[test]
    fn hostile_records_are_refused_or_harmless(
        format in 0u8..3,
        body in prop::collection::vec(any::<u8>(), 0..400),
        cut in 0usize..600,
        flips in prop::collection::vec((0usize..400, any::<u8>()), 0..4),
        real in any::<bool>(),
        sequence in prop_oneof![Just(u64::MAX), Just(u64::MAX - 1), 100u64..200],
    ) {
        use sha2::Digest as _;
        let mut flash = provisioned(Flash::new(512, false));
        let mut record = vec![format];
        if real {
            // The record as it is, with some bytes changed: lengths, addresses, counts.
            let mut sector = vec![0; SECTOR as usize];
            embedded_storage::nor_flash::ReadNorFlash::read(&mut flash, 0, &mut sector).expect("a read");
            let length = u32::from_le_bytes([sector[8], sector[9], sector[10], sector[11]]) as usize;
            record = sector[12..12 + length].to_vec();
            for (at, value) in flips {
                let at = at % record.len();
                record[at] = value;
            }
            record.truncate(cut.max(1));
        } else {
            record.extend(body);
        }
        let mut bytes = sequence.to_le_bytes().to_vec();
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(record);
        let digest = sha2::Sha256::digest(&bytes);
        bytes.extend(digest);
        flash.overwrite(0, &bytes);
        if let Ok(mut device) = Device::open(&mut flash, &keys())
            && device.start().is_ok()
        {
            let languages: Vec<String> = device.installed().map(|(l, _)| l.to_owned()).collect();
            for language in languages {
                if let Ok(model) = device.load(&language) {
                    prop_assert_eq!(model.language.model_version, SHIPPED);
                }
            }
        }
    }

    /// Garbage anywhere but in both copies of the record.
    #[test]
    fn garbage_among_the_models_stops_the_languages_it_hits(
        at in RECORD_SECTORS * SECTOR..40 * SECTOR,
        garbage in prop::collection::vec(any::<u8>(), 1..5_000),
    ) {
        let mut flash = provisioned(Flash::new(512, false));
        flash.overwrite(at, &garbage);
        let all = loaded(&mut flash);
        for model in &all {
            let holds_or_is_damaged = matches!(model, Ok(_) | Err(UpdateError::Damaged { .. }));
            prop_assert!(holds_or_is_damaged);
        }
        // Whatever is gone can be sent again.
        let mut device = Device::open(&mut flash, &keys()).expect("a record");
        for package in [package("en", SHIPPED), package("ar", SHIPPED)] {
            device.stage(&package.entry).expect("room");
            device.write(&package.bytes).expect("a write");
            device.finish().expect("a download");
        }
        device.commit(&[]).expect("a good release");
        prop_assert_eq!(runs(&mut flash), en_and_ar(SHIPPED));
    }
}

#[test]
fn a_language_that_rots_holds_up_no_other() {
    let mut flash = provisioned(Flash::new(512, false));
    update(&mut flash, &package("de", SHIPPED)).expect("room");
    Device::open(&mut flash, &keys())
        .and_then(|mut device| device.start())
        .expect("a start");
    // Arabic lies behind the base's sectors.
    let base = (package("en", SHIPPED).bytes.len() as u32).div_ceil(SECTOR);
    flash.flip((RECORD_SECTORS + base) * SECTOR + 1_000, 4);
    let all = loaded(&mut flash);
    assert!(matches!(&all[1], Err(UpdateError::Damaged { language }) if language == "ar"));
    assert!(all[0].is_ok() && all[2].is_ok());
    update(&mut flash, &package("de", SHIPPED + 1)).expect("an update of another language");
    update(&mut flash, &package("ar", SHIPPED)).expect_err("one update at a time");
    Device::open(&mut flash, &keys())
        .and_then(|mut device| device.start())
        .expect("a start");
    update(&mut flash, &package("ar", SHIPPED)).expect("Arabic once more");
    let versions: Vec<u32> = runs(&mut flash)
        .iter()
        .map(|(_, version)| *version)
        .collect();
    assert_eq!(versions, [SHIPPED, SHIPPED, SHIPPED + 1]);
}

#[test]
fn a_bit_that_rots_in_the_record_costs_nothing() {
    for sector in 0..RECORD_SECTORS {
        let mut flash = provisioned(Flash::new(512, false));
        flash.flip(sector * SECTOR + 100, 3);
        assert_eq!(runs(&mut flash), en_and_ar(SHIPPED));
        // It was repaired: the next may rot as well.
        flash.flip(((sector + 1) % RECORD_SECTORS) * SECTOR + 9, 1);
        assert_eq!(runs(&mut flash), en_and_ar(SHIPPED));
    }
}

/// Each sector in turn is defective from the first day; updates go around it.
fn go_around(defects: impl Fn(u32) -> Defects) {
    for sector in 0..40 {
        let mut flash = provisioned(Flash::new(512, false)).with_defects(defects(sector));
        let new = package("ar", SHIPPED + 1);
        let mut tries = 0;
        while update(&mut flash, &new).is_err() {
            assert_eq!(runs(&mut flash), en_and_ar(SHIPPED), "sector {sector}");
            tries += 1;
            assert!(tries < 5, "sector {sector} cannot be got around");
        }
        assert_eq!(runs(&mut flash), en_and_ar(SHIPPED + 1), "sector {sector}");
    }
}

#[test]
fn a_failing_sector_is_left_alone() {
    go_around(|sector| Defects {
        failing_sectors: [sector].into(),
        ..Defects::default()
    });
}

#[test]
fn stuck_bits_are_noticed_and_got_around() {
    go_around(|sector| {
        let bytes = (0..SECTOR).map(|at| (sector * SECTOR + at, 0x10u8));
        Defects {
            stuck_bits: bytes.step_by(7).collect(),
            ..Defects::default()
        }
    });
}

#[test]
fn a_full_flash_says_so_and_stays() {
    // The record, base and a language, and a sector less than another language takes.
    let sectors = |language| {
        package(language, SHIPPED)
            .bytes
            .len()
            .div_ceil(SECTOR as usize)
    };
    let room = 4 + sectors("en") + sectors("ar") + sectors("de") - 1;
    let mut flash = provisioned(Flash::new(room, false));
    let error = update(&mut flash, &package("de", SHIPPED)).unwrap_err();
    assert!(matches!(error, UpdateError::Full { .. }), "{error}");
    assert!(error.to_string().contains("remove a language"), "{error}");
    assert_eq!(runs(&mut flash), en_and_ar(SHIPPED));
    let mut device = Device::open(&mut flash, &keys()).expect("a record");
    device.commit(&["ar"]).expect("a removal");
    update(&mut flash, &package("de", SHIPPED)).expect("room now");
}

#[test]
fn a_download_that_never_ends_holds_up_nothing() {
    let mut flash = provisioned(Flash::new(512, false));
    let german = package("de", SHIPPED);
    for start in 0..20 {
        let mut device = Device::open(&mut flash, &keys()).expect("a record");
        let from = device.stage(&german.entry).expect("a download") as usize;
        // A few bytes, then silence; the device is switched off in the end. What is not in whole sectors is sent again.
        assert!(from.is_multiple_of(SECTOR as usize) && from <= 4_300 * start);
        let until = (from + 4_300).min(german.bytes.len() - 1);
        device.write(&german.bytes[from..until]).expect("a write");
        let incomplete = device.commit(&[]).unwrap_err();
        assert!(matches!(incomplete, UpdateError::Incomplete { .. }));
        assert_eq!(runs(&mut flash), en_and_ar(SHIPPED));
    }
    // Others come and go meanwhile.
    update(&mut flash, &package("ar", SHIPPED + 1)).expect("another update");
    assert_eq!(runs(&mut flash), en_and_ar(SHIPPED + 1));
    let mut device = Device::open(&mut flash, &keys()).expect("a record");
    assert_eq!(device.downloads().count(), 1);
    device.give_up().expect("a record that can be written");
    assert_eq!(device.downloads().count(), 0);
}

#[test]
fn bytes_for_no_download_touch_nothing() {
    let mut flash = provisioned(Flash::new(512, false));
    let (german, english) = (package("de", SHIPPED), package("en", SHIPPED));
    let mut device = Device::open(&mut flash, &keys()).expect("a record");
    device.stage(&english.entry).expect("room");
    device.write(&english.bytes[..41_060]).expect("a write");
    device.give_up().expect("a record that can be written");
    assert!(device.write(&[]).is_err() && device.finish().is_err());
    // Two downloads, of which the second turns out wrong: the first is gone on with only once it is begun again.
    device.stage(&german.entry).expect("room");
    device.write(&german.bytes[..4_500]).expect("a write");
    device.stage(&english.entry).expect("room");
    device
        .write(&vec![0; english.bytes.len()])
        .expect("a write");
    assert!(matches!(
        device.finish(),
        Err(UpdateError::WrongContents { .. })
    ));
    assert!(device.write(&german.bytes[4_500..]).is_err() && device.finish().is_err());
    let from = device.stage(&german.entry).expect("room") as usize;
    device.write(&german.bytes[from..]).expect("a write");
    device.finish().expect("a download");
    device.commit(&[]).expect("a good package");
    let all = loaded(&mut flash);
    assert!(all.len() == 3 && all.iter().all(Result::is_ok));
}

#[test]
fn one_copy_of_the_record_is_enough_to_run_by() {
    // After a cut between the two copies, on a part that takes no more writes.
    for sector in 0..RECORD_SECTORS {
        let mut flash = provisioned(Flash::new(512, false));
        flash.overwrite(sector * SECTOR, &[0; 64]);
        let mut flash = flash.with_defects(Defects {
            failing_sectors: (0..RECORD_SECTORS).collect(),
            ..Defects::default()
        });
        assert_eq!(runs(&mut flash), en_and_ar(SHIPPED));
        // An update cannot be kept, and is said not to be.
        assert!(matches!(
            update(&mut flash, &package("ar", SHIPPED + 1)),
            Err(UpdateError::Flash { .. })
        ));
        assert_eq!(runs(&mut flash), en_and_ar(SHIPPED));
    }
}

#[test]
fn more_or_other_bytes_than_the_index_says_are_refused() {
    let mut flash = provisioned(Flash::new(512, false));
    let german = package("de", SHIPPED);
    let mut device = Device::open(&mut flash, &keys()).expect("a record");
    let nothing = device.write(&[1]).unwrap_err();
    assert_eq!(
        nothing,
        UpdateError::Unexpected {
            expected: 0,
            found: 1
        }
    );
    device.stage(&german.entry).expect("a download");
    let more = vec![0; german.bytes.len() + 1];
    assert!(matches!(
        device.write(&more),
        Err(UpdateError::Unexpected { .. })
    ));
    device
        .write(&more[1..])
        .expect("as many bytes as announced");
    assert!(matches!(
        device.finish(),
        Err(UpdateError::WrongContents { .. })
    ));
    assert_eq!(device.downloads().count(), 0);
}

#[test]
fn entries_that_no_release_has_are_refused() {
    let mut flash = provisioned(Flash::new(512, false));
    let mut device = Device::open(&mut flash, &keys()).expect("a record");
    let good = package("de", SHIPPED).entry;
    let mut long = good.clone();
    long.files[0].bytes = u64::from(u32::MAX) + 1;
    let mut together = good.clone();
    for file in &mut together.files {
        file.bytes = u64::from(u32::MAX) / 2;
    }
    let mut unknown = good.clone();
    unknown.files[0].name = "de.exe".into();
    let mut twice = good.clone();
    twice.files.push(twice.files[0].clone());
    for entry in [long, together, unknown, twice] {
        let error = device.stage(&entry).unwrap_err();
        assert!(matches!(error, UpdateError::BadEntry { .. }), "{error}");
    }
    // Longer than any delta; and a network that is none too long, but for this flash.
    let mut large = good;
    large.files[0].bytes = 3 << 20;
    let error = device.stage(&large).unwrap_err();
    assert!(matches!(error, UpdateError::BadEntry { .. }), "{error}");
    let mut large = package("en", SHIPPED).entry;
    for file in large.files.iter_mut().filter(|f| f.name == "base.onnx") {
        file.bytes = 3 << 20;
    }
    assert!(matches!(
        device.stage(&large),
        Err(UpdateError::Full { .. })
    ));
}

#[test]
fn the_record_has_room_for_as_many_languages_as_it_says() {
    // The record alone: languages that differ in name only would need packages of their own.
    let mut flash = provisioned(Flash::new(512, false));
    let mut device = Device::open(&mut flash, &keys()).expect("a record");
    let mut entry = package("de", SHIPPED).entry;
    for number in 0..MAX_LANGUAGES {
        entry.language = format!(
            "{}{}-latn-x",
            char::from(b'a' + (number / 26) as u8),
            char::from(b'a' + (number % 26) as u8)
        );
        device.stage(&entry).expect("room in record and flash");
    }
    entry.language = "zz".into();
    let error = device.stage(&entry).unwrap_err();
    assert!(matches!(error, UpdateError::TooMany { .. }), "{error}");
}
