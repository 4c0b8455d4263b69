//! Random lives of a device: updates, good and bad, power cuts inside anything, restarts, beside a plain map of what it must run.
//! The same actions always give the same life, so that a test can shrink them and a fuzzer can search among them.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use swr_core::package::{Digest, PublicKey};
use swr_update::record::RECORD_SECTORS;
use swr_update::{Device, UpdateError};

use crate::flash::{Cut, Nor, TORN_STATES};
use crate::publisher::{Catalogue, Flaw, Item, Packages, SHIPPED};

/// Languages of random lives, the base's left out.
const LANGUAGES: [&str; 3] = ["ar", "de", "pl"];
/// Versions of each that are ever sent.
const VERSIONS: [u32; 4] = [SHIPPED, 3, 4, 5];
/// A good package that every device must take in the end.
const LAST: Item<'static> = Item::good(LANGUAGES[0], 6);

const BASE: Item<'static> = Item::good("en", SHIPPED);

/// Something that happens to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Chunks of a language's package arrive, and at the end it is finished: the language, the version, and, if so, what is wrong with it (by number).
    Send {
        /// Which language.
        language: u8,
        /// Which version.
        version: u8,
        /// 1 deaf, 2 unsigned, 3 altered, else good.
        flaw: u8,
        /// Quarters of the package that arrive before the link breaks; 4 or more: all.
        quarters: u8,
    },
    /// What was sent is committed, and a language removed, if so.
    Commit {
        /// 0 to 2: the language that is removed.
        remove: u8,
    },
    /// What was sent is given up.
    GiveUp,
    /// The device is switched off and on.
    Restart,
    /// Power fails in one of the next operations.
    Cut {
        /// Operations until then.
        operations: u8,
        /// Which in-between state it leaves.
        torn: u8,
    },
}

impl Action {
    /// The action that some bytes stand for.
    pub fn of(bytes: [u8; 4]) -> Self {
        let [kind, a, b, c] = bytes;
        match kind % 8 {
            0..=2 => Self::Send {
                language: a,
                version: b,
                flaw: c >> 4,
                quarters: c & 7,
            },
            3 | 4 => Self::Commit { remove: a },
            5 => Self::Restart,
            6 => Self::Cut {
                operations: a,
                torn: b,
            },
            _ if a < 40 => Self::GiveUp,
            _ => Self::Restart,
        }
    }
}

/// Everything that random lives need, made once.
pub struct World {
    packages: Packages,
    key: PublicKey,
}

impl World {
    /// The packages of a folder of models.
    ///
    /// # Errors
    /// If the folder has not the models that random lives are made of.
    pub fn new(catalogue: &Catalogue) -> Result<Self> {
        let flaws = [Flaw::None, Flaw::Deaf, Flaw::Unsigned, Flaw::Altered];
        let mut items = vec![BASE, LAST];
        for language in LANGUAGES {
            for version in VERSIONS {
                items.extend(flaws.map(|flaw| Item {
                    language,
                    version,
                    flaw,
                    ..BASE
                }));
            }
        }
        Ok(Self {
            packages: Packages::new(catalogue, items.into_iter())?,
            key: catalogue.public_key()?,
        })
    }

