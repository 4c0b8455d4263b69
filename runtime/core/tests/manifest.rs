//! Claims about the base's manifest.

use proptest::prelude::*;
use swr_core::{
    FrontendSettings, GainSettings,
    detector::Timing,
    package::{Digest, MANIFEST_VERSION, Manifest, PackageError, Thresholds},
};

fn manifest() -> Manifest {
    let training = serde_json::json!({ "seed": 7, "epochs": 28, "config": { "tau": 1.0 } });
    Manifest {
        format: MANIFEST_VERSION,
        model_version: 1,
        architecture: "bcresnet-causal tau=1".into(),
        language: "en".into(),
        labels: ["yes", "no", "_unknown_", "_silence_"]
            .map(String::from)
            .to_vec(),
        thresholds: Thresholds::PerLabel(vec![0.5, 0.62, 1.0, 1.0]),
        calibration: None,
        frontend: FrontendSettings::default(),
        window_frames: 98,
        timing: Some(Timing {
            smoothing_frames: 3,
            confirm_frames: 10,
            refractory_frames: 15,
        }),
        context_frames: 46,
        licence: "CC-BY-4.0".into(),
        tensors_sha256: Digest([3; 32]),
        onnx_sha256: Digest([0xab; 32]),
        needs: Vec::new(),
        training: training.as_object().unwrap().clone(),
    }
}

/// The manifest's JSON with one piece of text replaced.
fn parse_with(from: &str, to: &str) -> Result<Manifest, PackageError> {
    let json = manifest().to_json().unwrap();
    assert!(json.contains(from), "{json}");
    Manifest::parse(json.replacen(from, to, 1).as_bytes())
}

#[test]
fn a_manifest_is_read_as_written() {
    let mut manifest = manifest();
    let json = manifest.to_json().unwrap();
    assert_eq!(Manifest::parse(json.as_bytes()).unwrap(), manifest);
    assert!(json.ends_with("}\n"));
    manifest.frontend.gain = Some(GainSettings::default());
    manifest.thresholds = Thresholds::ForAll(0.7);
    let json = manifest.to_json().unwrap();
    let read = Manifest::parse(json.as_bytes()).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(read.thresholds.per_label(4), [0.7; 4]);
}

#[test]
fn the_old_format_is_read_and_has_no_timing() {
    let old = Manifest {
        format: 2,
        timing: None,
        ..manifest()
    };
    let json = old.to_json().unwrap();
    assert!(!json.contains("timing"));
    assert_eq!(Manifest::parse(json.as_bytes()).unwrap(), old);
    // In the first one, the model version was a text.
    for (text, number) in [("\"3\"", 3), ("\"1.0.0\"", 1), ("\"0\"", 1), ("3", 3)] {
        let early = json.replacen("\"format\": 2", "\"format\": 1", 1);
        let early = early.replacen(
            "\"model_version\": 1",
            &format!("\"model_version\": {text}"),
            1,
        );
        let read =
            Manifest::parse(early.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((read.format, read.model_version), (1, number), "{text}");
        let again = read.to_json().unwrap();
        assert_eq!(Manifest::parse(again.as_bytes()).unwrap(), read);
    }
    assert!(parse_with("\"model_version\": 1", "\"model_version\": \"1\"").is_err());
    // Each format with what belongs to it.
    for (format, timing) in [
        (1, manifest().timing),
        (2, manifest().timing),
        (MANIFEST_VERSION, None),
    ] {
        let mixed = Manifest {
            format,
            timing,
            ..manifest()
        };
        let PackageError::BadField { field, .. } = mixed.to_json().unwrap_err() else {
            panic!("format {format}: refused for another reason");
        };
        assert_eq!(field, "timing");
    }
}

#[test]
fn an_unknown_manifest_version_and_an_unknown_front_end_are_told_apart() {
    assert_eq!(
        parse_with("\"format\": 4", "\"format\": 3").unwrap_err(),
        PackageError::UnsupportedVersion {
            what: "manifest",
            found: 3,
            supported: 4
        }
    );
    // What a later program may need is named, before anything that it may have changed is looked at.
    let needing = "\"needs\": [\"int8-changes\"], \"labels\": 5, \"language\"";
    assert_eq!(
        parse_with("\"language\"", needing).unwrap_err(),
        PackageError::UnknownNeed {
            feature: "\"int8-changes\"".into()
        }
    );
    for (from, to) in [
        ("\"mel_bins\": 40", "\"mel_bins\": 64"),
        ("\"mel_bins\"", "\"cepstra\""),
        (
            "\"mel_bins\"",
            "\"gain\": {\"smoothing\": 2, \"fall_db_per_s\": 6, \"target\": 500, \"least\": 0.126}, \"mel_bins\"",
        ),
    ] {
        let error = parse_with(from, to).unwrap_err();
        assert!(
            matches!(error, PackageError::UnknownFrontend { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_manifest_against_its_rules_is_refused() {
    let field = |from, to| match parse_with(from, to).unwrap_err() {
        PackageError::BadField { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field("\"no\"", "\"yes\""), "labels");
    assert_eq!(field("\"_unknown_\"", "\"maybe\""), "labels");
    assert_eq!(field("0.62", "1.5"), "thresholds");
    assert_eq!(field("0.62,", ""), "thresholds");
    assert_eq!(field("\"en\"", "\"\""), "language");
    assert_eq!(
        field("\"window_frames\": 98", "\"window_frames\": 0"),
        "window_frames"
    );
    assert_eq!(
        field("\"smoothing_frames\": 3", "\"smoothing_frames\": 0"),
        "timing.smoothing_frames"
    );
    assert_eq!(
        field("\"confirm_frames\": 10", "\"confirm_frames\": 99000"),
        "timing.confirm_frames"
    );
    assert_eq!(field("CC-BY-4.0", ""), "licence");

    let bad = |from, to| matches!(parse_with(from, to), Err(PackageError::BadManifest { .. }));
    assert!(bad("\"licence\"", "\"license\""));
    assert!(bad("abab", "xyab"));
    assert!(bad("{", "["));
    assert!(matches!(
        Manifest::parse(&vec![b' '; 2 << 20]).unwrap_err(),
        PackageError::TooLarge { .. }
    ));
    let mut unwritable = manifest();
    unwritable.thresholds = Thresholds::ForAll(f32::NAN);
    assert!(unwritable.to_json().is_err());
}

proptest! {
    #[test]
    fn numbers_of_a_manifest_are_read_as_written(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
        let mut manifest = manifest();
        manifest.training.insert("number".into(), number.into());
        let json = manifest.to_json().unwrap();
        prop_assert_eq!(Manifest::parse(json.as_bytes()).unwrap(), manifest);
    }
}
