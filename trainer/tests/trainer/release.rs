//! Claims about the commands that make files for others: packing, deltas between any networks, keys, signatures, the index.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use swr_core::package::{
    Delta, DetachedSignature, Index, Label, Manifest, PublicKey, Tensor, Tensors, digest, merge,
    onnx::{GraphProto, ModelProto, TensorProto, initializers},
};

fn train(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swr-train"))
        .args(arguments)
        .env("SWR_PASSWORD", "a password")
        .output()
        .expect("swr-train runs")
}

fn succeeds(arguments: &[&str]) -> String {
    let output = train(arguments);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {talk}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it says when it refuses.
fn refuses(arguments: &[&str]) -> String {
    let output = train(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn released(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/small")
        .join(name);
    path.to_str().unwrap().to_owned()
}

/// A directory with the released base, and a function that names files in it.
fn folder() -> (tempfile::TempDir, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["base.json", "base.onnx", "ar.swr", "zh.swr"] {
        fs::copy(released(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_owned();
    (folder, move |name| {
        path.join(name).to_str().unwrap().to_owned()
    })
}

#[test]
fn weights_unpacked_and_packed_again_are_the_same_network() {
    let (folder, at) = folder();
    let models = folder.path().to_str().unwrap();
    succeeds(&[
        "unpack",
        "--lang",
        "ar",
        "--out",
        &at("ar.safetensors"),
        "--models",
        models,
    ]);
    let before = Delta::read(&fs::read(at("ar.swr")).unwrap()).unwrap();
    fs::write(
        at("labels.txt"),
        before.header().labels_over(&[]).unwrap().join("\n"),
    )
    .unwrap();
    let pack = |more: &[&str]| {
        let (tuned, labels) = (at("ar.safetensors"), at("labels.txt"));
        let command = [
            "pack", "--lang", "ar", "--tuned", &tuned, "--labels", &labels, "--models", models,
        ];
        [&command[..], more]
            .concat()
            .iter()
            .map(|s| s.to_string())
            .collect::<Vec<_>>()
    };
    let as_str = |v: &Vec<String>| v.iter().map(|s| s.to_owned()).collect::<Vec<String>>();
    let run = |more: &[&str]| {
        let command = as_str(&pack(more));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        train(&command)
    };
    assert!(run(&["--lossless"]).status.success());
    let lossless = Delta::read(&fs::read(at("ar.swr")).unwrap()).unwrap();
    assert_eq!(lossless.merged_digest(), before.merged_digest());
    assert_eq!(lossless.header().labels, before.header().labels);
    // In int8 it is much smaller, if not as small as on the grids that it was trained on.
    let size = || fs::metadata(at("ar.swr")).unwrap().len();
    let lossless = size();
    assert!(run(&["--budget", "100%"]).status.success());
    assert!(2 * size() < lossless, "{} of {lossless} bytes", size());
    // A word that the base knows as well is the base's.
    let (own, manifest) = (
        fs::read_to_string(at("labels.txt")).unwrap(),
        at("base.json"),
    );
    let (_, rest) = own.split_once('\n').unwrap();
    fs::write(at("labels.txt"), format!("yes\n{rest}")).unwrap();
    assert!(run(&[]).status.success());
    let shared = Delta::read(&fs::read(at("ar.swr")).unwrap()).unwrap();
    let base = Manifest::parse(&fs::read(manifest).unwrap()).unwrap();
    let place = base.labels.iter().position(|label| label == "yes").unwrap();
    let labels = &shared.header().labels;
    assert_eq!(labels[0], Label::OfBase(place as u16));
    assert_eq!(labels[1..], before.header().labels[1..]);
    let texts = shared.header().labels_over(&base.labels).unwrap();
    assert_eq!(texts[0], "yes");
    fs::write(at("labels.txt"), own).unwrap();
    // A budget that it exceeds, and labels that do not fit.
    let kept = fs::read(at("ar.swr")).unwrap();
    let refused = run(&["--budget", "1%"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(" of 64;"));
    fs::write(at("labels.txt"), "one\ntwo").unwrap();
    let refused = run(&[]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("labels do not fit"));
    assert_eq!(fs::read(at("ar.swr")).unwrap(), kept);
}

/// An ONNX file without nodes, of tensors under any names.
fn network(seed: f32) -> (Tensors, Vec<u8>) {
    let tensor = |shape: Vec<usize>| {
        let count = shape.iter().product();
        let data = (0..count)
            .map(|i| ((i as f32 + 1.0) * seed).sin())
            .collect();
        Tensor::new(shape, data)
    };
    let tensors = Tensors::from([
        ("encoder/0:weight".to_string(), tensor(vec![30, 20])),
        ("encoder/0:bias".to_string(), tensor(vec![30])),
        ("head".to_string(), tensor(vec![7, 30])),
    ]);
    let graph = GraphProto {
        initializer: tensors
            .iter()
            .map(|(n, t)| TensorProto::f32(n, t))
            .collect(),
        ..GraphProto::default()
    };
    (tensors, ModelProto::new(graph).to_bytes())
}

#[test]
fn a_delta_between_any_two_networks_is_exact_unless_asked_otherwise() {
    let (_folder, at) = folder();
    let ((base, base_file), (tuned, tuned_file)) = (network(1.0), network(1.1));
    fs::write(at("a.onnx"), base_file).unwrap();
    fs::write(at("b.onnx"), tuned_file).unwrap();
    let make = |more: &[&str]| {
        let command = [
            "delta",
            &at("a.onnx"),
            &at("b.onnx"),
            "--out",
            &at("d.swr"),
            "--json",
        ];
        let report: serde_json::Value =
            serde_json::from_str(&succeeds(&[&command, more].concat())).unwrap();
        let delta = Delta::read(&fs::read(at("d.swr")).unwrap()).unwrap();
        (
            report["largest_error"].as_f64().unwrap(),
            merge(&base, &delta).unwrap(),
        )
    };
    let (error, merged) = make(&[]);
    assert_eq!((error, digest(&merged)), (0.0, digest(&tuned)));
    let (rounded, _) = make(&["--rounded"]);
    let (int8, _) = make(&["--bits", "7"]);
    let (int4, merged) = make(&["--bits", "3"]);
    assert!(
        0.0 < rounded && rounded < int8 && int8 < int4 && int4 < 0.4,
        "{rounded} {int8} {int4}"
    );
    let found = merged["head"].data.iter().zip(&tuned["head"].data);
    assert!(
        found
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, f64::max)
            <= int4
    );

    let refusal = refuses(&[
        "delta",
        &at("a.onnx"),
        &released("base.onnx"),
        "-o",
        &at("x.swr"),
    ]);
    assert!(refusal.contains("differ in more"), "{refusal}");
    assert!(!Path::new(&at("x.swr")).exists());
    assert!(refuses(&["delta", &at("a.onnx"), &at("ar.swr"), "-o", &at("x.swr")]).contains("onnx"));
}

/// A norm counts its batches in an integer, which two trainings may have in common.
#[test]
fn equal_integers_in_safetensors_are_no_obstacle() {
    use safetensors::{Dtype, tensor::TensorView};
    let (_folder, at) = folder();
    let write = |name: &str, weight: f32, batches: i64| {
        let (weight, batches) = (weight.to_le_bytes(), batches.to_le_bytes());
        let tensors = [
            (
                "weight",
                TensorView::new(Dtype::F32, vec![1], &weight).unwrap(),
            ),
            (
                "batches",
                TensorView::new(Dtype::I64, vec![], &batches).unwrap(),
            ),
        ];
        fs::write(at(name), safetensors::serialize(tensors, None).unwrap()).unwrap();
    };
    write("a.safetensors", 1.0, 7);
    write("b.safetensors", 1.5, 7);
    write("c.safetensors", 1.5, 8);
    let delta = |tuned: &str| {
        let (base, tuned, out) = (at("a.safetensors"), at(tuned), at("d.swr"));
        train(&["delta", &base, &tuned, "--out", &out])
    };
    assert!(delta("b.safetensors").status.success());
    let refused = delta("c.safetensors");
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.status.code() == Some(2) && told.contains("integer tensor batches"),
        "{told}"
    );
}

#[test]
fn a_base_is_packed_from_a_network_as_it_is_or_smaller() {
    let (_folder, at) = folder();
    for (values, share) in [("f32", 1.0), ("f16", 0.85), ("int8", 0.8)] {
        let out = at(values);
        succeeds(&[
            "pack",
            "--base",
            &released("base.onnx"),
            "--manifest",
            &released("base.json"),
            "--values",
            values,
            "--models",
            &out,
        ]);
        let onnx = fs::read(format!("{out}/base.onnx")).unwrap();
        let manifest = Manifest::parse(&fs::read(format!("{out}/base.json")).unwrap()).unwrap();
        assert_eq!(
            manifest.tensors_sha256,
            digest(&initializers(&onnx).unwrap())
        );
        let original = fs::metadata(released("base.onnx")).unwrap().len() as f64;
        assert!(
            onnx.len() as f64 <= share * original,
            "{values}: {} of {original} bytes",
            onnx.len()
        );
    }
    fs::write(at("labels.txt"), "yes\nno\n").unwrap();
    succeeds(&[
        "pack",
        "--base",
        &released("base.onnx"),
        "--lang",
        "en",
        "--labels",
        &at("labels.txt"),
        "--architecture",
        "mine",
        "--models",
        &at("new"),
    ]);
    let manifest = Manifest::parse(&fs::read(at("new/base.json")).unwrap()).unwrap();
    assert_eq!(manifest.labels, ["yes", "no", "_unknown_", "_silence_"]);
}

#[test]
fn keys_sign_and_signatures_are_embedded() {
    let (folder, at) = folder();
    succeeds(&["key", "--out", &at("locked")]);
    succeeds(&["key", "--out", &at("open"), "--no-password"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(at("open.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let refusal = refuses(&["key", "--out", &at("open"), "--no-password"]);
    assert!(refusal.contains("is there already"), "{refusal}");
    for key in ["locked", "open"] {
        let public: PublicKey = fs::read_to_string(at(&format!("{key}.pub")))
            .unwrap()
            .parse()
            .unwrap();
        let secret = at(&format!("{key}.key"));
        succeeds(&[
            "sign",
            &at("base.json"),
            &at("ar.swr"),
            "--key",
            &secret,
            "--embed",
        ]);
        for name in ["base.json", "ar.swr"] {
            let file = fs::read(at(name)).unwrap();
            let text = fs::read_to_string(at(&format!("{name}.minisig"))).unwrap();
            let signature: DetachedSignature = text.parse().unwrap();
            public.check(&file, &signature).unwrap();
            assert!(signature.trusted_comment.contains(name));
        }
        public
            .check_embedded(&fs::read(at("ar.swr")).unwrap())
            .unwrap();
        // In two steps, as with a signature of the minisign tool.
        succeeds(&["sign", &at("zh.swr"), "--key", &secret]);
        assert!(
            public
                .check_embedded(&fs::read(at("zh.swr")).unwrap())
                .is_err()
        );
        succeeds(&["embed", &at("zh.swr")]);
        public
            .check_embedded(&fs::read(at("zh.swr")).unwrap())
            .unwrap();
    }
    let wrong = Command::new(env!("CARGO_BIN_EXE_swr-train"))
        .args(["sign", &at("ar.swr"), "--key", &at("locked.key")])
        .env("SWR_PASSWORD", "another password")
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(refuses(&["sign", &at("ar.swr"), "--key", &at("open.pub")]).contains("secret key"));

    succeeds(&["index", "--models", folder.path().to_str().unwrap()]);
    let index = Index::parse(&fs::read(at("index.json")).unwrap()).unwrap();
    let names: Vec<&str> = index
        .entries()
        .flat_map(|e| &e.files)
        .map(|f| f.name.as_str())
        .collect();
    let expected = [
        "base.json",
        "base.json.minisig",
        "base.onnx",
        "ar.swr",
        "ar.swr.minisig",
        "zh.swr",
        "zh.swr.minisig",
    ];
    assert_eq!(names, expected);
    // A signature that is another key's, or another file's name, has no place in a release.
    let models = folder.path().to_str().unwrap();
    succeeds(&["index", "--models", models, "--key", &at("open.pub")]);
    assert!(
        refuses(&["index", "--models", models, "--key", &at("locked.pub")]).contains("wrong key")
    );
    fs::copy(at("zh.swr"), at("ja.swr")).unwrap();
    assert!(refuses(&["index", "--models", models]).contains("after their language"));
    fs::remove_file(at("ja.swr")).unwrap();
    // A delta that does not fit the base has no place in a release.
    succeeds(&[
        "pack",
        "--base",
        &released("base.onnx"),
        "--manifest",
        &released("base.json"),
        "--values",
        "f16",
        "--models",
        folder.path().to_str().unwrap(),
    ]);
    assert!(
        refuses(&["index", "--models", folder.path().to_str().unwrap()]).contains("wrong base")
    );
}
