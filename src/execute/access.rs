//! Who a cluster lets in: written when it is made, and kept so that pgbox itself can log in.

use super::Tools;
use super::initialise::initdb_options;
use super::staging::{STAGING, staged};
use crate::cluster::user_name;
use crate::pg::access::Access;
use crate::settings::LocalAccess;
use crate::sys::{EntryKind, WriteRoot, effective_identity, user_of};
use anyhow::Context;
use std::ffi::OsString;
use std::path::Path;

const RULES: &str = "pg_hba.conf";
const USER_MAP: &str = "pg_ident.conf";
const MOST_BYTES: u64 = 1 << 20;

/// Ways to let hosts in that ask for the role's password (hba.c, `parse_hba_line()`).
const BY_PASSWORD: [&str; 3] = ["scram-sha-256", "md5", "password"];

/// Writes into the new cluster in staging who is let in.
pub(super) fn settle_access(tools: &Tools, root: &WriteRoot, superuser: &str) -> anyhow::Result<()> {
    let host_method = host_method(tools, &root.path().join(STAGING))?;
    let access = access(tools, superuser, &host_method);
    let read = |name: &str| {
        let bytes = root.read_bounded(staged(name), MOST_BYTES).with_context(|| format!("read {name}"))?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let rules = access.rules(&read(RULES)?);
    let map = read(USER_MAP)? + &access.map();
    for (name, text) in [(RULES, rules), (USER_MAP, map)] {
        root.write_durably(staged(name), text.as_bytes(), 0o600).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

fn access<'a>(tools: &'a Tools, superuser: &'a str, host_method: &'a str) -> Access<'a> {
    let settings = tools.settings;
    let has_password = settings.superuser_password.is_some() || initdb_options(tools).has_own_password();
    let server_user = effective_identity().name.unwrap_or_else(|| user_name::NAME.to_owned());
    let root = user_of(0).name.unwrap_or_else(|| "root".to_owned());
    Access {
        version: tools.installation.version,
        superuser,
        // Where it is not by password, the superuser needs none to be let in, as a person asked for.
        superuser_from_hosts: has_password || !BY_PASSWORD.contains(&host_method),
        application_role: &settings.application_role,
        trusts_local_users: settings.local_access == LocalAccess::Trust,
        system_users: vec![server_user, root],
        host_method,
    }
}

/// Returns how hosts are let in: as `POSTGRES_HOST_AUTH_METHOD` has it, else by password, in the way that the new cluster
/// stores passwords, as docker-library's image does.
fn host_method(tools: &Tools, data_directory: &Path) -> anyhow::Result<String> {
    let Some(method) = &tools.settings.host_auth_method else {
        let stored = tools.installation.configured("password_encryption", data_directory);
        return stored.context("ask how the new cluster stores passwords");
    };
    if method == "trust" {
        tools.progress.note(
            "POSTGRES_HOST_AUTH_METHOD is 'trust': everybody who reaches an address that the server listens on is let in \
             without a password",
        );
    }
    Ok(method.clone())
}

/// Sees to it that the server, once started, knows the user that runs it, and lets that user in where the cluster was made
/// by pgbox. Returns the variables that the server is started with. What does not succeed is told: the server may serve all
/// the same.
pub(super) fn prepare_local_access(tools: &Tools, root: &WriteRoot) -> Vec<(&'static str, OsString)> {
    let prepared = complete_map(tools, root).and_then(|is_by_map| {
        let variables = if is_by_map { user_name::variables(root)? } else { Vec::new() };
        Ok(variables)
    });
    prepared.unwrap_or_else(|error| {
        tools.progress.note(&format!("the server's own user may not be let in: {error:#}"));
        Vec::new()
    })
}

/// Adds to the map what it lacks. Returns whether the cluster uses it.
fn complete_map(tools: &Tools, root: &WriteRoot) -> anyhow::Result<bool> {
    let rules =
        root.read_text(RULES, MOST_BYTES).with_context(|| format!("read {RULES}"))?.unwrap_or_default();
    if !Access::is_by_map(&rules) {
        return Ok(false);
    }
    // A link leads to what a person keeps elsewhere.
    if root.facts(USER_MAP)?.is_some_and(|facts| facts.kind != EntryKind::File) {
        return Ok(true);
    }
    let former =
        root.read_text(USER_MAP, MOST_BYTES).with_context(|| format!("read {USER_MAP}"))?.unwrap_or_default();
    let (mut map, incomplete) = Access::without_incomplete_lines(&former);
    let access = access(tools, &tools.settings.superuser, "");
    let missing = access.missing_in_map(&rules, &map);
    map.extend(missing.as_deref());
    if map == former {
        return Ok(true);
    }
    root.write_durably(USER_MAP, map.as_bytes(), 0o600).with_context(|| format!("write {USER_MAP}"))?;
    for line in incomplete {
        tools.progress.note(&format!(
            "line {line} of {USER_MAP} has too few fields, for which the server takes nothing of the file; it is a comment now"
        ));
    }
    if missing.is_some() {
        let user = access.system_users.first().map(String::as_str).unwrap_or_default();
        tools.progress.note(&format!("{USER_MAP} lets the server's user '{user}' in now"));
    }
    Ok(true)
}
