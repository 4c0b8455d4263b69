//! Claims about releases: signatures that are required, what `verify`, `diff`, `export` say, and a `pull` that ends with all or nothing.

use std::fs;
use std::path::Path;

use minisign::KeyPair;
use serde_json::Value;
use swr_core::package::onnx::{Storage, initializers, store};
use swr_core::package::{
    Delta, Digest, Entry, INDEX_VERSION, Index, IndexedFile, Manifest, PackageError, PublicKey,
};
use swr_runtime::{Engine, Models, ModelsError, cli};

use crate::common::{BASE_LABELS, crafted, delta, manifest, models, onnx, random};

fn keys() -> (KeyPair, String) {
    let pair = KeyPair::generate_unencrypted_keypair().unwrap();
    let text = pair.pk.to_box().unwrap().into_string();
    (pair, text)
}

/// Signs a file beside it, a delta in its unsigned form.
fn sign(path: &Path, pair: &KeyPair) -> String {
    let bytes = fs::read(path).unwrap();
    let signed = Delta::read(&bytes).map_or(bytes, |delta| delta.write_unsigned());
    let text = minisign::sign(None, &pair.sk, signed.as_slice(), Some("test"), None).unwrap();
    let text = text.into_string();
    fs::write(format!("{}.minisig", path.display()), &text).unwrap();
    text
}

fn refused(result: Result<impl Sized, ModelsError>) -> PackageError {
    match result {
        Err(ModelsError::Package { source, .. }) => *source,
        Err(other) => panic!("expected a package error, found: {other}"),
        Ok(_) => panic!("expected a package error, found success"),
    }
}

/// Exit code and standard output of `swr`.
pub(crate) fn swr(arguments: &[&str]) -> (u8, String) {
    let mut out = Vec::new();
    let code = cli::run([&["swr"], arguments].concat(), &mut out);
    (code, String::from_utf8(out).unwrap())
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn where_keys_are_given_base_and_deltas_must_be_signed_with_them() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let at = |name: &str| directory.path().join(name);
    let ((pair, public), (other, _)) = (keys(), keys());
    let key: PublicKey = public.parse().unwrap();
    let open = || Models::open_trusting(directory.path(), std::slice::from_ref(&key));

    assert!(matches!(refused(open()), PackageError::Unsigned { .. }));
    sign(&at("base.json"), &other);
    assert!(matches!(refused(open()), PackageError::WrongKey { .. }));
    sign(&at("base.json"), &pair);
    assert!(open().unwrap().load("en").is_ok());

    let load = || open().unwrap().load("de");
    assert!(matches!(refused(load()), PackageError::Unsigned { .. }));
    sign(&at("de.swr"), &pair);
    assert!(load().is_ok());

    // Inside the file: the same 64 bytes, and nothing beside it.
    let beside = fs::read_to_string(at("de.swr.minisig")).unwrap();
    let signature: swr_core::package::DetachedSignature = beside.parse().unwrap();
    let unsigned = Delta::read(&fs::read(at("de.swr")).unwrap()).unwrap();
    let embedded = unsigned.clone().with_signature(signature.signature);
    fs::write(at("de.swr"), embedded.write()).unwrap();
    assert!(load().is_ok(), "embedded, and the one beside it");
    fs::remove_file(at("de.swr.minisig")).unwrap();
    assert!(load().is_ok(), "embedded alone");
    fs::write(at("de.swr"), unsigned.with_signature([7; 64]).write()).unwrap();
    assert!(matches!(refused(load()), PackageError::BadSignature { .. }));

    // A manifest that was altered after signing.
    let json = fs::read_to_string(at("base.json")).unwrap();
    fs::write(at("base.json"), json.replacen("0.8", "0.1", 1)).unwrap();
    assert!(matches!(refused(open()), PackageError::BadSignature { .. }));
}

