//! Names of files as text. A name is bytes, and need not be UTF-8: somebody's export may be called `caf\xe9.csv`.
//!
//! Above this module a name is a `String`, and a path made of names is one, too: PostgreSQL's own names are ASCII, and
//! the tables of a repository are text. A byte that no UTF-8 text has stands there as one private character, U+EF00 and
//! the byte, and so do the bytes of a name that has such characters itself. So each name has one text, and each text
//! one name. The alternative, `OsString` up to the repository, was refused: it would have changed its format.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a byte from 0x80 on stands as.
const ESCAPES: std::ops::RangeInclusive<char> = '\u{EF80}'..='\u{EFFF}';
/// The first byte of every escape in UTF-8, by which nearly all paths are seen to have none.
const LEAD: u8 = 0xEE;

/// Returns a name, or a path, as text.
pub fn text_of(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if ESCAPES.contains(&character) {
                let mut buffer = [0; 4];
                text.extend(character.encode_utf8(&mut buffer).bytes().map(escape));
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().copied().map(escape));
    }
    text
}

/// Returns the path that a text stands for, as the file system has it.
pub fn path_of(text: &Path) -> Cow<'_, Path> {
    let bytes = text.as_os_str().as_bytes();
    let Some(text) = text.to_str().filter(|_| bytes.contains(&LEAD)) else { return Cow::Borrowed(text) };
    let mut path = Vec::with_capacity(text.len());
    for character in text.chars() {
        match escaped(character) {
            Some(byte) => path.push(byte),
            None => path.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Cow::Owned(Path::new(OsStr::from_bytes(&path)).to_path_buf())
}

fn escape(byte: u8) -> char {
    char::from_u32(0xEF00 + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn escaped(character: char) -> Option<u8> {
    ESCAPES.contains(&character).then(|| u8::try_from(u32::from(character) & 0xFF).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_in_another_encoding_has_a_text() {
        let text = text_of(b"caf\xe9.csv");
        assert_eq!(text, "caf\u{EFE9}.csv");
        assert_eq!(path_of(Path::new(&text)).as_os_str().as_bytes(), b"caf\xe9.csv");
    }

    #[test]
    fn a_name_that_is_utf_8_is_its_own_text() {
        for name in ["pg_wal", "café.csv", "☃", "\u{E000}"] {
            assert_eq!(text_of(name.as_bytes()), name);
            assert_eq!(path_of(Path::new(name)), Path::new(name));
        }
    }

    proptest! {
        #[test]
        fn each_name_has_a_text_of_its_own_that_leads_back_to_it(
            name in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xEE), Just(0xBE), Just(0x80)], 0..20)
        ) {
            let text = text_of(&name);
            let path = path_of(Path::new(&text)).into_owned();
            prop_assert_eq!(path.as_os_str().as_bytes(), &name);
        }
    }
}
