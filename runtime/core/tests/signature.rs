//! Claims about signatures: what the `minisign` tool signed passes, and nothing else does.
//!
//! golden/*.minisig were made with minisign 0.11: `minisign -G -W -p signed.pub -s secret.key`, `minisign -S -s secret.key -m FILE`.

use swr_core::package::{Delta, DetachedSignature, Digest, PackageError, PublicKey};

const KEY: &str = include_str!("../golden/signed.pub");
const DELTA: &[u8] = include_bytes!("../golden/delta-v3-int8.swr");
const DELTA_SIGNATURE: &str = include_str!("../golden/delta-v3-int8.swr.minisig");
/// Any other file is signed byte for byte.
const FILE: &[u8] = include_bytes!("../golden/frontend.csv");
const FILE_SIGNATURE: &str = include_str!("../golden/frontend.csv.minisig");
/// Another key of minisign's.
const OTHER_KEY: &str = "RWSljMQRfsfhmQbnl8AhHmCwm/kx8GiWLlUtIXpoNifkYu2p4NzXznsg";
/// A signature of the kind that minisign made before 0.10, over the file itself.
const LEGACY: &str = "untrusted comment: signature from minisign secret key\nRWRv1yhNIQm0IlphmzO1DmNzsLpedFNNYpTFaAECMqIMbYxRwzP9oHLymwICCeY7MIlruCsm2WLgVTm9sZYncNha10wIlMPOgQ0=\ntrusted comment: x\nAAAA";

fn key() -> PublicKey {
    KEY.parse().unwrap()
}

fn embedded() -> Vec<u8> {
    let signature: DetachedSignature = DELTA_SIGNATURE.parse().unwrap();
    let delta = Delta::read(DELTA).unwrap();
    assert!(!delta.has_signature());
    delta.with_signature(signature.signature).write()
}

/// Puts a right checksum on altered contents, as a hostile writer would.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 8;
    let digest = Digest::of_bytes(&bytes[..body]);
    bytes[body..].copy_from_slice(&digest.0[..8]);
    bytes
}

#[test]
fn signatures_of_the_minisign_tool_pass() {
    for (file, signature) in [(DELTA, DELTA_SIGNATURE), (FILE, FILE_SIGNATURE)] {
        let signature: DetachedSignature = signature.parse().unwrap();
        assert_eq!(signature.key, key().id());
        key().check(file, &signature).unwrap();
    }
    let line: PublicKey = KEY.lines().nth(1).unwrap().parse().unwrap();
    assert_eq!(line, key());
    let shown = key().id().to_string();
    assert!(KEY.contains(&shown), "{shown}: minisign shows it in {KEY}");
}

#[test]
fn an_embedded_signature_passes_and_the_detached_one_still_fits() {
    let file = embedded();
    assert!(Delta::read(&file).unwrap().has_signature());
    key().check_embedded(&file).unwrap();
    key()
        .check(&file, &DELTA_SIGNATURE.parse().unwrap())
        .unwrap();
    assert_eq!(Delta::read(&file).unwrap().write_unsigned(), DELTA);
}

#[test]
fn unsigned_wrong_key_and_altered_are_told_apart() {
    let unsigned = key().check_embedded(DELTA).unwrap_err();
    assert!(
        matches!(unsigned, PackageError::Unsigned { .. }),
        "{unsigned}"
    );
    assert!(unsigned.to_string().starts_with("unsigned"));

    let other: PublicKey = OTHER_KEY.parse().unwrap();
    let wrong = other
        .check(DELTA, &DELTA_SIGNATURE.parse().unwrap())
        .unwrap_err();
    let expected = PackageError::WrongKey {
        expected: other.id(),
        found: key().id(),
    };
    assert_eq!(wrong, expected);
    assert!(wrong.to_string().starts_with("wrong key"));
    let wrong = other.check_embedded(&embedded()).unwrap_err();
    assert!(
        matches!(wrong, PackageError::BadSignature { .. }),
        "{wrong}"
    );

    let damaged = key().check_embedded(&embedded()[..100]).unwrap_err();
    assert!(matches!(damaged, PackageError::Damaged { .. }), "{damaged}");
    assert_eq!(key().check_embedded(FILE), Err(PackageError::NotADelta));
}

#[test]
fn no_flipped_bit_passes() {
    let (file, signature) = (embedded(), DELTA_SIGNATURE.parse().unwrap());
    for bit in (0..file.len() * 8).step_by(7) {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(key().check_embedded(&flipped).is_err(), "bit {bit}");
        assert!(key().check(&flipped, &signature).is_err(), "bit {bit}");
        // A hostile writer mends the checksum.
        let mended = resealed(flipped);
        if bit / 8 < file.len() - 8 {
            assert!(key().check_embedded(&mended).is_err(), "bit {bit}, mended");
        }
        // In the signature's own room the detached one does not care: it is another signature, of the same contents.
        let in_signature = (file.len() - 72..file.len() - 8).contains(&(bit / 8));
        let whole = bit / 8 >= file.len() - 72;
        assert_eq!(
            key().check(&mended, &signature).is_ok(),
            in_signature || whole,
            "bit {bit}, mended"
        );
    }
    let text = DELTA_SIGNATURE.as_bytes();
    let first_line = DELTA_SIGNATURE.find('\n').unwrap();
    for bit in first_line * 8..(text.len() - 1) * 8 {
        let mut flipped = text.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(flipped) = String::from_utf8(flipped) else {
            continue;
        };
        let passes = flipped
            .parse()
            .is_ok_and(|signature| key().check(DELTA, &signature).is_ok());
        assert!(!passes, "bit {bit} of the signature's file");
    }
}

#[test]
fn what_is_no_key_or_signature_is_refused_with_a_reason() {
    for text in [
        "",
        "RWQ",
        "untrusted comment: x\n",
        "a\nb\nc",
        &"x".repeat(20_000),
        &KEY.replace("\nRW", "\nSW"),
    ] {
        let error = text.parse::<PublicKey>().unwrap_err();
        assert!(matches!(error, PackageError::BadKeyFile { .. }), "{error}");
    }
    for text in [
        "",
        "a\nb\nc\nd",
        LEGACY,
        &DELTA_SIGNATURE.replace("trusted comment: golden", "comment: golden"),
    ] {
        let error = text.parse::<DetachedSignature>().unwrap_err();
        assert!(matches!(error, PackageError::BadKeyFile { .. }), "{error}");
    }
    let legacy = LEGACY.parse::<DetachedSignature>().unwrap_err().to_string();
    for part in ["older form", "`-l`", "`prehash=True`"] {
        assert!(legacy.contains(part), "{legacy}");
    }
}

/// As editors and mails leave them; the common tool reads these as well.
#[test]
fn key_and_signature_files_may_have_marks_blank_lines_and_other_line_ends() {
    for changed in [
        |text: &str| format!("\u{feff}{text}\n\n  \n"),
        |text: &str| text.replace('\n', "\r\n"),
        |text: &str| text.replace('\n', "\r"),
        |text: &str| format!("\n{}", text.replace('\n', "\n\n")),
    ] {
        let read: PublicKey = changed(KEY).parse().unwrap();
        assert_eq!(read, key());
        let signature: DetachedSignature = changed(DELTA_SIGNATURE).parse().unwrap();
        key().check(DELTA, &signature).unwrap();
    }
    // A blank in the comment is signed with it.
    let longer = DELTA_SIGNATURE.replace("trusted comment: golden", "trusted comment: golden ");
    let signature: DetachedSignature = longer.parse().unwrap();
    assert!(key().check(DELTA, &signature).is_err());
}
