//! Which setting a failed start is to blame on, where the server reads a configuration and then refuses what it asks for,
//! and what a server can be started with instead.

/// A setting that keeps a server from starting, and a value with which it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blamed {
    /// The parameter.
    pub parameter: &'static str,
    /// The value for this run.
    pub instead: Instead,
    /// Whether it only counts where a file of the configuration sets the parameter.
    must_be_set: bool,
}

/// The value that a parameter is given for one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// PostgreSQL's own default.
    Default(&'static str),
    /// The `max_prepared_transactions` that the cluster was run with last, by its control file.
    FormerPreparedTransactions,
}

impl Blamed {
    const fn default_of(parameter: &'static str, value: &'static str) -> Self {
        Self { parameter, instead: Instead::Default(value), must_be_set: true }
    }

    /// Whether the parameter is to blame even where no file of the configuration sets it: the file that did may be gone.
    pub fn may_be_unset(&self) -> bool {
        !self.must_be_set
    }
}

/// Words of PostgreSQL 13 to 19, and what is to blame for them (postmaster.c, `PostmasterMain()`; `sysv_shmem.c`,
/// `CreateAnonymousSegment()`; twophase.c, `MarkAsPreparing()`).
const BLAMED: &[(&[&str], Blamed)] = &[
    (&["WAL archival cannot be enabled"], Blamed::default_of("wal_level", "replica")),
    (&["WAL streaming", "requires", "wal_level"], Blamed::default_of("wal_level", "replica")),
    (&["WAL summarization cannot be enabled"], Blamed::default_of("wal_level", "replica")),
    (&["shared memory", "could not map"], Blamed::default_of("shared_buffers", "128MB")),
    (
        &["superuser_reserved_connections", "must be less than"],
        Blamed::default_of("superuser_reserved_connections", "3"),
    ),
    (
        &["maximum number of prepared transactions reached"],
        Blamed {
            parameter: "max_prepared_transactions",
            instead: Instead::FormerPreparedTransactions,
            must_be_set: false,
        },
    ),
];

/// Returns the setting that the words of a failed start are about; `None` where none is known to help.
pub fn blamed(words: &str) -> Option<Blamed> {
    let is_said = |parts: &&[&str]| parts.iter().all(|part| words.contains(part));
    BLAMED.iter().find(|(parts, _)| is_said(parts)).map(|(_, blamed)| *blamed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::archiving("WAL archival cannot be enabled when wal_level is \"minimal\"", Some("wal_level"))]
    #[case::senders(
        "WAL streaming (max_wal_senders > 0) requires wal_level to be \"replica\" or \"logical\"",
        Some("wal_level")
    )]
    #[case::senders_since_18(
        "WAL streaming (\"max_wal_senders\" > 0) requires \"wal_level\" to be \"replica\" or \"logical\"",
        Some("wal_level")
    )]
    #[case::memory("could not map anonymous shared memory: Cannot allocate memory", Some("shared_buffers"))]
    #[case::reserved(
        "postgres: superuser_reserved_connections (100) must be less than max_connections (100)",
        Some("superuser_reserved_connections")
    )]
    #[case::prepared("maximum number of prepared transactions reached", Some("max_prepared_transactions"))]
    #[case::a_slot("logical replication slot \"cdc\" exists, but wal_level < logical", None)]
    #[case::a_disk("could not write to file \"pg_wal/xlogtemp.7\": No space left on device", None)]
    fn a_setting_is_told_from_the_words(#[case] words: &str, #[case] expected: Option<&str>) {
        assert_eq!(blamed(words).map(|blamed| blamed.parameter), expected);
    }
}
