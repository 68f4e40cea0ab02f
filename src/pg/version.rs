//! The content of `PG_VERSION`, the file that names a data directory's major version, and how long versions live.

use super::MajorVersion;
use chrono::NaiveDate;

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

/// Returns the day of a major version's last release, by the community's versioning policy; `None` for one that pgbox
/// does not know.
pub fn last_release(major: MajorVersion) -> Option<NaiveDate> {
    let (year, day) = match major.0 {
        13 => (2025, 13),
        14 => (2026, 12),
        15 => (2027, 11),
        16 => (2028, 9),
        17 => (2029, 8),
        18 => (2030, 14),
        19 => (2031, 13),
        _ => return None,
    };
    NaiveDate::from_ymd_opt(year, 11, day)
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;
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

    #[test]
    fn every_known_version_has_a_last_release_one_year_after_the_one_before() {
        let years: Vec<i32> =
            (13..=19).map(|major| last_release(MajorVersion(major)).unwrap().year()).collect();

        assert_eq!(years, (2025..=2031).collect::<Vec<_>>());
        assert_eq!(last_release(MajorVersion(20)), None);
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