#[test]
fn no_swapped_graph_or_manifest_passes() {
    let directory = tempfile::tempdir().unwrap();
    let base = models(directory.path());
    let at = |name: &str| directory.path().join(name);
    // The same weights under another manifest: the delta names the one that it was made with.
    let network = onnx(&base);
    let mut other = manifest(&base, &network, &BASE_LABELS);
    other.window_frames = 50;
    fs::write(at("base.json"), other.to_json().unwrap()).unwrap();
    let error = refused(Models::open(directory.path()).unwrap().load("de"));
    assert!(
        matches!(error, PackageError::WrongManifest { .. }),
        "{error}"
    );
    assert!(error.to_string().starts_with("wrong base"));
    // Another graph with the same weights: the manifest names the file's digest.
    let mut graph = network.clone();
    graph.extend([0x12, 1, b'x']);
    assert_eq!(initializers(&graph).unwrap(), base);
    fs::write(at("base.onnx"), graph).unwrap();
    let error = Models::open(directory.path()).unwrap_err();
    assert!(matches!(error, ModelsError::WrongNetwork { .. }), "{error}");
}

#[test]
fn verify_tells_why() {
    let directory = tempfile::tempdir().unwrap();
    let base = models(directory.path());
    let at = |name: &str| directory.path().join(name);
    let (pair, public) = keys();
    fs::write(at("key.pub"), &public).unwrap();
    let (folder, key) = (text(directory.path()), text(&at("key.pub")));
    let good = fs::read(at("de.swr")).unwrap();
    let verdict = |file: &str, more: &[&str]| {
        let file = text(&at(file));
        let (code, out) = swr(&[&["verify", &file, "--models", &folder, "--json"], more].concat());
        let verdict: Value = serde_json::from_str(out.lines().last().unwrap_or("{}")).unwrap();
        (code, verdict["kind"].as_str().unwrap_or("good").to_owned())
    };
    let is = |kind: &str| (u8::from(kind != "good"), kind.to_owned());
    assert_eq!(verdict("de.swr", &[]), is("good"));
    assert_eq!(swr(&["verify", "--models", &folder]).0, 0);

    fs::write(at("cut.swr"), &good[..good.len() - 1]).unwrap();
    assert_eq!(verdict("cut.swr", &[]), is("damaged"));
    fs::write(at("foreign.swr"), delta(&random(4, 1), "10%").write()).unwrap();
    assert_eq!(verdict("foreign.swr", &[]), is("wrong base"));
    for (version, kind) in [(0, "too old a format"), (5, "too new a format")] {
        let mut other = good.clone();
        other[4] = version;
        let body = other.len() - 8;
        let checksum = Digest::of_bytes(&other[..body]).0;
        other[body..].copy_from_slice(&checksum[..8]);
        fs::write(at("version.swr"), other).unwrap();
        assert_eq!(verdict("version.swr", &[]), is(kind));
    }
    // Under another language's name it would not load.
    fs::write(at("pl.swr"), &good).unwrap();
    assert_eq!(swr(&["verify", "--models", &folder]).0, 1);
    fs::remove_file(at("pl.swr")).unwrap();
    fs::write(at("large.swr"), vec![0x9d; 17 << 20]).unwrap();
    assert_eq!(verdict("large.swr", &[]), is("too large"));
    assert_eq!(verdict("missing.swr", &[]).0, 2);

    assert_eq!(verdict("de.swr", &["--key", &key]), is("unsigned"));
    sign(&at("base.json"), &pair);
    assert_eq!(verdict("de.swr", &["--key", &key]), is("unsigned"));
    sign(&at("de.swr"), &keys().0);
    assert_eq!(verdict("de.swr", &["--key", &key]), is("wrong key"));
    sign(&at("de.swr"), &pair);
    assert_eq!(verdict("de.swr", &["--key", &key]), is("good"));
    // A key is as good in one line as in a file.
    assert_eq!(
        verdict("de.swr", &["--key", public.lines().nth(1).unwrap()]),
        is("good")
    );
    assert_eq!(verdict("de.swr", &["--key", "nonsense"]).0, 2);
    let swapped = delta(&base, "20%").write();
    fs::write(at("de.swr"), swapped).unwrap();
    assert_eq!(verdict("de.swr", &["--key", &key]), is("bad signature"));
}

