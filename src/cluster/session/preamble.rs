//! The settings that every session of pgbox begins with, over those of the cluster's configuration, of its roles and of
//! its databases.
//!
//! They go into the start-up packet, for pgbox's own sessions and through `PGOPTIONS` for client programs. There they
//! outrank `ALTER ROLE … SET`, `ALTER DATABASE … SET` and the configuration files (guc.h, `GucSource`: `PGC_S_CLIENT` is
//! after `PGC_S_DATABASE_USER`), and are in force before the server loads a library for the session or runs a login
//! trigger. `SET` after the connection was refused: it comes too late for a session that a setting ends at its
//! beginning.

use crate::pg::MajorVersion;

type Setting = (&'static str, &'static str);

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To ask the server that serves, or to set it up.
    Serving,
    /// To judge a copy by reading it: no damage is passed over.
    Judging,
    /// To read what still reads of a damaged copy, which is not to be changed.
    Rescuing,
    /// To load what was rescued into a new cluster.
    Loading,
}

/// What the user of a session may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// All of it.
    Superuser,
    /// What every user may set.
    Ordinary,
}

/// The settings of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preamble {
    version: MajorVersion,
    purpose: Purpose,
    more: Vec<Setting>,
}

/// What every user may set: no limits and no paths, and values written so that they are read back as they were
/// (`pg_dump.c`, `setup_connection()`).
///
/// `array_nulls` and `transform_null_equals` would change what is loaded, `exit_on_error` would end a session that
/// expects an error, and `role` would leave it without the superuser's rights.
const EVERYBODY: [Setting; 25] = [
    ("role", "none"),
    ("local_preload_libraries", ""),
    // `pg_temp` is last: where it is not named, tables and types are looked for there first (namespace.c,
    // `recomputeNamespacePath()`).
    ("search_path", "pg_catalog, pg_temp"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("default_tablespace", ""),
    ("temp_tablespaces", ""),
    ("row_security", "off"),
    ("exit_on_error", "off"),
    ("client_min_messages", "warning"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("lc_monetary", "C"),
    ("synchronize_seqscans", "off"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
];

/// What later versions have besides. An older server refuses a session that asks for a setting that it does not know.
const LATER: [(u32, Setting); 2] = [(14, ("idle_session_timeout", "0")), (17, ("transaction_timeout", "0"))];

/// What only a superuser may set.
const SUPERUSER: [Setting; 2] = [("session_preload_libraries", ""), ("lc_messages", "C")];

/// The first version that can be told to run no event triggers, those at login among them.
const FIRST_WITH_EVENT_TRIGGERS: MajorVersion = MajorVersion(17);

impl Preamble {
    /// The settings for a server of a version: one that does not know a setting would refuse the session.
    pub fn new(version: MajorVersion, purpose: Purpose) -> Self {
        Self { version, purpose, more: Vec::new() }
    }

    /// Adds a setting, over all others.
    #[must_use]
    pub(super) fn with(mut self, more: &[Setting]) -> Self {
        self.more.extend(more);
        self
    }

    fn settings(&self, rights: Rights) -> Vec<Setting> {
        let mut settings = EVERYBODY.to_vec();
        let later = LATER.iter().filter(|(first, _)| self.version >= MajorVersion(*first));
        settings.extend(later.map(|(_, setting)| *setting));
        let is_changed = self.purpose != Purpose::Rescuing;
        settings.push(("default_transaction_read_only", if is_changed { "off" } else { "on" }));
        if rights == Rights::Superuser {
            settings.extend(SUPERUSER);
            settings.extend(self.triggers());
            settings.extend(self.tolerance());
        }
        settings.extend(&self.more);
        settings
    }

    /// What keeps event triggers of users from running. Before 17, those of ordinary kind are kept from it by the role
    /// of the session, which is not for a server that serves: what is done there must be seen by its triggers.
    fn triggers(&self) -> Option<Setting> {
        if self.version >= FIRST_WITH_EVENT_TRIGGERS {
            return Some(("event_triggers", "off"));
        }
        (self.purpose != Purpose::Serving).then_some(("session_replication_role", "replica"))
    }

    /// Whether pages that are damaged are read. A server that serves has that from its owner.
    fn tolerance(&self) -> Vec<Setting> {
        let value = match self.purpose {
            Purpose::Serving => return Vec::new(),
            Purpose::Judging | Purpose::Loading => "off",
            Purpose::Rescuing => "on",
        };
        vec![("zero_damaged_pages", value), ("ignore_checksum_failure", value)]
    }

    /// The options of the start-up packet.
    pub(super) fn options(&self, rights: Rights) -> String {
        let options = self.settings(rights).into_iter();
        let option = |(name, value): Setting| format!("-c {name}={}", escaped(value));
        options.map(option).collect::<Vec<_>>().join(" ")
    }

    /// The same as statements, for a session that somebody else opened.
    pub fn statements(&self) -> String {
        let settings = self.settings(Rights::Ordinary).into_iter();
        let statement = |(name, value): Setting| match name {
            // It takes a list, and not a text of many.
            "search_path" | "DateStyle" | "role" => format!("SET {name} = {value};"),
            // Libraries are loaded already.
            "local_preload_libraries" => String::new(),
            _ => format!("SET {name} = '{value}';"),
        };
        settings.map(statement).collect()
    }
}

/// White space ends an option, and a backslash takes the next letter as it is (postinit.c, `pg_split_opts()`).
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(' ', "\\ ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn value(version: u32, purpose: Purpose, name: &str) -> Option<&'static str> {
        let settings = Preamble::new(MajorVersion(version), purpose).settings(Rights::Superuser);
        settings.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    #[rstest]
    #[case(13, None, None, None)]
    #[case(14, Some("0"), None, None)]
    #[case(17, Some("0"), Some("0"), Some("off"))]
    #[case(19, Some("0"), Some("0"), Some("off"))]
    fn a_server_is_asked_only_for_settings_that_its_version_has(
        #[case] version: u32,
        #[case] idle: Option<&str>,
        #[case] transaction: Option<&str>,
        #[case] triggers: Option<&str>,
    ) {
        let value = |name| value(version, Purpose::Serving, name);
        assert_eq!(value("idle_session_timeout"), idle);
        assert_eq!(value("transaction_timeout"), transaction);
        assert_eq!(value("event_triggers"), triggers);
    }

    #[test]
    fn only_a_copy_that_is_rescued_is_read_with_every_tolerance_and_not_changed() {
        for (purpose, pages, read_only) in [
            (Purpose::Serving, None, "off"),
            (Purpose::Judging, Some("off"), "off"),
            (Purpose::Loading, Some("off"), "off"),
            (Purpose::Rescuing, Some("on"), "on"),
        ] {
            assert_eq!(value(15, purpose, "zero_damaged_pages"), pages, "{purpose:?}");
            assert_eq!(value(15, purpose, "default_transaction_read_only"), Some(read_only), "{purpose:?}");
        }
    }

    #[test]
    fn an_ordinary_user_is_given_nothing_that_only_a_superuser_may_set() {
        let preamble = Preamble::new(MajorVersion(17), Purpose::Judging);
        let options = preamble.options(Rights::Ordinary);
        for name in ["session_preload_libraries", "event_triggers", "zero_damaged_pages", "lc_messages"] {
            assert!(!options.contains(name), "{options}");
            assert!(preamble.options(Rights::Superuser).contains(name));
        }
    }

    #[test]
    fn a_value_with_spaces_is_one_option() {
        let preamble =
            Preamble::new(MajorVersion(15), Purpose::Serving).with(&[("application_name", "a\\ b")]);
        let options = preamble.options(Rights::Ordinary);
        assert!(options.contains("-c default_transaction_isolation=read\\ committed -c"), "{options}");
        assert!(options.ends_with("-c application_name=a\\\\\\ b"), "{options}");
    }
}
