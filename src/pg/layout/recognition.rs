//! Whether a directory is, or was, a data directory, judged by the names in it.

/// The names, besides that of a configuration file, that together occur in no other kind of directory.
const WELL_KNOWN_NAMES: [&str; 19] = [
    "PG_VERSION",
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_xact",
    // Before 10; such a directory is refused as another major version, not as foreign.
    "pg_xlog",
];

/// How many of the well-known names make a data directory.
const ENOUGH_NAMES: usize = 3;

/// The names that a directory may hold and still count as empty: the file system's, that which makes git keep
/// a directory, and our own.
pub const NAMES_ALLOWED_IN_EMPTY_DIRECTORY: [&str; 3] = ["lost+found", ".gitkeep", ".pgbox"];

/// Says whether a directory with these entries is, or was, a data directory: at least three of the names that
/// initdb makes are among them.
///
/// The rule must hold for the worst damage that can still be helped, so no single name is required, not even
/// `PG_VERSION`. `postgresql.conf` and its like do not count: the configuration directory of a distribution
/// has them all, and is no data directory.
pub fn looks_like_postgres(names: impl IntoIterator<Item = impl AsRef<str>>) -> bool {
    let known = names.into_iter().filter(|name| WELL_KNOWN_NAMES.contains(&name.as_ref()));
    known.take(ENOUGH_NAMES).count() == ENOUGH_NAMES
}

/// Says whether a directory with these entries is as good as empty, so that a cluster may be made in it.
pub fn is_effectively_empty(names: impl IntoIterator<Item = impl AsRef<str>>) -> bool {
    names.into_iter().all(|name| NAMES_ALLOWED_IN_EMPTY_DIRECTORY.contains(&name.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::MajorVersion;
    use crate::pg::layout::required_directories;

    #[test]
    fn a_whole_cluster_is_recognised() {
        assert!(looks_like_postgres(required_directories(MajorVersion(15))));
    }

    #[test]
    fn a_cluster_is_recognised_by_any_three_names_that_are_left() {
        assert!(looks_like_postgres(["pg_xact", "pg_wal", "base"]));
        assert!(looks_like_postgres(["notes.txt", "global", "PG_VERSION", "pg_tblspc"].map(str::to_owned)));
        assert!(!looks_like_postgres(["base", "global"]));
    }

    #[test]
    fn other_directories_are_not() {
        let configuration = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "start.conf", "pg_ctl.conf"];

        assert!(!looks_like_postgres(configuration));
        assert!(!looks_like_postgres(["src", "base", "Cargo.toml"]));
        assert!(!looks_like_postgres([""; 0]));
    }

    #[test]
    fn a_directory_with_nothing_but_harmless_names_counts_as_empty() {
        assert!(is_effectively_empty([""; 0]));
        assert!(is_effectively_empty(["lost+found", ".gitkeep", ".pgbox"]));
        assert!(!is_effectively_empty(["lost+found", "base"]));
        assert!(!is_effectively_empty([".gitignore"]));
    }
}