#[test]
fn diff_names_what_differs() {
    let directory = tempfile::tempdir().unwrap();
    let base = models(directory.path());
    let (a, b) = (
        directory.path().join("de.swr"),
        directory.path().join("b.swr"),
    );
    fs::write(&b, delta(&base, "20%").write()).unwrap();
    let (a, b, folder) = (text(&a), text(&b), text(directory.path()));
    assert_eq!(swr(&["diff", &a, &a, "--models", &folder]).0, 0);
    let (code, out) = swr(&["diff", &a, &b, "--json", "--models", &folder]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["equal"]), (1, &false.into()));
    assert_eq!(report["header"][0]["field"], "budget");
    let tensors = report["tensors"].as_array().unwrap();
    let conv = tensors
        .iter()
        .find(|row| row["tensor"] == "tail.conv.weight")
        .unwrap();
    assert_eq!(
        (&conv["changed"][0], &conv["both"], &conv["same"]),
        (&16.into(), &16.into(), &true.into())
    );
    assert_eq!(swr(&["diff", &a, "nowhere.swr"]).0, 2);
    // With a key, unsigned deltas are not looked at.
    let (_, public) = keys();
    let key = public.lines().nth(1).unwrap();
    assert_eq!(swr(&["diff", &a, &a, "--key", key]).0, 2);
}

/// Logits of a network on frames of a few numbers.
fn logits(onnx: &[u8]) -> Vec<f32> {
    let mut engine = Engine::new(onnx, None, 4).unwrap();
    let frames: Vec<f32> = (0..160).map(|i| (i % 13) as f32 * 0.1).collect();
    let mut logits = Vec::new();
    engine.step(&frames, &mut logits).unwrap();
    logits
}

#[test]
fn an_exported_network_is_the_merged_one() {
    let directory = tempfile::tempdir().unwrap();
    let base = models(directory.path());
    let at = |name: &str| text(&directory.path().join(name));
    let (out, folder) = (at("de.onnx"), text(directory.path()));
    assert_eq!(
        swr(&["export", "--lang", "de", "-o", &out, "--models", &folder]).0,
        0
    );
    let exported = fs::read(&out).unwrap();
    let opened = Models::open(directory.path()).unwrap();
    let merged = opened.merge(&opened.delta("de").unwrap()).unwrap();
    assert_eq!(initializers(&exported).unwrap(), merged);

    // From two files alone.
    let again = at("again.onnx");
    let from_files = [
        "export",
        "--base",
        &at("base.onnx"),
        "--delta",
        &at("de.swr"),
        "-o",
        &again,
    ];
    assert_eq!(swr(&from_files).0, 0);
    assert_eq!(fs::read(&again).unwrap(), exported);
    let (_, public) = keys();
    let key = ["--key", public.lines().nth(1).unwrap()];
    assert_eq!(swr(&[&from_files[..], &key].concat()).0, 2, "unsigned");
    assert_eq!(
        swr(&["export", "--lang", "fr", "-o", &out, "--models", &folder]).0,
        2
    );
    assert_ne!(logits(&exported), logits(&onnx(&base)));
}

#[test]
fn a_base_in_f16_or_int8_is_merged_and_runs() {
    for storage in [Storage::F16, Storage::Int8] {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let small = store(&onnx(&crafted(BASE_LABELS.len(), 0, 1)), storage).unwrap();
        let base = initializers(&small).unwrap();
        let json = manifest(&base, &small, &BASE_LABELS).to_json().unwrap();
        fs::write(at("base.onnx"), &small).unwrap();
        fs::write(at("base.json"), &json).unwrap();
        let german = delta(&base, "10%");
        let mut header = german.header().clone();
        header.manifest = Some(Digest::of_bytes(json.as_bytes()));
        let german = german.with_header(header).unwrap();
        fs::write(at("de.swr"), german.write()).unwrap();

        let opened = Models::open(directory.path()).unwrap();
        let merged = opened.load("de").unwrap().to_onnx().unwrap();
        let expected = opened.merge(&opened.delta("de").unwrap()).unwrap();
        assert_eq!(initializers(&merged).unwrap(), expected, "{storage:?}");
        // The merged network is that of the same weights in f32; so is the base, whose nodes tract runs.
        let plain = |tensors: &_| onnx(tensors);
        assert_eq!(logits(&merged).len(), 4 * 5);
        assert_eq!(logits(&merged), logits(&plain(&expected)), "{storage:?}");
        assert_eq!(logits(&small), logits(&plain(&base)), "{storage:?}");
        assert!(opened.load("de").unwrap().engine(4).is_ok());
    }
}