    fn item(&self, language: u8, version: u8, flaw: u8) -> Item<'static> {
        Item {
            language: LANGUAGES[usize::from(language) % LANGUAGES.len()],
            version: VERSIONS[usize::from(version) % VERSIONS.len()],
            base: SHIPPED,
            flaw: match flaw {
                1 => Flaw::Deaf,
                2 => Flaw::Unsigned,
                3 => Flaw::Altered,
                _ => Flaw::None,
            },
        }
    }

    /// Lives through `actions` on a part with plain words of a byte, or with words of 16 bytes with ECC; `Err` says what the device did that it must not.
    ///
    /// # Errors
    /// A sentence: bricked, an acknowledged update lost, or a model that must not run.
    pub fn live(&self, ecc: bool, actions: &[Action]) -> Result<(), String> {
        match ecc {
            false => self.live_on(Nor::<1, 4_096>::new(self.sectors(4_096), ecc), actions),
            true => self.live_on(Nor::<16, 8_192>::new(self.sectors(8_192), ecc), actions),
        }
    }

    /// Sectors of a flash that fills up: the record, the base, all languages once, and so many more that there is room for one of them however the others lie.
    fn sectors(&self, sector_bytes: usize) -> usize {
        let most = |language: &str| {
            let packages = self.packages.of(language);
            let sectors = packages.map(|package| package.bytes.len().div_ceil(sector_bytes));
            sectors.max().unwrap_or(0)
        };
        let languages = LANGUAGES.map(most);
        let largest = languages.iter().max().copied().unwrap_or(0);
        let gaps = LANGUAGES.len() + 1;
        let more = gaps * (largest - 1) + 1;
        RECORD_SECTORS as usize + most(BASE.language) + languages.iter().sum::<usize>() + more
    }

    fn live_on<const W: usize, const E: usize>(
        &self,
        mut flash: Nor<W, E>,
        actions: &[Action],
    ) -> Result<(), String> {
        let base = self.packages.get(&BASE);
        let release = [(base.entry.clone(), base.bytes.clone())];
        let keys = [self.key.clone()];
        let provisioned = Device::provision(&mut flash, &keys, &release);
        provisioned.map_err(|error| format!("in the factory: {error}"))?;
        let mut life = Life {
            world: self,
            keys,
            flash,
            runs: BTreeMap::from([(BASE.language.to_owned(), (SHIPPED, base.tensors_sha256))]),
            highest: BTreeMap::new(),
            sent: BTreeMap::new(),
            pending: None,
        };
        for (number, action) in actions.iter().enumerate() {
            life.act(*action)
                .map_err(|what| format!("action {number}, {action:?}: {what}"))?;
        }
        life.end().map_err(|what| format!("at the end: {what}"))
    }
}

/// Language to version and tensors.
type Running = BTreeMap<String, (u32, Digest)>;

/// An update that was committed, or whose commit was cut.
struct Pending {
    /// What runs after it.
    set: Running,
    /// Whether all of it hears its golden clips.
    good: bool,
    /// Whether the device said that it has it.
    acknowledged: bool,
}

/// A device, and beside it what is known of it.
struct Life<'a, const W: usize, const E: usize> {
    world: &'a World,
    keys: [PublicKey; 1],
    flash: Nor<W, E>,
    runs: Running,
    /// Highest version that ever ran.
    highest: BTreeMap<String, u32>,
    /// The package of each language whose download was begun last; only that one can ever be complete.
    sent: BTreeMap<&'static str, Item<'static>>,
    pending: Option<Pending>,
}

