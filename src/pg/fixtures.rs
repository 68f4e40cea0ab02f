//! Access to the files of real clusters under `tests/fixtures/postgres`, for the unit tests of this tree
//! only.

use super::MajorVersion;

/// The major versions that the fixtures cover.
pub(super) const MAJORS: [MajorVersion; 7] = [
    MajorVersion(13),
    MajorVersion(14),
    MajorVersion(15),
    MajorVersion(16),
    MajorVersion(17),
    MajorVersion(18),
    MajorVersion(19),
];

/// Reads one fixture file of one major version.
pub(super) fn read(major: MajorVersion, name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/postgres/{major}/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("read fixture {path}: {error}"))
}
