//! Who is let in: with a password that everybody knows, or as the superuser without any.
//!
//! A cluster keeps the passwords and the `pg_hba.conf` that it was made with. What an older pgbox or another image made is
//! not changed, but reported, with what changes it.

use super::Check;
use crate::cluster::scram::Verifier;
use crate::cluster::session::{describe, quote_identifier};
use crate::execute::Tools;
use crate::pg::access::Access;
use crate::settings::{KNOWN_PASSWORD, LocalAccess, listens_to_others};
use crate::sys::effective_identity;
use postgres::{Client, Row};

/// Checks the passwords of the superuser and of the application role, and the rules for this machine.
pub(super) fn check(tools: &Tools, session: &mut Client, checks: &mut Vec<Check>) {
    let unknown = |name, error: &postgres::Error| {
        Check::warning(name, format!("could not ask: {}", describe(error)), "see the server's log")
    };
    checks.push(passwords(tools, session).unwrap_or_else(|error| unknown("passwords", &error)));
    checks.push(local_access(tools, session).unwrap_or_else(|error| unknown("local-access", &error)));
}

fn passwords(tools: &Tools, session: &mut Client) -> Result<Check, postgres::Error> {
    // An md5 verifier is that of the password and the name (crypt.c, `pg_md5_encrypt()`).
    // One of SCRAM is `SCRAM-SHA-256$ROUNDS:SALT$STORED KEY:SERVER KEY` (scram-common.c, `scram_build_secret()`).
    const QUERY: &str = "SELECT rolname::text, rolsuper, \
        rolpassword = 'md5' || pg_catalog.md5($2 || rolname), pg_catalog.current_setting('listen_addresses'), \
        CASE WHEN is_scram THEN pg_catalog.split_part(hashed, ':', 1)::int4 END, \
        CASE WHEN is_scram THEN pg_catalog.decode(pg_catalog.split_part(hashed, ':', 2), 'base64') END, \
        CASE WHEN is_scram THEN pg_catalog.decode(pg_catalog.split_part(keys, ':', 1), 'base64') END \
        FROM (SELECT *, rolpassword LIKE 'SCRAM-SHA-256$%' AS is_scram, \
            pg_catalog.split_part(rolpassword, '$', 2) AS hashed, pg_catalog.split_part(rolpassword, '$', 3) AS keys \
            FROM pg_catalog.pg_authid) AS authid \
        WHERE rolpassword IS NOT NULL AND (rolname = current_user OR rolname::text = $1) ORDER BY rolsuper DESC, rolname";
    let settings = tools.settings;
    let rows = session.query(QUERY, &[&settings.application_role, &KNOWN_PASSWORD])?;
    let known = rows.iter().find(|row| row.get(2) || has_password(row, KNOWN_PASSWORD));
    if let Some(row) = known {
        return Ok(known_password(row.get(0), row.get(3)));
    }
    let is_shared = |row: &&Row| row.get(1) && has_password(row, settings.application_password.reveal());
    let shared = rows.iter().find(|row| settings.superuser_password.is_none() && is_shared(row));
    if let Some(row) = shared {
        let name: &str = row.get(0);
        let summary =
            format!("the superuser '{name}' has the application's password: who knows that can do anything");
        let remedy = format!(
            "`ALTER ROLE {} PASSWORD NULL` leaves it without one, to come in by the socket; POSTGRES_PASSWORD and \
             `init-postgresql --sync-password` give it one of its own",
            quote_identifier(name)
        );
        return Ok(Check::warning("passwords", summary, remedy));
    }
    Ok(Check::ok("passwords", "neither the superuser nor the application role has one that everybody knows"))
}

fn has_password(row: &Row, password: &str) -> bool {
    let rounds = row.get::<_, Option<i32>>(4).and_then(|rounds| u32::try_from(rounds).ok());
    let (salt, stored_key): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(5), row.get(6));
    let verifier = rounds.zip(salt).zip(stored_key);
    verifier.is_some_and(|((rounds, salt), stored_key)| Verifier { rounds, salt, stored_key }.is_of(password))
}

fn known_password(role: &str, addresses: &str) -> Check {
    if !listens_to_others(addresses) {
        let summary = format!("the role '{role}' has the default password, which only this machine can use");
        return Check::ok("passwords", summary);
    }
    let summary = format!(
        "the role '{role}' has the password that everybody knows, '{KNOWN_PASSWORD}', and the server listens to other machines \
         ('{addresses}')"
    );
    let remedy = "set DATABASE_PASSWORD (POSTGRES_PASSWORD for the superuser), and run `init-postgresql --sync-password`";
    Check::issue("passwords", summary, remedy)
}

/// A rule of `pg_hba.conf`.
struct Rule {
    line: i32,
    is_local: bool,
    method: String,
}

fn local_access(tools: &Tools, session: &mut Client) -> Result<Check, postgres::Error> {
    // The rules of the first line that fits count, for the socket and for each of this machine's own addresses.
    const QUERY: &str = "SELECT line_number, type = 'local', auth_method, address \
        FROM pg_catalog.pg_hba_file_rules WHERE error IS NULL AND 'all' = ANY (database) \
        AND user_name && ARRAY['all', current_user::text] \
        AND (type = 'local' OR address IN ('all', '127.0.0.1', '::1', '0.0.0.0', '::', 'samehost', 'samenet', 'localhost')) \
        ORDER BY line_number";
    let rows = session.query(QUERY, &[])?;
    let rules = rows.iter().map(|row| Rule { line: row.get(0), is_local: row.get(1), method: row.get(2) });
    let rules: Vec<Rule> = rules.collect();
    let local = rules.iter().find(|rule| rule.is_local);
    let host = rules.iter().find(|rule| !rule.is_local);
    let trusting = [local, host].into_iter().flatten().find(|rule| rule.method == "trust");
    let Some(rule) = trusting else {
        return Ok(Check::ok("local-access", "nobody of this machine is the superuser just by saying so"));
    };
    let user: String = session.query_one("SELECT current_user::text", &[])?.get(0);
    let summary = format!(
        "every user of this machine is let in as the superuser '{user}' without a password, and may run programs as the \
         server's user: line {} of pg_hba.conf says trust",
        rule.line
    );
    Ok(Check::warning("local-access", summary, remedy(tools, rule, &user)))
}

/// How the rule is changed to what a new cluster has.
fn remedy(tools: &Tools, rule: &Rule, superuser: &str) -> String {
    if !rule.is_local {
        return format!(
            "write scram-sha-256 in place of trust on line {}, and `SELECT pg_reload_conf()`; applications then need the \
             password of their role",
            rule.line
        );
    }
    let server_user = effective_identity().name.unwrap_or_else(|| crate::cluster::user_name::NAME.to_owned());
    let access = Access {
        version: tools.installation.version,
        superuser,
        superuser_from_hosts: true,
        application_role: &tools.settings.application_role,
        trusts_local_users: tools.settings.local_access == LocalAccess::Trust,
        system_users: vec![server_user, "root".to_owned()],
        host_method: "",
    };
    format!(
        "write `peer map=pgbox` in place of `trust` on the `local` lines, add {} to pg_ident.conf, and `SELECT \
         pg_reload_conf()`; for every local user as the application role alone, put `local all {} trust` before them",
        access.map_lines().map(|line| format!("`{line}`")).collect::<Vec<_>>().join(", "),
        quote_identifier(&tools.settings.application_role)
    )
}