impl<const W: usize, const E: usize> Life<'_, W, E> {
    fn act(&mut self, action: Action) -> Result<(), String> {
        let done = match action {
            Action::Cut { operations, torn } => {
                if self.flash.power().is_on() {
                    self.flash.cut_at(Some(Cut {
                        operation: self.flash.operations() + u64::from(operations),
                        torn: u32::from(torn) % TORN_STATES,
                        seed: u64::from(torn) << 8 | u64::from(operations),
                    }));
                }
                return Ok(());
            }
            Action::Restart => return self.start(),
            Action::Send {
                language,
                version,
                flaw,
                quarters,
            } => {
                let item = self.world.item(language, version, flaw);
                self.send(item, quarters)
            }
            Action::Commit { remove } => self.commit(LANGUAGES.get(usize::from(remove)).copied()),
            Action::GiveUp => self.open().and_then(|mut device| device.give_up()),
        };
        match done {
            _ if !self.flash.power().is_on() => self.start(),
            Err(UpdateError::NotProvisioned) => Err("bricked: it has no record".into()),
            // Anything else is a refusal, and the next start shows what runs.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn open(&mut self) -> Result<Device<&mut Nor<W, E>>, UpdateError> {
        Device::open(&mut self.flash, &self.keys)
    }

    fn send(&mut self, item: Item<'static>, quarters: u8) -> Result<(), UpdateError> {
        let world = self.world;
        let package = world.packages.get(&item);
        let mut device = Device::open(&mut self.flash, &self.keys)?;
        let from = device.stage(&package.entry)? as usize;
        self.sent.insert(item.language, item);
        let all = package.bytes.len();
        let until = (all * usize::from(quarters.min(4)) / 4).max(from);
        for chunk in package.bytes[from..until].chunks(1_000) {
            device.write(chunk)?;
        }
        if until == all {
            device.finish()?;
        }
        Ok(())
    }

    fn commit(&mut self, remove: Option<&'static str>) -> Result<(), UpdateError> {
        let world = self.world;
        let (mut set, mut good, mut only_removes) = (self.runs.clone(), true, true);
        let mut must_refuse = false;
        let device = self.open()?;
        let complete = device.downloads().filter(|(_, _, complete)| *complete);
        let downloads: Vec<String> = complete.map(|(l, _, _)| l.to_owned()).collect();
        set.retain(|language, _| Some(language.as_str()) != remove);
        for language in &downloads {
            only_removes = false;
            if let Some(item) = self.sent.get(language.as_str()) {
                let digest = world.packages.get(item).tensors_sha256;
                set.insert(language.clone(), (item.version, digest));
                good &= item.flaw != Flaw::Deaf;
                let highest = self.highest.get(language).copied().unwrap_or(0);
                must_refuse |=
                    [Flaw::Unsigned, Flaw::Altered].contains(&item.flaw) || item.version < highest;
            }
        }
        let remove: Vec<&str> = remove.into_iter().collect();
        let committed = self.open()?.commit(&remove);
        let acknowledged = committed.is_ok();
        if acknowledged && must_refuse {
            // Told as what the next start would have found.
            return Err(UpdateError::NotProvisioned);
        }
        // What waits for its trial already stays what it is.
        if acknowledged && only_removes {
            self.runs = set;
        } else if self.pending.is_none()
            && (acknowledged || !self.flash.power().is_on())
            && !must_refuse
        {
            self.pending = Some(Pending {
                set,
                good,
                acknowledged,
            });
        }
        committed
    }

    /// Whatever was before, a device that is on takes a good update.
    fn end(&mut self) -> Result<(), String> {
        self.flash.power_on();
        self.start()?;
        let given_up = self.open().and_then(|mut device| device.give_up());
        let sent = given_up.and_then(|()| self.send(LAST, 4));
        let committed = sent.and_then(|()| self.commit(None));
        committed.map_err(|error| format!("takes no update any more: {error}"))?;
        self.start()?;
        match self.runs.get(LAST.language) {
            Some((version, _)) if *version == LAST.version => Ok(()),
            _ => Err("an update that was taken does not run".into()),
        }
    }

    /// A start, and all models loaded; with them, why the last update was refused.
    fn run(&mut self) -> Result<(Running, Option<String>), UpdateError> {
        let mut device = self.open()?;
        let started = device.start()?;
        let languages: Vec<String> = device.installed().map(|(l, _)| l.to_owned()).collect();
        let mut running = Running::new();
        for language in languages {
            let model = device.load(&language)?;
            running.insert(
                language,
                (model.language.model_version, model.language.tensors_sha256),
            );
        }
        Ok((running, started.refused))
    }

    /// Switches the device on, and once more if power fails meanwhile; it must run what it has promised.
    fn start(&mut self) -> Result<(), String> {
        if !self.flash.power().is_on() {
            self.flash.power_on();
        }
        let mut started = self.run();
        if !self.flash.power().is_on() {
            self.flash.power_on();
            started = self.run();
        }
        let (runs, refused) =
            started.map_err(|error| format!("bricked, or a language lost: {error}"))?;
        let pending = self.pending.take();
        let may_stay = pending
            .as_ref()
            .is_none_or(|pending| !pending.acknowledged || !pending.good);
        let may_move = pending
            .as_ref()
            .is_some_and(|pending| pending.good && pending.set == runs);
        let allowed = may_move || (may_stay && runs == self.runs);
        if !allowed {
            let versions = |running: &Running| {
                let versions = running
                    .iter()
                    .map(|(l, (version, _))| format!("{l} {version}"));
                versions.collect::<Vec<_>>().join(", ")
            };
            return Err(format!(
                "runs {}; was {}; promised {}; {}",
                versions(&runs),
                versions(&self.runs),
                pending.map_or("nothing".into(), |pending| versions(&pending.set)),
                refused.unwrap_or_default()
            ));
        }
        for (language, (version, _)) in &runs {
            let highest = self.highest.entry(language.clone()).or_default();
            if version < highest {
                return Err(format!("{language}: went back from {highest} to {version}"));
            }
            *highest = *version;
        }
        self.runs = runs;
        Ok(())
    }
}
