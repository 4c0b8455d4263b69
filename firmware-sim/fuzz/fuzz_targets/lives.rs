//! Lives of a device: any updates, restarts and power cuts, beside a plain map of what it must run.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use swr_firmware_sim::publisher::Catalogue;
use swr_firmware_sim::random::{Action, World};

/// More would only be slow.
const MOST_ACTIONS: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = WORLD.get_or_init(|| {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/small");
        World::new(&Catalogue::open(&models).expect("the released models")).expect("a world")
    });
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let ecc = first & 1 == 1;
    let (actions, _) = bytes.as_chunks::<4>();
    let actions: Vec<Action> = actions.iter().take(MOST_ACTIONS).map(|a| Action::of(*a)).collect();
    if let Err(broke) = world.live(ecc, &actions) {
        panic!("{broke}");
    }
});
