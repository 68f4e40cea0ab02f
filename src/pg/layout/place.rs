//! Which kind of directory of the cluster a path leads into.

use super::relation_file::{RelationFile, is_number};

/// The directory that holds an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The data directory itself.
    Top,
    /// `global`, with the shared relations.
    Global,
    /// The directory of one database, in `base` or in a tablespace.
    Database,
    /// Any other.
    Elsewhere,
}

impl Place {
    /// Returns the kind of directory that those names lead to.
    pub(super) fn of_directory(names: &[&str]) -> Self {
        match names {
            [] => Self::Top,
            ["global"] => Self::Global,
            ["base", database] if is_number(database) => Self::Database,
            ["pg_tblspc", tablespace, version, database]
                if is_number(tablespace) && version.starts_with("PG_") && is_number(database) =>
            {
                Self::Database
            }
            _ => Self::Elsewhere,
        }
    }

    /// Says whether relation files lie here.
    pub(super) fn has_relations(self) -> bool {
        matches!(self, Self::Global | Self::Database)
    }
}

/// Splits a relative path into its names; empty ones and `.` say nothing and are left out.
pub(super) fn names_of(relative_path: &str) -> Vec<&str> {
    relative_path.split('/').filter(|name| !name.is_empty() && *name != ".").collect()
}

/// Says whether a file consists of data pages, which carry a checksum if the cluster's pages do.
///
/// Those are the relation files of all forks, also `_fsm`, `_vm` and `_init`. Not `pg_filenode.map`,
/// `pg_control`, `PG_VERSION` and the like; not the SLRUs (`pg_xact` and others), whose pages have no header;
/// and not the files of temporary relations, which nothing keeps (PostgreSQL: `noChecksumFiles` in
/// basebackup.c).
pub fn has_data_pages(relative_path: &str) -> bool {
    let names = names_of(relative_path);
    names.split_last().is_some_and(|(file_name, directory)| {
        Place::of_directory(directory).has_relations() && RelationFile::parse(file_name).is_some()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn relation_files_of_all_forks_have_data_pages() {
        for path in [
            "global/1262",
            "global/1262_fsm",
            "base/1/1259_vm",
            "base/16384/16385.3",
            "base/16384/16390_init",
            "pg_tblspc/16400/PG_15_202209061/5/16401",
            "./base//1/1259",
        ] {
            assert!(has_data_pages(path), "{path:?}");
        }
    }

    #[test]
    fn other_files_have_none() {
        for path in [
            "",
            "1262",
            "global",
            "global/pg_control",
            "global/pg_filenode.map",
            "global/pg_internal.init",
            "base/1",
            "base/1/PG_VERSION",
            "base/1/pg_filenode.map",
            "base/5/t3_16386",
            "base/pgsql_tmp/1",
            "base/1/1259/1",
            "pg_xact/1234",
            "pg_multixact/offsets/1234",
            "pg_tblspc/16400",
            "pg_tblspc/16400/5/16401",
            "pg_tblspc/16400/pgsql_tmp/5/16401",
            "other/base/1/1259",
        ] {
            assert!(!has_data_pages(path), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(
            path: String,
            similar in "(base|global|pg_tblspc)(/[A-Z0-9_.]{0,3}){0,4}",
        ) {
            let _ = (has_data_pages(&path), has_data_pages(&similar));
        }
    }
}
