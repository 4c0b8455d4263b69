//! The invariants of `ARCHITECTURE.md`: who may depend on whom, and what stands in one place only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use swr_tests::project;

/// Names of all packages that each workspace member needs at run time, directly or not, with every feature on.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--all-features",
            "--locked",
        ])
        .current_dir(project())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_string();
    let list = |v: &Value| v.as_array().expect("a list").clone();
    let names: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|p| (text(&p["id"]), text(&p["name"])))
        .collect();
    let normal = |node: &Value| -> Vec<String> {
        let is_normal = |dep: &&Value| {
            list(&dep["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"].is_null())
        };
        list(&node["deps"])
            .iter()
            .filter(is_normal)
            .map(|dep| text(&dep["pkg"]))
            .collect()
    };
    let edges: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(&node["id"]), normal(node)))
        .collect();
    let reach = |id: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![id.clone()]);
        while let Some(id) = open.pop() {
            for next in &edges[&id] {
                if seen.insert(names[next].clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    list(&metadata["workspace_members"])
        .iter()
        .map(text)
        .map(|id| (names[&id].clone(), reach(&id)))
        .collect()
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn sources_with(folder: &Path, extension: &str, needles: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(folder, extension, &mut found);
    found.retain(|path| {
        let text = std::fs::read_to_string(path).expect("a readable file");
        needles.iter().any(|needle| text.contains(needle))
    });
    found
}

#[test]
fn each_library_lives_in_one_room() {
    let all = dependencies();
    let forbidden: [(&str, &[&str]); 6] = [
        ("swr-runtime", &["candle"]),
        ("swr-trainer", &["cpal", "tract"]),
        ("swr-dataset", &["candle", "tract", "cpal", "clap"]),
        ("swr-core", &["candle", "tract", "cpal", "clap"]),
        ("swr-core", &["rayon", "tempfile"]),
        ("swr-update", &["candle", "tract", "cpal", "clap"]),
    ];
    for (package, prefixes) in forbidden {
        let bad: Vec<_> = all[package]
            .iter()
            .filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        assert!(bad.is_empty(), "{package} depends on {bad:?}");
    }
    // A device's program measures nothing on recordings; only the feature `eval` does.
    let manifest =
        std::fs::read_to_string(project().join("runtime/Cargo.toml")).expect("a manifest");
    assert_eq!(manifest.matches("\"dep:swr-dataset\"").count(), 1);
    assert!(manifest.contains("swr-dataset = { workspace = true, optional = true }"));
    // The test would pass on an empty graph as well.
    assert!(
        all["swr-runtime"].contains("tract-onnx") && all["swr-trainer"].contains("candle-core")
    );
}

#[test]
fn core_and_update_open_no_file_thread_or_device() {
    let needles = [
        "std::fs",
        "std::thread",
        "std::net",
        "std::process",
        "std::env",
        "File::open",
        // A clock that jumps cannot stop an update that reads none.
        "std::time",
    ];
    for room in ["runtime/core/src", "runtime/update/src"] {
        let found = sources_with(&project().join(room), "rs", &needles);
        assert_eq!(found, Vec::<PathBuf>::new());
    }
}

/// In the order of core's `lib.rs`; `settings` is private and below all.
#[test]
fn no_module_of_core_imports_upwards() {
    let core = project().join("runtime/core/src");
    let list = std::fs::read_to_string(core.join("lib.rs")).expect("core's lib.rs");
    let name = |line: &str| {
        let rest = line
            .strip_prefix("pub mod ")
            .or(line.strip_prefix("mod "))?;
        rest.strip_suffix(';').map(String::from)
    };
    let modules: Vec<String> = list.lines().filter_map(name).collect();
    assert!(modules.len() > 8, "{modules:?}");
    let mut upwards = Vec::new();
    for (place, module) in modules.iter().enumerate() {
        let mut sources = vec![core.join(format!("{module}.rs"))];
        if core.join(module).is_dir() {
            files(&core.join(module), "rs", &mut sources);
        }
        for path in sources.iter().filter(|path| path.exists()) {
            let text = std::fs::read_to_string(path).expect("a readable file");
            // Several at once would hide from what is looked for below.
            assert!(!text.contains("use crate::{"), "{}", path.display());
            let above = modules[place + 1..].iter();
            let used = above.filter(|above| text.contains(&format!("crate::{above}")));
            upwards.extend(used.map(|above| (path.clone(), above.clone())));
        }
    }
    assert_eq!(upwards, []);
}

#[test]
fn an_fft_crate_appears_in_one_manifest() {
    let mut manifests = sources_with(
        &project(),
        "toml",
        &["rustfft.workspace", "rustfft =", "realfft", "microfft"],
    );
    manifests.retain(|path| path.parent() != Some(&project()));
    assert_eq!(manifests, [project().join("runtime/core/Cargo.toml")]);
}

#[test]
fn the_magic_number_of_a_delta_stands_in_one_source_file() {
    // Put together here, so that this file does not hold it.
    let letters: Vec<String> = "SWR".chars().map(|c| format!("b'{c}'")).collect();
    let found = sources_with(&project(), "rs", &[&letters.join(", ")]);
    assert_eq!(found, [project().join("runtime/core/src/package/delta.rs")]);
}
