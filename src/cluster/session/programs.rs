//! PostgreSQL's client programs, such as `pg_dump`, run on a server of this machine as pgbox's own sessions are.

use super::ServerAddress;
use super::preamble::{Preamble, Rights};
use crate::cluster::binaries::Installation;
use crate::sys::Tool;

/// How a client program connects.
#[derive(Clone, Debug)]
pub struct ProgramLogin<'a> {
    /// The server.
    pub address: &'a ServerAddress,
    /// As whom: a superuser.
    pub user: &'a str,
    /// The settings of its sessions.
    pub preamble: Preamble,
}

/// Variables of libpq (libpq-fe.h, `PQconndefaults()`) that would lead a program elsewhere, or change its session.
const FOREIGN: [&str; 13] = [
    "PGCLIENTENCODING",
    "PGCHANNELBINDING",
    "PGDATABASE",
    "PGDATESTYLE",
    "PGGEQO",
    "PGHOSTADDR",
    "PGREQUIREAUTH",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLMODE",
    "PGSYSCONFDIR",
    "PGTARGETSESSIONATTRS",
    "PGTZ",
];

impl ProgramLogin<'_> {
    /// A program of an installation that connects so, and speaks English, so that it can be understood.
    pub fn program(&self, installation: &Installation, name: &str) -> Tool {
        self.program_with(installation, name, &[])
    }

    /// The same, with settings over those of the preamble.
    pub fn program_with(
        &self,
        installation: &Installation,
        name: &str,
        settings: &[(&'static str, &'static str)],
    ) -> Tool {
        let preamble = self.preamble.clone().with(settings);
        let mut tool = Tool::new(installation.program(name))
            .variable("PGHOST", self.address.socket_directory.clone().unwrap_or_default())
            .variable("PGPORT", self.address.port.to_string())
            .variable("PGUSER", self.user)
            .variable("PGOPTIONS", preamble.options(Rights::Superuser))
            .variable("LC_ALL", "C");
        for variable in FOREIGN {
            tool = tool.without_variable(variable);
        }
        tool
    }
}
