//! What a backup of a data directory copies, and what it leaves out.

use serde::{Deserialize, Serialize};

use super::place::{Place, names_of};
use super::relation_file::{is_number, is_temporary_relation};

/// What a backup does with an entry of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupRule {
    /// Copy it.
    Copy,
    /// Keep the directory with its mode, but not what it holds: the server does not start without the
    /// directory.
    CopyDirectoryOnly,
    /// Leave it out.
    Skip,
}

/// The directories whose content no restored cluster may or need have (PostgreSQL: `excludeDirContents` in
/// basebackup.c). The WAL that a backup needs comes from the archive instead: what lies in `pg_wal` may be
/// torn.
const DIRECTORIES_KEPT_EMPTY: [&str; 8] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
];

/// The directories in `pg_wal` that are kept, empty like itself.
const WAL_DIRECTORIES_KEPT: [&str; 2] = ["archive_status", "summaries"];

/// The entries of the data directory itself that belong to the running server, to another backup, to pgbox or
/// to the file system (PostgreSQL: `excludeFiles` in basebackup.c).
const TOP_ENTRIES_SKIPPED: [&str; 14] = [
    ".pgbox",
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "current_logfiles.tmp",
    "lost+found",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];

/// Says what a backup of a running cluster does with one entry, by its path alone.
///
/// Two rules depend on more than the path, and are the caller's: of an unlogged relation (one with an `_init`
/// fork) only that fork is copied, and sockets and other special files are skipped with a warning.
/// `global/pg_control` is copied, last.
pub fn backup_rule(relative_path: &str) -> BackupRule {
    let names = names_of(relative_path);
    if names.iter().any(|name| name.starts_with("pgsql_tmp")) {
        return BackupRule::Skip;
    }
    let Some((top, below)) = names.split_first() else {
        return BackupRule::Copy;
    };
    if TOP_ENTRIES_SKIPPED.contains(top) {
        return BackupRule::Skip;
    }
    if DIRECTORIES_KEPT_EMPTY.contains(top) {
        return rule_in_emptied_directory(top, below);
    }
    if is_rebuilt_file(&names) { BackupRule::Skip } else { BackupRule::Copy }
}

fn rule_in_emptied_directory(directory: &str, below: &[&str]) -> BackupRule {
    match below {
        [] => BackupRule::CopyDirectoryOnly,
        [name] if directory == "pg_wal" && WAL_DIRECTORIES_KEPT.contains(name) => {
            BackupRule::CopyDirectoryOnly
        }
        _ => BackupRule::Skip,
    }
}

/// Says whether the names lead to a file that the server removes or makes anew when it starts: a relation
/// cache, or a file of a temporary relation.
fn is_rebuilt_file(names: &[&str]) -> bool {
    let Some((file_name, directory)) = names.split_last() else {
        return false;
    };
    match Place::of_directory(directory) {
        Place::Global => is_relation_cache(file_name),
        Place::Database => is_relation_cache(file_name) || is_temporary_relation(file_name),
        Place::Top | Place::Elsewhere => false,
    }
}

/// Says whether a file is the relation cache, `pg_internal.init`, or one being written, with a process
/// number.
fn is_relation_cache(file_name: &str) -> bool {
    let rest = file_name.strip_prefix("pg_internal.init");
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(is_number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pg::MajorVersion;
    use crate::pg::layout::required_directories;

    #[test]
    fn data_is_copied() {
        for path in [
            "",
            ".",
            "PG_VERSION",
            "postgresql.conf",
            "postgresql.auto.conf",
            "pg_hba.conf",
            "current_logfiles",
            "base",
            "base/1/1259",
            "base/5/16384_init",
            "base/1/pg_filenode.map",
            "global/pg_control",
            "global/2671",
            "pg_xact/0000",
            "pg_multixact/members/0000",
            "pg_twophase/00000301",
            "pg_logical/snapshots/0-1F.snap",
            "pg_stat/pgstat.stat",
            "pg_tblspc/16400",
            "pg_tblspc/16400/PG_15_202209061/5/16401",
            "log/postgresql.log",
        ] {
            assert_eq!(backup_rule(path), BackupRule::Copy, "{path:?}");
        }
    }

    #[test]
    fn directories_that_the_server_needs_empty_are_kept_without_content() {
        for path in
            ["pg_wal", "pg_wal/", "./pg_wal/archive_status", "pg_wal/summaries", "pg_notify", "pg_replslot"]
        {
            assert_eq!(backup_rule(path), BackupRule::CopyDirectoryOnly, "{path:?}");
        }
        for path in [
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/000000010000000000000001.done",
            "pg_replslot/slot/state",
            "pg_replslot/archive_status",
            "pg_stat_tmp/global.stat",
            "pg_subtrans/0000",
        ] {
            assert_eq!(backup_rule(path), BackupRule::Skip, "{path:?}");
        }
    }

    #[test]
    fn no_required_directory_is_left_out() {
        for directory in required_directories(MajorVersion(18)) {
            assert_ne!(backup_rule(directory), BackupRule::Skip, "{directory}");
        }
    }

    #[test]
    fn what_belongs_to_the_running_server_or_to_pgbox_is_left_out() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "backup_label.old",
            "tablespace_map",
            "backup_manifest.tmp",
            "standby.signal",
            "postgresql.auto.conf.tmp",
            "lost+found",
            ".pgbox",
            ".pgbox/aside/damaged/base/1/1259",
        ] {
            assert_eq!(backup_rule(path), BackupRule::Skip, "{path:?}");
        }
    }

    #[test]
    fn the_same_names_elsewhere_are_copied() {
        for path in
            ["log/postmaster.pid", "base/backup_label", "global/t3_16386", "mine/pg_wal/1", "t3_16386"]
        {
            assert_eq!(backup_rule(path), BackupRule::Copy, "{path:?}");
        }
    }

    #[test]
    fn temporary_files_are_left_out() {
        for path in [
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp123.0",
            "pg_tblspc/16400/PG_15_202209061/pgsql_tmp/pgsql_tmp1.0",
            "base/5/t3_16386_fsm.1",
            "pg_tblspc/16400/PG_15_202209061/5/t3_16386",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.412",
            "global/pg_internal.init",
        ] {
            assert_eq!(backup_rule(path), BackupRule::Skip, "{path:?}");
        }
        assert_eq!(backup_rule("base/5/pg_internal.initial"), BackupRule::Copy);
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(path: String) {
            let _ = backup_rule(&path);
        }

        #[test]
        fn nothing_below_what_is_left_out_is_copied(
            path in "(pg_wal|pg_notify|\\.pgbox|base)(/[a-z0-9_]{1,9}){0,3}",
            name: String,
        ) {
            let below = format!("{path}/{name}/x");
            prop_assert!(backup_rule(&path) == BackupRule::Copy || backup_rule(&below) != BackupRule::Copy);
        }
    }
}
