//! The directories that initdb makes, and which of them can be made again when they are gone.

use super::super::MajorVersion;

/// The directories of 13 to 16, each after the one that holds it (PostgreSQL: `subdirs` in initdb.c).
const DIRECTORIES: [&str; 23] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
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
    "pg_wal/archive_status",
    "pg_xact",
    // 17 and later; always the last.
    SUMMARIES,
];

const SUMMARIES: &str = "pg_wal/summaries";

/// The first major version that has `pg_wal/summaries`.
const FIRST_WITH_SUMMARIES: MajorVersion = MajorVersion(17);

/// Those whose content, if any, a server makes anew.
const RECREATABLE: [&str; 16] = [
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal/archive_status",
    SUMMARIES,
];

/// Returns every directory that a cluster of that major version has, each after the one that holds it.
///
/// Without most of them the server does not start; without `pg_logical/snapshots`, `pg_logical/mappings`,
/// `pg_subtrans` or `pg_multixact/members` it starts, and fails at its first checkpoint. `pg_wal` and the
/// entries of `pg_tblspc` may be symbolic links. The directories of databases are not among them, not even `base/1`:
/// which databases there are, `pg_database` says, and `template1` may have been dropped and made anew.
pub fn required_directories(major: MajorVersion) -> impl Iterator<Item = &'static str> {
    of_version(&DIRECTORIES, major)
}

/// Returns the required directories that are empty, or hold nothing of lasting value, after a clean stop: git
/// and file synchronisers lose them, and making them again, empty, with the mode and owner of the data
/// directory, loses nothing.
///
/// That holds only for a directory that *was* empty, or if what it held is dispensable. The caller proves, or
/// says, for a cluster that uses the feature:
/// - `pg_twophase` held the prepared transactions, and the WAL has only those since the last checkpoint. If
///   any may have been prepared (the control file's `max_prepared_transactions` is not 0), an empty directory
///   rolls it back.
/// - `pg_replslot` and with it `pg_logical/snapshots` and `pg_logical/mappings` held the replication slots:
///   their consumers must start anew.
/// - `pg_logical` held how far subscriptions had come (`replorigin_checkpoint`), which is empty without any: they may
///   be sent again what they had (origin.c, `StartupReplicationOrigin()`).
/// - `pg_tblspc` held the links to the tablespaces. It is safe only if `pg_tablespace` has no more than
///   `pg_default` and `pg_global`; otherwise the relations in the others are out of reach.
/// - `pg_commit_ts` held the commit times, if the control file's `track_commit_timestamp` is on.
/// - `pg_wal/archive_status` held what was yet to be archived: the archive may have a gap.
/// - `pg_stat` held the statistics of use, which then begin at zero.
pub fn recreatable_empty_directories(major: MajorVersion) -> impl Iterator<Item = &'static str> {
    of_version(&RECREATABLE, major)
}

/// Leaves out what the major version does not have yet.
fn of_version(
    directories: &'static [&'static str],
    major: MajorVersion,
) -> impl Iterator<Item = &'static str> {
    let has_summaries = major >= FIRST_WITH_SUMMARIES;
    directories.iter().copied().filter(move |directory| has_summaries || *directory != SUMMARIES)
}

/// Files that initdb makes at the top of a data directory, and that a server makes there and reads or removes again.
const FILES: [&str; 16] = [
    "PG_VERSION",
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "pg_hba.conf",
    "pg_ident.conf",
    "postgresql.auto.conf",
    "postgresql.auto.conf.tmp",
    "postgresql.conf",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];

/// Those of them that a server only reads.
const FILES_ONLY_READ: [&str; 3] = ["pg_hba.conf", "pg_ident.conf", "postgresql.conf"];

/// What a server does with an entry of its data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It writes it, removes it, or asks that it is its own.
    Writes,
    /// It reads it.
    Reads,
    /// Nothing, unless its configuration says so: it is somebody's who put it there.
    Nothing,
}

/// Returns what a server does with the entry of a path below the data directory; `""` is that itself.
pub fn use_of(path: &str) -> Use {
    let top = path.split('/').next().unwrap_or(path);
    if FILES_ONLY_READ.contains(&path) {
        return Use::Reads;
    }
    let is_written = path.is_empty() || FILES.contains(&path) || DIRECTORIES.contains(&top);
    if is_written { Use::Writes } else { Use::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures::MAJORS;

    #[test]
    fn a_parent_comes_before_what_it_holds() {
        let directories: Vec<_> = required_directories(MajorVersion(18)).collect();
        for (index, directory) in directories.iter().enumerate() {
            if let Some((parent, _)) = directory.split_once('/') {
                assert!(directories[..index].contains(&parent), "{directory}");
            }
        }
    }

    #[test]
    fn wal_summaries_came_with_17() {
        assert_eq!(required_directories(MajorVersion(16)).count(), 22);
        assert_eq!(required_directories(MajorVersion(17)).count(), 23);
        assert_eq!(required_directories(MajorVersion(17)).last(), Some("pg_wal/summaries"));
        assert!(!recreatable_empty_directories(MajorVersion(16)).any(|directory| directory == SUMMARIES));
        assert!(recreatable_empty_directories(MajorVersion(17)).any(|directory| directory == SUMMARIES));
    }

    #[test]
    fn only_required_directories_are_recreated_and_none_that_hold_data() {
        let with_data = ["base", "global", "pg_wal", "pg_xact", "pg_multixact"];
        for major in MAJORS {
            for directory in recreatable_empty_directories(major) {
                assert!(required_directories(major).any(|required| required == directory), "{directory}");
                assert!(!with_data.contains(&directory) && !directory.starts_with("pg_multixact"));
            }
        }
    }

    #[test]
    fn what_somebody_put_there_is_none_of_the_servers() {
        for path in
            ["", "base", "base/5/16384", "pg_wal/archive_status", "PG_VERSION", "postgresql.auto.conf"]
        {
            assert_eq!(use_of(path), Use::Writes, "{path}");
        }
        assert_eq!(use_of("pg_hba.conf"), Use::Reads);
        for path in
            ["server.key", "certs", "certs/server.key", "conf.d/10.conf", "notes/base", "PG_VERSION.old"]
        {
            assert_eq!(use_of(path), Use::Nothing, "{path}");
        }
    }
}