/// Writes `index.json` for what lies in a directory.
pub(crate) fn write_index(directory: &Path) {
    let entry = |language: &str, version, names: &[&str]| Entry {
        language: language.into(),
        model_version: version,
        files: names
            .iter()
            .filter_map(|name| {
                let bytes = fs::read(directory.join(name)).ok()?;
                Some(IndexedFile {
                    name: name.to_string(),
                    bytes: bytes.len() as u64,
                    sha256: Digest::of_bytes(&bytes),
                })
            })
            .collect(),
    };
    let manifest = Manifest::parse(&fs::read(directory.join("base.json")).unwrap()).unwrap();
    let index = Index {
        format: INDEX_VERSION,
        base: entry(
            "en",
            manifest.model_version,
            &["base.json", "base.onnx", "base.json.minisig"],
        ),
        languages: vec![entry(
            "de",
            manifest.model_version,
            &["de.swr", "de.swr.minisig"],
        )],
    };
    fs::write(directory.join("index.json"), index.to_json().unwrap()).unwrap();
}

/// A release of model version `version`.
pub(crate) fn release(version: u32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let base = crafted(BASE_LABELS.len(), 0, 1);
    let network = onnx(&base);
    let mut manifest = manifest(&base, &network, &BASE_LABELS);
    manifest.model_version = version;
    let json = manifest.to_json().unwrap();
    let german = delta(&base, "10%");
    let mut header = german.header().clone();
    header.manifest = Some(Digest::of_bytes(json.as_bytes()));
    header.model_version = version;
    fs::write(directory.path().join("base.onnx"), network).unwrap();
    fs::write(directory.path().join("base.json"), json).unwrap();
    let bytes = german.with_header(header).unwrap().write();
    fs::write(directory.path().join("de.swr"), bytes).unwrap();
    write_index(directory.path());
    directory
}

pub(crate) fn pull(source: &str, to: &Path, more: &[&str]) -> u8 {
    swr(&[&["models", "pull", source, "--models", &text(to)], more].concat()).0
}

