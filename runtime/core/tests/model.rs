//! Claims about a verified model: what holds together becomes one, and every way not to is told apart, with the file that is to blame.

use swr_core::model::{Base, ModelError, Part, Signed, Trust};
use swr_core::package::{
    Delta, DeltaHeader, Digest, Label, Manifest, PackageError, Precision, PublicKey, digest, merge,
};

const MANIFEST: &[u8] = include_bytes!("../../../models/small/base.json");
const NETWORK: &[u8] = include_bytes!("../../../models/small/base.onnx");
const ARABIC: &[u8] = include_bytes!("../../../models/small/ar.swr");
const GOLDEN: &[u8] = include_bytes!("../../../models/small/ar.golden");
/// Made by minisign 0.11, see tests/signature.rs.
const SIGNED: &[u8] = include_bytes!("../golden/delta-v3-int8.swr");
const SIGNATURE: &[u8] = include_bytes!("../golden/delta-v3-int8.swr.minisig");
const KEY: &str = include_str!("../golden/signed.pub");

fn unsigned(file: &[u8]) -> Signed<'_> {
    Signed {
        file,
        signature: None,
    }
}

fn base() -> Base {
    Base::verify(unsigned(MANIFEST), NETWORK, Trust::Anyone).expect("the released base")
}

#[test]
fn a_base_and_a_delta_become_a_language() {
    let base = base();
    let own = base.language();
    assert_eq!(own.code, "en");
    assert_eq!(own.detector.window_frames, base.manifest().window_frames);
    assert_eq!(own.detector.thresholds.len(), own.labels.len());

    let merged = base.merge("ar", unsigned(ARABIC), Trust::Anyone);
    let (arabic, tensors) = merged.expect("the released delta");
    let delta = Delta::read(ARABIC).unwrap();
    assert_eq!(tensors, merge(base.tensors(), &delta).unwrap());
    assert_eq!(arabic.tensors_sha256, digest(&tensors));
    let said = delta.header().labels_over(&own.labels).unwrap();
    assert_eq!(arabic.labels, said);
    assert_eq!(arabic.detector.thresholds, delta.header().thresholds);
    assert_eq!(arabic.context_frames, own.context_frames);

    assert!(arabic.check_not_older(arabic.model_version).is_ok());
    let installed = arabic.model_version + 1;
    let too_old = PackageError::TooOld {
        found: arabic.model_version,
        installed,
    };
    assert_eq!(arabic.check_not_older(installed).unwrap_err(), too_old);
}

