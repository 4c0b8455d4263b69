//! Keywords as people write them: in one way of composing letters, and of letters of any script.

use unicode_normalization::UnicodeNormalization;
#[cfg(feature = "cli")]
use unicode_normalization::char::is_combining_mark;

/// The one way in which letters are composed here: two programs, or a folder of a Mac and a table of somebody else's, spell a word differently.
pub(crate) fn nfc(word: &str) -> String {
    word.nfc().collect()
}

/// Whether a character belongs to words and may stand in a file's name: letters and digits, the marks on letters without which most scripts of India and
/// South-East Asia cannot be written, and what joins or parts letters within a word.
#[cfg(feature = "cli")]
pub(crate) fn is_letter(letter: char) -> bool {
    // Zero-width joiner and non-joiner, the Catalan dot, the Hebrew geresh, the apostrophe as it is printed, the Tibetan tsheg, and a hyphen that does not break.
    let joins = "\u{200c}\u{200d}\u{b7}\u{5f3}\u{5f4}\u{2019}\u{f0b}\u{2011}";
    letter.is_alphanumeric() || is_combining_mark(letter) || joins.contains(letter)
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_script_are_letters() {
        for word in [
            "licht",
            "Straße",
            "नमस्ते",
            "வணக்கம்",
            "สวัสดี",
            "নমস্কার",
            "សួស្តី",
            "می\u{200c}خواهم",
            "cafe\u{301}",
            "l\u{b7}l",
            "ཀ་ཁ",
            "ʻokina",
            "안녕",
        ] {
            assert!(word.chars().all(is_letter), "{word}");
        }
        for letter in ['/', '\\', '.', ':', '_', '\u{0}', '\n', '*', '\u{202e}'] {
            assert!(!is_letter(letter), "{letter:?}");
        }
    }
}