/// All files of a directory with their contents.
pub(crate) fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (text(&path), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// A size goes to its own folder; models that lie in the folder itself are pulled forward where they are.
#[test]
fn a_release_is_pulled_to_the_folder_of_its_size() {
    let (old, new) = (release(3), release(4));
    let target = tempfile::tempdir().unwrap();
    let installed = target.path().join("models");
    let version = |at: &Path| Models::open(at).unwrap().manifest().model_version;
    assert_eq!(pull(&text(old.path()), &installed, &["--size", "small"]), 0);
    assert_eq!(pull(&text(new.path()), &installed, &["--size", "large"]), 0);
    assert!(!installed.join("base.json").exists());
    assert_eq!(version(&installed.join("small")), 3);
    assert_eq!(version(&installed.join("large")), 4);
    assert_eq!(pull(&text(new.path()), &installed, &[]), 0);
    assert_eq!(version(&installed.join("small")), 4);

    let flat = target.path().join("flat");
    assert_eq!(pull(&text(old.path()), &flat, &[]), 0);
    assert_eq!(pull(&text(new.path()), &flat, &["--size", "large"]), 2);
    assert_eq!(pull(&text(new.path()), &flat, &[]), 0);
    assert_eq!(version(&flat), 4);
}

#[test]
fn a_release_is_pulled_updated_and_never_taken_back() {
    let (old, new) = (release(3), release(4));
    let target = tempfile::tempdir().unwrap();
    let installed = target.path().join("models");
    assert_eq!(pull(&text(old.path()), &installed, &[]), 0);
    assert!(Models::open(&installed).unwrap().load("de").is_ok());
    let (code, out) = swr(&[
        "models",
        "list",
        &text(old.path()),
        "--json",
        "--models",
        &text(&installed),
    ]);
    assert_eq!((code, out.lines().count()), (0, 3));
    assert!(
        out.lines()
            .all(|line| line.contains("\"installed\":\"yes\"")),
        "{out}"
    );

    let verify = || {
        let (source, installed) = (text(new.path()), text(&installed));
        swr(&["models", "verify", &source, "--models", &installed]).0
    };
    // The base is updated with every language that is there, though only the base was asked for.
    assert_eq!(verify(), 1);
    assert_eq!(pull(&text(new.path()), &installed, &["--lang", "en"]), 0);
    assert_eq!(verify(), 0);
    let models = Models::open(&installed).unwrap();
    assert_eq!(models.manifest().model_version, 4);
    assert!(models.load("de").is_ok());

    let before = contents(&installed);
    assert_eq!(
        pull(&text(old.path()), &installed, &[]),
        2,
        "an older release"
    );
    // Nor after damage, or a pull that was cut between two files.
    let onnx = installed.join("base.onnx");
    let network = fs::read(&onnx).unwrap();
    fs::write(&onnx, b"half").unwrap();
    assert_eq!(pull(&text(old.path()), &installed, &[]), 2);
    assert_eq!(verify(), 1);
    assert_eq!(pull(&text(new.path()), &installed, &["--lang", "en"]), 0);
    assert_eq!(fs::read(&onnx).unwrap(), network);
    assert_eq!(
        pull(&text(new.path()), &installed, &["--lang", "fr"]),
        2,
        "a language it has not"
    );
    assert_eq!(contents(&installed), before);

    // Damaged at the source: nothing changes.
    let newest = release(5);
    let path = newest.path().join("de.swr");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(pull(&text(newest.path()), &installed, &[]), 2);
    assert_eq!(contents(&installed), before);
    // Damaged before it was indexed: the digest is right, the package is not.
    write_index(newest.path());
    assert_eq!(pull(&text(newest.path()), &installed, &[]), 2);
    assert_eq!(contents(&installed), before);
}

#[test]
fn what_is_removed_or_damaged_does_not_come_back_older() {
    let (old, new) = (release(3), release(4));
    let target = tempfile::tempdir().unwrap();
    let installed = target.path().join("models");
    let remove =
        |language: &str| swr(&["models", "remove", language, "--models", &text(&installed)]).0;
    assert_eq!(pull(&text(new.path()), &installed, &[]), 0);
    assert_eq!(remove("fr"), 2, "it is not there");
    assert_eq!(remove("en"), 2, "the base is every language's");
    assert_eq!(remove("de"), 0);
    assert_eq!(
        Models::open(&installed).unwrap().languages().unwrap(),
        ["en"]
    );
    assert_eq!(pull(&text(new.path()), &installed, &["--lang", "de"]), 0);
    // Whatever is in the place of what was version 4.
    for name in ["base.json", "de.swr"] {
        fs::write(installed.join(name), b"rot").unwrap();
    }
    assert_eq!(pull(&text(old.path()), &installed, &[]), 2);
    assert_eq!(pull(&text(new.path()), &installed, &[]), 0);
    assert!(Models::open(&installed).unwrap().load("de").is_ok());
    // An index that nobody signed says any version: the next release is not held up by it.
    let index = new.path().join("index.json");
    let lying = fs::read_to_string(&index).unwrap();
    let lying = lying.replace("\"model_version\": 4", "\"model_version\": 4000000");
    fs::write(&index, lying).unwrap();
    assert_eq!(pull(&text(new.path()), &installed, &[]), 0);
    assert_eq!(pull(&text(release(5).path()), &installed, &[]), 0);
    // One at a time.
    let lock = fs::File::create(installed.join(".lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(pull(&text(release(6).path()), &installed, &[]), 2);
    assert_eq!(remove("de"), 2);
    drop(lock);
    assert_eq!(remove("de"), 0);
}

#[test]
fn a_release_whose_graph_does_not_run_is_not_taken() {
    // Signed or not: weights and digests are right, and the network they are in is none.
    let source = release(3);
    let at = |name: &str| source.path().join(name);
    let network = fs::read(at("base.onnx")).unwrap();
    let mut graph = swr_core::package::onnx::GraphProto::default();
    let tensors = initializers(&network).unwrap();
    let initializer =
        |(name, tensor): (&String, &_)| swr_core::package::onnx::TensorProto::f32(name, tensor);
    graph.initializer = tensors.iter().map(initializer).collect();
    let broken = swr_core::package::onnx::ModelProto::new(graph).to_bytes();
    let mut manifest = Manifest::parse(&fs::read(at("base.json")).unwrap()).unwrap();
    manifest.onnx_sha256 = Digest::of_bytes(&broken);
    fs::write(at("base.onnx"), broken).unwrap();
    let json = manifest.to_json().unwrap();
    fs::write(at("base.json"), &json).unwrap();
    let german = Delta::read(&fs::read(at("de.swr")).unwrap()).unwrap();
    let mut header = german.header().clone();
    header.manifest = Some(Digest::of_bytes(json.as_bytes()));
    fs::write(at("de.swr"), german.with_header(header).unwrap().write()).unwrap();
    write_index(source.path());
    let target = tempfile::tempdir().unwrap();
    assert_eq!(pull(&text(source.path()), target.path(), &[]), 2);
    assert!(!target.path().join("base.json").exists());
}

#[test]
fn a_pull_with_a_key_takes_signed_releases_only() {
    let source = release(3);
    let target = tempfile::tempdir().unwrap();
    let installed = target.path().join("models");
    let (pair, public) = keys();
    let key = public.lines().nth(1).unwrap();
    let pull = || pull(&text(source.path()), &installed, &["--key", key]);
    assert_eq!(pull(), 2);
    assert!(!installed.join("base.json").exists());
    for name in ["base.json", "de.swr"] {
        sign(&source.path().join(name), &pair);
    }
    write_index(source.path());
    assert_eq!(pull(), 0);
    let key: PublicKey = public.parse().unwrap();
    assert!(
        Models::open_trusting(&installed, &[key])
            .unwrap()
            .load("de")
            .is_ok()
    );
}

/// A delta that somebody trained for this base, beside a release that does not know its language.
#[test]
fn languages_of_ones_own_stay_while_their_base_does() {
    let source = release(3);
    let target = tempfile::tempdir().unwrap();
    let installed = target.path().join("models");
    assert_eq!(pull(&text(source.path()), &installed, &[]), 0);
    let german = Delta::read(&fs::read(installed.join("de.swr")).unwrap()).unwrap();
    let mut header = german.header().clone();
    header.language = "xx".into();
    let own = german.with_header(header).unwrap().write();
    fs::write(installed.join("xx.swr"), &own).unwrap();

    for more in [&[][..], &["--lang", "de"]] {
        assert_eq!(pull(&text(source.path()), &installed, more), 0);
        assert!(Models::open(&installed).unwrap().load("xx").is_ok());
    }
    // Another base: nothing is replaced unless that is asked for.
    let newer = release(4);
    let before = contents(&installed);
    assert_eq!(pull(&text(newer.path()), &installed, &[]), 2);
    assert_eq!(contents(&installed), before);
    assert_eq!(pull(&text(newer.path()), &installed, &["--force"]), 0);
    let models = Models::open(&installed).unwrap();
    assert!(models.load("de").is_ok() && models.load("xx").is_err());
    assert_eq!(fs::read(installed.join("xx.swr")).unwrap(), own);
}