#[test]
fn a_network_that_is_not_the_manifests_is_refused() {
    let verify = |manifest: &[u8], network: &[u8]| {
        let refused = Base::verify(unsigned(manifest), network, Trust::Anyone).unwrap_err();
        assert!(matches!(refused.part(), Part::Network | Part::Manifest));
        refused
    };
    let mut altered = NETWORK.to_vec();
    altered[1_000] ^= 1;
    let what = |refused| match refused {
        ModelError::WrongNetwork { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(verify(MANIFEST, &altered)), "content");
    let mut manifest = Manifest::parse(MANIFEST).unwrap();
    manifest.tensors_sha256 = Digest([7; 32]);
    let manifest = manifest.to_json().unwrap();
    assert_eq!(what(verify(manifest.as_bytes(), NETWORK)), "tensors");
    assert_eq!(verify(b"{}", NETWORK).part(), Part::Manifest);
}

#[test]
fn a_delta_of_another_language_base_manifest_or_without_labels_is_refused() {
    let base = base();
    let refused = |code: &str, delta: &[u8]| {
        let merged = base.merge(code, unsigned(delta), Trust::Anyone);
        let error = merged.expect_err("a refusal");
        assert_eq!(error.part(), Part::Delta);
        error
    };
    assert!(matches!(
        refused("zh", ARABIC),
        ModelError::WrongLanguage { found, .. } if found == "ar"
    ));
    let kind = |error| match error {
        ModelError::Package { source, .. } => *source,
        other => panic!("{other}"),
    };
    assert!(matches!(
        kind(refused("xx", &SIGNED[..20])),
        PackageError::Damaged { .. }
    ));
    let of_another = Delta::read(SIGNED).unwrap().header().language.clone();
    assert!(matches!(
        kind(refused(&of_another, SIGNED)),
        PackageError::WrongBase { .. }
    ));

    let delta = Delta::read(ARABIC).unwrap();
    let with = |change: &dyn Fn(&mut DeltaHeader)| {
        let mut header = delta.header().clone();
        change(&mut header);
        delta.clone().with_header(header).unwrap().write()
    };
    for manifest in [None, Some(Digest([9; 32]))] {
        let file = with(&|header| header.manifest = manifest);
        assert!(matches!(
            kind(refused("ar", &file)),
            PackageError::WrongManifest { .. }
        ));
    }

    let header = DeltaHeader {
        labels: Vec::new(),
        thresholds: Vec::new(),
        calibration: None,
        manifest: None,
        ..delta.header().clone()
    };
    let mut tuned = (**base.tensors()).clone();
    tuned.get_mut("head.conv.weight").unwrap().data[0] += 1.0;
    let nameless = Delta::build(base.tensors(), &tuned, header, Precision::Lossless).unwrap();
    assert_eq!(base.merged_tensors(&nameless).unwrap(), tuned);
    assert_eq!(refused("ar", &nameless.write()), ModelError::NoLabels);
}

#[test]
fn labels_of_the_base_are_the_bases_words() {
    let (base, arabic) = (base(), Delta::read(ARABIC).unwrap());
    let with = |number: u16| {
        let mut header = arabic.header().clone();
        header.labels[0] = Label::OfBase(number);
        let file = arabic.clone().with_header(header).unwrap().write();
        base.merge("ar", unsigned(&file), Trust::Anyone)
    };
    let words = &base.manifest().labels;
    let (language, _) = with(3).unwrap();
    assert_eq!(language.labels[0], words[3]);
    assert_eq!(
        language.labels[1..],
        arabic.header().labels_over(words).unwrap()[1..]
    );
    let beyond = words.len() as u16 - 2;
    let refused = with(beyond).unwrap_err();
    assert!(matches!(
        refused,
        ModelError::Package {
            part: Part::Delta,
            ..
        }
    ));
}

#[test]
fn a_delta_without_a_manifest_fits_a_base_from_before_deltas_named_one() {
    let base_of = |format: u32| {
        let mut json: serde_json::Value = serde_json::from_slice(MANIFEST).unwrap();
        json["format"] = format.into();
        json["model_version"] = match format {
            1 => "1".into(),
            _ => 1.into(),
        };
        json.as_object_mut().unwrap().remove("timing");
        let json = json.to_string();
        Base::verify(unsigned(json.as_bytes()), NETWORK, Trust::Anyone).unwrap()
    };
    let arabic = Delta::read(ARABIC).unwrap();
    let header = DeltaHeader {
        manifest: None,
        ..arabic.header().clone()
    };
    let unnamed = arabic.clone().with_header(header).unwrap().write();
    let merge = |format, file| base_of(format).merge("ar", unsigned(file), Trust::Anyone);
    let (language, tensors) = merge(1, &unnamed).unwrap();
    assert_eq!(digest(&tensors), arabic.merged_digest());
    assert_eq!(language.labels, arabic.header().labels_over(&[]).unwrap());
    // One that names another manifest fits neither.
    for (format, file) in [(2, unnamed.as_slice()), (2, ARABIC), (1, ARABIC)] {
        let Err(ModelError::Package { source, .. }) = merge(format, file) else {
            panic!("taken over format {format}");
        };
        let wrong = matches!(*source, PackageError::WrongManifest { .. });
        assert!(wrong, "format {format}: {source}");
    }
}

#[test]
fn only_what_a_trusted_key_signed_is_taken() {
    let key: PublicKey = KEY.parse().unwrap();
    let other: PublicKey = "RWSljMQRfsfhmQbnl8AhHmCwm/kx8GiWLlUtIXpoNifkYu2p4NzXznsg"
        .parse()
        .unwrap();
    let signed = |signature| Signed {
        file: SIGNED,
        signature,
    };
    let check = |keys: &[PublicKey], signed| Trust::Only(keys).check(Part::Delta, signed);
    let both = [other.clone(), key.clone()];
    check(&both, signed(Some(SIGNATURE))).unwrap();
    Trust::Anyone.check(Part::Delta, signed(None)).unwrap();

    let refusal = |keys: &[PublicKey], signed| match check(keys, signed).unwrap_err() {
        ModelError::Package { source, .. } => *source,
        other => panic!("{other}"),
    };
    let unsigned = PackageError::Unsigned { what: "the delta" };
    assert_eq!(refusal(&both, signed(None)), unsigned);
    // An empty signature stands for none, and no key trusts nothing.
    assert_eq!(refusal(&both, signed(Some(b""))), unsigned);
    assert_eq!(refusal(&[], signed(Some(SIGNATURE))), unsigned);
    assert!(matches!(
        refusal(&[other], signed(Some(SIGNATURE))),
        PackageError::WrongKey { .. }
    ));
    assert!(matches!(
        check(&both, signed(Some(b"no signature"))).unwrap_err(),
        ModelError::Signature {
            part: Part::Delta,
            ..
        }
    ));

    let signature: swr_core::package::DetachedSignature =
        std::str::from_utf8(SIGNATURE).unwrap().parse().unwrap();
    let embedded = Delta::read(SIGNED)
        .unwrap()
        .with_signature(signature.signature);
    check(
        &both,
        Signed {
            file: &embedded.write(),
            signature: None,
        },
    )
    .unwrap();
}

#[test]
fn a_golden_clip_is_its_languages() {
    let golden = |language: &str, trust: Trust<'_>| trust.golden(language, unsigned(GOLDEN));
    assert_eq!(golden("ar", Trust::Anyone).unwrap().language, "ar");
    assert!(matches!(
        golden("de", Trust::Anyone).unwrap_err(),
        ModelError::WrongLanguage {
            part: Part::Golden,
            ..
        }
    ));
    let key = [KEY.parse().unwrap()];
    assert!(matches!(
        golden("ar", Trust::Only(&key)).unwrap_err(),
        ModelError::Package {
            part: Part::Golden,
            ..
        }
    ));
}
