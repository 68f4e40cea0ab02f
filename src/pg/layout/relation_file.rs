//! The names of relation files.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::Oid;

/// A fork of a relation, each in files of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fork {
    /// The data itself.
    Main,
    /// The free space map; the server makes a missing one anew.
    Fsm,
    /// The visibility map; the server makes a missing one anew.
    Vm,
    /// The empty state of an unlogged relation: after a crash it replaces all other forks.
    Init,
}

impl Fork {
    /// Returns what the fork adds to a file name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Fsm => "_fsm",
            Self::Vm => "_vm",
            Self::Init => "_init",
        }
    }

    /// Splits the fork off a file name without its segment number.
    fn split_from(name: &str) -> (&str, Self) {
        let other = [Self::Fsm, Self::Vm, Self::Init]
            .into_iter()
            .find_map(|fork| name.strip_suffix(fork.suffix()).map(|relation| (relation, fork)));
        other.unwrap_or((name, Self::Main))
    }
}

/// One segment file of one fork of a permanent or unlogged relation, such as `16384_vm` or `16384.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationFile {
    /// The number that names the relation's files.
    pub relfilenode: Oid,
    /// The fork.
    pub fork: Fork,
    /// The number of the segment, from 0.
    pub segment: u32,
}

impl RelationFile {
    /// Reads a file name without a directory. Names that the server would not write, such as those with
    /// leading zeros, are none (PostgreSQL: `parse_filename_for_nontemp_relation()` in reinit.c).
    ///
    /// In a directory that holds no relations, such as `pg_xact`, a name may look like this by chance.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (name, segment) = match file_name.split_once('.') {
            Some((name, segment)) => (name, canonical_number(segment)?),
            None => (file_name, 0),
        };
        let (relation, fork) = Fork::split_from(name);
        let relfilenode = canonical_number(relation).map(Oid)?;
        Some(Self { relfilenode, fork, segment })
    }
}

impl fmt::Display for RelationFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.relfilenode, self.fork.suffix())?;
        if self.segment > 0 {
            write!(formatter, ".{}", self.segment)?;
        }
        Ok(())
    }
}

/// Says whether a file of this name, in a database directory, belongs to a temporary relation, such as
/// `t3_16386`: the server removes it when it starts (PostgreSQL: `looks_like_temp_rel_name()` in fd.c).
pub fn is_temporary_relation(name: &str) -> bool {
    let (name, segment) = name.split_once('.').map_or((name, None), |(name, segment)| (name, Some(segment)));
    let (name, _) = Fork::split_from(name);
    let parts = name.strip_prefix('t').and_then(|name| name.split_once('_'));
    let has_numbers = parts.is_some_and(|(backend, relation)| is_number(backend) && is_number(relation));
    has_numbers && segment.is_none_or(is_number)
}

/// Says whether a text consists of digits.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads a number from 1, written without leading zeros.
fn canonical_number(text: &str) -> Option<u32> {
    if text.starts_with('0') || !is_number(text) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1262", 1262, Fork::Main, 0)]
    #[case("1262_fsm", 1262, Fork::Fsm, 0)]
    #[case("16384_vm.1", 16384, Fork::Vm, 1)]
    #[case("16384_init", 16384, Fork::Init, 0)]
    #[case("4294967295.32767", u32::MAX, Fork::Main, 32767)]
    fn a_relation_file_is_read_and_written(
        #[case] name: &str,
        #[case] relfilenode: u32,
        #[case] fork: Fork,
        #[case] segment: u32,
    ) {
        let file = RelationFile::parse(name).unwrap();

        assert_eq!(file, RelationFile { relfilenode: Oid(relfilenode), fork, segment });
        assert_eq!(file.to_string(), name);
    }

    #[test]
    fn other_names_are_no_relation_files() {
        let names = [
            "",
            "PG_VERSION",
            "pg_control",
            "pg_filenode.map",
            "pg_internal.init",
            "t3_16386",
            "0",
            "01262",
            "0000",
            "1262.",
            "1262.0",
            "1262.01",
            "1262.1.2",
            "1262_",
            "1262_map",
            "1262_fsm_vm",
            "1262.1_fsm",
            "_fsm",
            "+1",
            "4294967296",
            "1262 ",
            "1262.tmp",
            "12620000000000",
        ];
        for name in names {
            assert_eq!(RelationFile::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn files_of_temporary_relations_are_recognised() {
        for name in ["t3_16386", "t12_16386_fsm", "t12_16386_vm.1", "t3_16386.2", "t3_16386_init"] {
            assert!(is_temporary_relation(name), "{name:?}");
        }
        for name in
            ["", "t", "t_1", "t1_", "t1", "16386", "t3_16386_map", "t3_16386.", "t3_16386_fsm_vm", "x3_1"]
        {
            assert!(!is_temporary_relation(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_relation_file_survives_its_name(number in 1..=u32::MAX, fork in 0..4_usize, segment: u32) {
            let fork = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init][fork];
            let file = RelationFile { relfilenode: Oid(number), fork, segment };
            prop_assert_eq!(RelationFile::parse(&file.to_string()), Some(file));
            prop_assert!(!is_temporary_relation(&file.to_string()));
        }

        #[test]
        fn arbitrary_names_never_panic(
            name: String,
            similar in "t?[0-9]{1,12}(_[a-z0-9]{0,5})?(\\.[0-9]{0,12})?",
        ) {
            for name in [name, similar] {
                let file = RelationFile::parse(&name);
                prop_assert!(file.is_none_or(|file| file.to_string() == name));
                prop_assert!(file.is_none() || !is_temporary_relation(&name));
            }
        }
    }
}
