//! The PostgreSQL servers that tests run: Debian's, and those of the other major versions that `scripts/test` fetches.

use super::sandbox::has_postgresql;
use std::path::{Path, PathBuf};

/// The version that all tests run with, and whose client programs judge every other.
pub(crate) const USUAL: u32 = 15;

/// Versions that are only in an archive of experiments, which has them on some days and not on others.
const FLEETING: [u32; 1] = [19];

/// Where the programs of a major version are; `None`, said in a line, where they are missing.
///
/// # Panics
/// Where `CI` is set, a missing version is a failure, but for those that nobody keeps for good.
pub(crate) fn programs(major: u32) -> Option<PathBuf> {
    if !has_postgresql() {
        return None;
    }
    if major == USUAL {
        return Some(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/postgresql/{major}/bin"));
    // The way to it may be a link, for the server's user may not be let into the clone.
    if let Ok(directory) = fetched.canonicalize() {
        return Some(directory);
    }
    let message = format!("the server of PostgreSQL {major} is not there (scripts/test fetches it)");
    let may_be_missing = std::env::var_os("CI").is_none() || FLEETING.contains(&major);
    assert!(may_be_missing, "{message}");
    eprintln!("SKIPPED: {message}");
    None
}
