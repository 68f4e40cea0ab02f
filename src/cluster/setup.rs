//! Roles, passwords and the database of a cluster.
//!
//! A password never reaches the server in clear, and so never its log: what is sent is the SCRAM verifier
//! that the server would have computed (`scram-common.c`), which `CREATE ROLE … PASSWORD` takes as it is.

use super::session::{describe, quote_identifier, quote_literal};
use postgres::Client;
use postgres_protocol::password::scram_sha_256;

/// A role and its password.
#[derive(Clone, Copy)]
pub struct Role<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its password, in clear; `None`: it gets none, or keeps the one it has.
    pub password: Option<&'a str>,
}

/// A statement that the server refused.
#[derive(Debug, thiserror::Error)]
#[error("could not {action}: {}", describe(.answer))]
pub struct SetupError {
    action: String,
    answer: postgres::Error,
}

fn run(client: &mut Client, action: impl Into<String>, statement: &str) -> Result<(), SetupError> {
    client.batch_execute(statement).map_err(|answer| SetupError { action: action.into(), answer })
}

fn exists(client: &mut Client, query: &str, name: &str) -> Result<bool, SetupError> {
    let rows = client.query(query, &[&name]);
    rows.map(|rows| !rows.is_empty())
        .map_err(|answer| SetupError { action: format!("look for '{name}'"), answer })
}

/// Makes a role that may log in, or gives it its password if it is there.
pub fn ensure_role(client: &mut Client, role: &Role) -> Result<(), SetupError> {
    let Role { name, password } = *role;
    let verb = if exists(client, "SELECT FROM pg_catalog.pg_roles WHERE rolname = $1", name)? {
        "ALTER"
    } else {
        "CREATE"
    };
    let verifier = password.map(|password| quote_literal(&scram_sha_256(password.as_bytes())));
    let password = verifier.map(|verifier| format!(" PASSWORD {verifier}")).unwrap_or_default();
    let statement = format!("{verb} ROLE {} LOGIN{password}", quote_identifier(name));
    run(client, format!("set up the role '{name}'"), &statement)
}

/// Makes a database that belongs to `owner`, if it is not there.
pub fn ensure_database(client: &mut Client, name: &str, owner: &str) -> Result<(), SetupError> {
    if exists(client, "SELECT FROM pg_catalog.pg_database WHERE datname = $1", name)? {
        return Ok(());
    }
    let statement = format!("CREATE DATABASE {} OWNER {}", quote_identifier(name), quote_identifier(owner));
    run(client, format!("make the database '{name}'"), &statement)
}
