//! What happens to a device, as a table: steps of updates with what must come of each. Power cuts are not part of it; the sweep puts one into every
//! operation of every step.

use std::collections::BTreeMap;

use crate::publisher::{Flaw, Item, SHIPPED};

/// What must come of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The update is acknowledged, tried and confirmed.
    Confirmed,
    /// The update is refused before it is acknowledged, for a reason that says this.
    Refused(&'static str),
    /// The update is acknowledged, fails its trial, and the models before stay in use.
    Reverted,
}

/// One update, and the restart after it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Packages sent, in this order.
    pub put: Vec<Item<'static>>,
    /// Languages removed.
    pub remove: Vec<&'static str>,
    /// What must come of it.
    pub outcome: Outcome,
}

/// A device's life.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Short name, for the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// What the device leaves the factory with, the base first.
    pub factory: Vec<Item<'static>>,
    /// What happens to it.
    pub steps: Vec<Step>,
}

/// Language to item: what a device runs.
pub type Set = BTreeMap<&'static str, Item<'static>>;

impl Scenario {
    /// Every item that occurs.
    pub fn items(&self) -> impl Iterator<Item = Item<'static>> {
        let put = self.steps.iter().flat_map(|step| &step.put);
        self.factory.iter().chain(put).copied()
    }

    /// What runs after each number of steps, from none to all.
    pub fn sets(&self) -> Vec<Set> {
        let mut sets = vec![Set::from_iter(
            self.factory.iter().map(|i| (i.language, *i)),
        )];
        for step in &self.steps {
            let mut set = sets[sets.len() - 1].clone();
            if step.outcome == Outcome::Confirmed {
                set.extend(step.put.iter().map(|item| (item.language, *item)));
                set.retain(|language, _| !step.remove.contains(language));
            }
            sets.push(set);
        }
        sets
    }
}

const fn item(language: &'static str, version: u32, base: u32, flaw: Flaw) -> Item<'static> {
    Item {
        language,
        version,
        base,
        flaw,
    }
}

fn step(put: &[Item<'static>], remove: &[&'static str], outcome: Outcome) -> Step {
    Step {
        put: put.to_vec(),
        remove: remove.to_vec(),
        outcome,
    }
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    use Outcome::{Confirmed, Refused, Reverted};
    let factory = || {
        vec![
            Item::good("en", SHIPPED),
            Item::good("ar", SHIPPED),
            Item::good("de", SHIPPED),
        ]
    };
    let next = SHIPPED + 1;
    let one = |name, about, put: Item<'static>, outcome| Scenario {
        name,
        about,
        factory: factory(),
        steps: vec![step(&[put], &[], outcome)],
    };
    vec![
        Scenario {
            name: "languages",
            about: "one language is added, one replaced, one removed; the others are not touched",
            factory: factory(),
            steps: vec![
                step(&[Item::good("zh", SHIPPED)], &[], Confirmed),
                step(&[Item::good("ar", next)], &[], Confirmed),
                step(&[], &["de"], Confirmed),
                step(&[Item::good("pl", SHIPPED)], &["zh"], Confirmed),
            ],
        },
        Scenario {
            name: "new-base",
            about: "a new base and the deltas made for it, in one step",
            factory: factory(),
            steps: vec![step(
                &[
                    item("en", next, next, Flaw::None),
                    item("ar", next, next, Flaw::None),
                    item("de", next, next, Flaw::None),
                ],
                &[],
                Confirmed,
            )],
        },
        Scenario {
            name: "base-alone",
            about: "a new base without new deltas for the languages in use is refused",
            factory: factory(),
            steps: vec![step(
                &[
                    item("en", next, next, Flaw::None),
                    item("ar", next, next, Flaw::None),
                ],
                &[],
                Refused("wrong base"),
            )],
        },
        Scenario {
            name: "bad-release",
            about: "a signed release that does not hear its golden clip is dropped after its trial; a lower version than its is taken afterwards",
            factory: factory(),
            steps: vec![
                step(&[item("ar", 9, SHIPPED, Flaw::Deaf)], &[], Reverted),
                step(&[Item::good("ar", next)], &[], Confirmed),
            ],
        },
        Scenario {
            name: "bad-base",
            about: "a signed base that does not hear its golden clip, with the deltas made for it, is dropped after its trial as a whole",
            factory: vec![Item::good("en", SHIPPED), Item::good("ar", SHIPPED)],
            steps: vec![step(
                &[
                    item("en", next, next, Flaw::Deaf),
                    item("ar", next, next, Flaw::ForDeaf),
                ],
                &[],
                Reverted,
            )],
        },
        Scenario {
            name: "crash",
            about: "a release that stops the device in its trial, whenever it is started, is given up",
            factory: factory(),
            steps: vec![step(
                &[item("ar", 8, SHIPPED, Flaw::Crashes)],
                &[],
                Reverted,
            )],
        },
        Scenario {
            name: "downgrade",
            about: "an older version than the confirmed one is refused, and a newer one taken",
            factory: factory(),
            steps: vec![
                step(&[Item::good("ar", 5)], &[], Confirmed),
                step(&[Item::good("ar", 4)], &[], Refused("is older than")),
                step(&[], &["ar"], Confirmed),
                step(&[Item::good("ar", 4)], &[], Refused("is older than")),
                step(&[Item::good("ar", 6)], &[], Confirmed),
            ],
        },
        one(
            "unsigned",
            "a delta without signature",
            item("ar", next, SHIPPED, Flaw::Unsigned),
            Refused("unsigned"),
        ),
        one(
            "other-key",
            "a delta signed with a key that is not trusted",
            item("ar", next, SHIPPED, Flaw::OtherKey),
            Refused("bad signature"),
        ),
        one(
            "altered",
            "a delta altered after signing",
            item("ar", next, SHIPPED, Flaw::Altered),
            Refused("damaged file"),
        ),
        one(
            "other-base",
            "a delta for another base",
            item("ar", next, SHIPPED, Flaw::OtherBase),
            Refused("wrong base"),
        ),
        one(
            "other-contents",
            "bytes that the index does not name",
            item("ar", next, SHIPPED, Flaw::OtherContents),
            Refused("index says"),
        ),
    ]
}
