//! Which entries of a data directory must be given to the server's user, and which are somebody else's to keep.
//!
//! The server must own what it writes, and its data directory (miscinit.c, `checkDataDir()`). What it only reads may well be
//! root's: a key of root's with mode 0640 is as PostgreSQL wants it (be-secure-common.c, `check_ssl_key_file_permissions()`),
//! and would be refused with that mode once it were the server's. So such a file is given only where the configuration names
//! it and the server could not read it, which is why it would not start.

use super::configuration_files::FileSettings;
use super::own_settings::is_true;
use crate::pg::layout::{Use, use_of};
use crate::sys::{EntryKind, FileFacts, Identity, OWN_DIRECTORY, path_of};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Files that the server reads as its user when it starts with TLS, and what they are called unless it is told otherwise.
const TLS_FILES: [(&str, &str); 4] = [
    ("ssl_cert_file", "server.crt"),
    ("ssl_key_file", "server.key"),
    ("ssl_ca_file", ""),
    ("ssl_crl_file", ""),
];

/// What is known of a cluster's entries and of the user that its server runs as.
#[derive(Debug)]
pub struct Ownership {
    uid: u32,
    groups: Vec<u32>,
    /// What somebody put into the data directory, and the configuration names.
    named: HashSet<PathBuf>,
}

impl Ownership {
    /// Reads what the configuration of a cluster names, for a server that runs as `server`.
    pub fn of(data_directory: &Path, server: &Identity) -> Self {
        let mut settings = FileSettings::read(&data_directory.join("postgresql.conf"));
        settings.read_also(&data_directory.join("postgresql.auto.conf"));
        let has_tls = settings.get("ssl").is_some_and(|placed| is_true(&placed.value));
        let tls_file = |(name, default): (&str, &str)| {
            let named = settings.get(name).map_or(default, |placed| placed.value.as_str());
            (!named.is_empty()).then(|| data_directory.join(named))
        };
        let tls_files = TLS_FILES.into_iter().filter(|_| has_tls).filter_map(tls_file);
        let named = tls_files.chain(settings.files().iter().cloned());
        let below = |path: PathBuf| path.strip_prefix(data_directory).map(Path::to_path_buf).ok();
        Self { uid: server.uid, groups: server.groups(), named: named.filter_map(below).collect() }
    }

    /// Says whether an entry must be given to the server's user. Its path is a text, below the data directory.
    pub fn must_be_given(&self, path: &str, facts: &FileFacts) -> bool {
        if facts.uid == self.uid || path == "lost+found" || path.starts_with("lost+found/") {
            return false;
        }
        // Whose a link or a socket is makes no difference to the server.
        if !matches!(facts.kind, EntryKind::File | EntryKind::Directory) {
            return false;
        }
        if path == OWN_DIRECTORY || Path::new(path).starts_with(OWN_DIRECTORY) {
            return true;
        }
        match use_of(path) {
            Use::Writes => true,
            Use::Reads => !self.can_read(facts),
            Use::Nothing => self.named.contains(&*path_of(Path::new(path))) && !self.can_read(facts),
        }
    }

    /// Says whether the server's user, who is not its owner, may read a file.
    fn can_read(&self, facts: &FileFacts) -> bool {
        let bit = if self.groups.contains(&facts.gid) { 0o040 } else { 0o004 };
        facts.mode & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const SERVER: u32 = 4242;

    fn facts(uid: u32, gid: u32, mode: u32) -> FileFacts {
        FileFacts { kind: EntryKind::File, size_bytes: 0, mode, uid, gid, modified_ns: 0, changed_ns: 0 }
    }

    #[rstest]
    #[case::a_relation("base/5/16384", 0, 0o600, true)]
    #[case::the_data_directory("", 0, 0o700, true)]
    #[case::our_own(".pgbox/history.jsonl", 0, 0o644, true)]
    #[case::one_that_is_the_servers("base/5/16384", SERVER, 0o600, false)]
    #[case::a_configuration_that_it_can_read("postgresql.conf", 0, 0o644, false)]
    #[case::a_configuration_that_it_cannot_read("pg_hba.conf", 0, 0o600, true)]
    #[case::what_alter_system_writes("postgresql.auto.conf", 0, 0o644, true)]
    #[case::a_key_as_postgresql_wants_it("server.key", 0, 0o640, false)]
    #[case::a_key_that_it_cannot_read("server.key", 0, 0o600, true)]
    #[case::a_certificate_elsewhere_in_it("certs/server.crt", 0, 0o600, true)]
    #[case::a_certificate_that_it_can_read("certs/server.crt", 0, 0o644, false)]
    #[case::a_certificate_that_nobody_names("certs/other.crt", 0, 0o600, false)]
    #[case::a_directory_of_configuration("conf.d", 0, 0o755, false)]
    #[case::a_file_of_it("conf.d/10.conf", 0, 0o644, false)]
    #[case::a_file_of_it_that_the_server_cannot_read("conf.d/10.conf", 0, 0o600, true)]
    #[case::somebodys_letter("letter.txt", 0, 0o600, false)]
    #[case::the_file_systems("lost+found", 0, 0o700, false)]
    fn only_what_the_server_needs_is_given(
        #[case] path: &str,
        #[case] uid: u32,
        #[case] mode: u32,
        #[case] is_given: bool,
    ) {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("conf.d")).unwrap();
        std::fs::write(data.path().join("conf.d/10.conf"), "SSL = 'on'\n").unwrap();
        std::fs::write(
            data.path().join("postgresql.conf"),
            "include_dir 'conf.d'\nssl_cert_file = 'certs/server.crt'\n",
        )
        .unwrap();
        let server = Identity { uid: SERVER, gid: SERVER, name: None };

        let ownership = Ownership::of(data.path(), &server);

        assert_eq!(ownership.must_be_given(path, &facts(uid, SERVER, mode)), is_given);
    }
}
