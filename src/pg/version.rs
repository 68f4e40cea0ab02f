//! The content of `PG_VERSION`, the file that names a data directory's major version.

use super::MajorVersion;

/// Why the content of `PG_VERSION` names no major version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// The file holds nothing, or only white space.
    #[error("PG_VERSION is empty")]
    Empty,
    /// The file holds something else than a version.
    #[error("PG_VERSION holds no version: {content:?}")]
    Garbage {
        /// The beginning of what it holds.
        content: String,
    },
}

/// Reads the content of a `PG_VERSION` file, such as `"15\n"`.
///
/// Versions before 10 wrote two numbers, such as `9.6`; the first is returned, as the server does, so that
/// such a directory is told apart from one whose file is damaged (PostgreSQL: `ValidatePgVersion()` in
/// miscinit.c). That a version is read does not mean that pgbox supports it.
///
/// # Errors
/// [`VersionError::Empty`] and [`VersionError::Garbage`]; the server refuses both files too.
pub fn parse(content: &str) -> Result<MajorVersion, VersionError> {
    let version = content.trim_ascii();
    if version.is_empty() {
        return Err(VersionError::Empty);
    }
    leading_number(version)
        .map(MajorVersion)
        .ok_or_else(|| VersionError::Garbage { content: version.chars().take(64).collect() })
}

/// Returns the number before the first point, provided that all parts are numbers.
fn leading_number(version: &str) -> Option<u32> {
    let is_numeric = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !version.split('.').all(is_numeric) {
        return None;
    }
    version.split('.').next()?.parse().ok().filter(|major| *major > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_content_that_initdb_writes_is_read() {
        assert_eq!(parse("15\n"), Ok(MajorVersion(15)));
        assert_eq!(parse("18"), Ok(MajorVersion(18)));
        assert_eq!(parse("13\r\n"), Ok(MajorVersion(13)));
    }

    #[test]
    fn a_version_of_two_numbers_is_read_as_its_first() {
        assert_eq!(parse("9.6\n"), Ok(MajorVersion(9)));
    }

    #[test]
    fn an_empty_file_is_told_apart_from_garbage() {
        assert_eq!(parse(""), Err(VersionError::Empty));
        assert_eq!(parse(" \n"), Err(VersionError::Empty));
        for content in ["fifteen", "1u", "15 16", "-15", "+15", "0", ".5", "15.", "\0\0\0", "99999999999"] {
            assert!(matches!(parse(content), Err(VersionError::Garbage { .. })), "{content:?}");
        }
    }

    #[test]
    fn the_error_quotes_only_the_beginning_of_a_long_file() {
        let error = parse(&"x".repeat(10_000)).unwrap_err();

        assert_eq!(error, VersionError::Garbage { content: "x".repeat(64) });
    }

    proptest! {
        #[test]
        fn every_major_version_survives_its_text(major in 1..u32::MAX) {
            prop_assert_eq!(parse(&format!("{major}\n")), Ok(MajorVersion(major)));
        }

        #[test]
        fn arbitrary_text_never_panics(content: String) {
            let _ = parse(&content);
        }
    }
}
