//! The new cluster in staging: made like the old one, and given its roles, tablespaces and configuration.

use super::databases::{Database, server_encoding};
use super::loss::{Loss, Salvaged, one_line};
use super::server::SalvageServer;
use super::workplace::Workplace;
use crate::cluster::initdb::{InitdbOptions, initdb};
use crate::cluster::session::{Purpose, describe, quote_identifier};
use crate::cluster::setup::{Role, ensure_database, ensure_role};
use crate::execute::access::settle_access;
use crate::execute::initialise::{CONFIGURATION, append};
use crate::execute::private_server::{PrivateServer, PrivateStart};
use crate::execute::staging::{STAGING, clear_staging};
use crate::pg::control_file::ControlFile;
use crate::pg::layout::{BackupRule, backup_rule};
use crate::settings::Secret;
use crate::sys::EntryKind;
use anyhow::Context;
use postgres::Client;
use std::path::{Path, PathBuf};

/// Nothing of the new cluster counts before all of it is synced at the end.
const LOADING: [(&str, &str); 7] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("max_wal_size", "2GB"),
    ("log_min_messages", "fatal"),
    ("log_statement", "none"),
    // No trigger runs, in the sessions of ordinary users either (`owners`).
    ("session_replication_role", "replica"),
];

/// Makes the new cluster, with the locale of the old one where that is known.
pub(super) fn make(
    work: &Workplace,
    superuser: &str,
    pattern: Option<&Database>,
    control: Option<&ControlFile>,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    let own = &work.tools.settings.initdb_arguments;
    let password = initial_password(work)?;
    let password = password.as_ref().map(Secret::reveal);
    let like_the_old =
        [own.clone(), pattern.map(locale_arguments).unwrap_or_default(), wal_arguments(control)].concat();
    let make = |arguments: &[String]| {
        clear_staging(work.root)?;
        let options = InitdbOptions { superuser, password, wal_directory: None, arguments };
        initdb(work.tools.installation, work.root, &work.root.path().join(STAGING), &options)
            .context("make a new cluster")
    };
    if let Err(error) = make(&like_the_old) {
        make(own)?;
        salvaged.assume(format!(
            "new databases have another locale than before: {}",
            one_line(&error.to_string())
        ));
    }
    append(work.root, "postgresql.conf", CONFIGURATION)?;
    settle_access(work.tools, work.root, superuser)
}

/// Returns the password that initdb gives the superuser, until the old cluster's is known: the one of the settings, else one
/// that nobody knows where a person's arguments have initdb ask for one.
pub(super) fn initial_password(work: &Workplace) -> anyhow::Result<Option<Secret>> {
    let settings = work.tools.settings;
    let is_of_access = |argument: &String| argument.starts_with("--auth") || argument.starts_with("-A");
    if settings.superuser_password.is_some() || !settings.initdb_arguments.iter().any(is_of_access) {
        return Ok(settings.superuser_password.clone());
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("could not get random bytes: {error}"))?;
    Ok(Some(Secret::new(bytes.map(|byte| format!("{byte:02x}")).concat())))
}

/// The locale of a database, as initdb takes it.
fn locale_arguments(database: &Database) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |flag: &str, value: Option<String>| {
        arguments.extend(value.map(|value| format!("--{flag}={value}")));
    };
    add("lc-collate", database.column("datcollate"));
    add("lc-ctype", database.column("datctype"));
    add("encoding", database.column("encoding_name"));
    // pg_database.dat and pg_collation.h: `i` is ICU, `b` built in, since 17.
    let provider = match database.column("datlocprovider").as_deref() {
        Some("i") => Some("icu"),
        Some("b") => Some("builtin"),
        _ => None,
    };
    let locale = database.column("datlocale").or_else(|| database.column("daticulocale"));
    match provider {
        Some("icu") => add("icu-locale", locale),
        Some(_) => add("builtin-locale", locale),
        None => {}
    }
    add("locale-provider", provider.map(str::to_owned));
    arguments
}

fn wal_arguments(control: Option<&ControlFile>) -> Vec<String> {
    control
        .map(|control| vec![format!("--wal-segsize={}", control.wal_segment_size >> 20)])
        .unwrap_or_default()
}

/// Starts a server on the new cluster, for loading.
pub(super) fn start(
    work: &Workplace,
    superuser: &str,
    libraries: Vec<(&'static str, String)>,
) -> anyhow::Result<SalvageServer> {
    let mut settings: Vec<(&'static str, String)> =
        LOADING.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    settings.extend(libraries);
    let start = PrivateStart {
        data_directory: work.root.path().join(STAGING),
        log_file: work.tools.log_file(),
        settings,
    };
    SalvageServer::start(work, superuser, Purpose::Loading, start)
        .map_err(|error| super::super::start_failure(error, "load what was salvaged into a new cluster"))
}

/// Brings roles over, with their passwords, memberships and settings, and makes the tablespaces anew, inside the data
/// directory.
pub(super) fn bring_shared(
    work: &Workplace,
    (from, to): (&SalvageServer, &SalvageServer),
    copy: &mut Client,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    let path = work.scratch("globals.sql");
    let encoding = server_encoding(copy)?;
    let dumped = from
        .program_login()
        .program(work.tools.installation, "pg_dumpall")
        .variable("PGCLIENTENCODING", encoding)
        .arguments(["--globals-only", "--no-tablespaces", "--quote-all-identifiers", "--no-password"])
        .argument(format!("--database={}", database_of(copy)))
        .argument("--file")
        .argument(&path)
        .run();
    match dumped {
        Ok(_) => load_globals(work, to, &path, salvaged)?,
        Err(error) => {
            let reason = one_line(&error.to_string());
            salvaged.lose(Loss::Shared { object: "every role with its password".into(), reason });
        }
    }
    make_tablespaces(to, copy, salvaged)
}

fn database_of(client: &mut Client) -> String {
    let row = client.query_one("SELECT pg_catalog.current_database()::text", &[]);
    row.map_or_else(|_| "template1".to_owned(), |row| row.get(0))
}

fn load_globals(
    work: &Workplace,
    to: &SalvageServer,
    path: &Path,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    let result = to
        .program_login()
        .program(work.tools.installation, "psql")
        .arguments(["--no-psqlrc", "--no-password", "--quiet", "--dbname=template1", "-f"])
        .argument(path)
        .run()
        .context("load the roles")?;
    for line in result.stderr.lines() {
        // The superuser is there already.
        if let Some((_, reason)) = line.split_once("ERROR:  ")
            && !reason.ends_with("already exists")
        {
            salvaged.lose(Loss::Shared {
                object: "a role, or something of one".into(),
                reason: reason.to_owned(),
            });
        }
    }
    Ok(())
}

/// Tablespaces outside the data directory hold the old cluster's files: nothing of those may change.
fn make_tablespaces(to: &SalvageServer, copy: &mut Client, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    let query = "SELECT spcname::text, pg_catalog.pg_get_userbyid(spcowner)::text FROM pg_catalog.pg_tablespace \
                 WHERE oid >= 16384 ORDER BY oid";
    let rows = copy.query(query, &[]).unwrap_or_default();
    if rows.is_empty() {
        return Ok(());
    }
    let mut client = to.connect("template1")?;
    for row in rows {
        let (name, owner): (String, String) = (row.get(0), row.get(1));
        let statement = format!(
            "SET allow_in_place_tablespaces = on; CREATE TABLESPACE {} OWNER {} LOCATION ''",
            quote_identifier(&name),
            quote_identifier(&owner)
        );
        // CREATE TABLESPACE cannot be one of several statements.
        let made = statement.split_inclusive("; ").try_for_each(|part| client.batch_execute(part));
        match made {
            Ok(()) => salvaged.assume(format!("the tablespace '{name}' is now in the data directory")),
            Err(error) => salvaged
                .lose(Loss::Shared { object: format!("the tablespace '{name}'"), reason: describe(&error) }),
        }
    }
    let setting = "ALTER SYSTEM SET allow_in_place_tablespaces = on";
    client
        .batch_execute(setting)
        .map_err(super::databases::failed("keep the tablespaces in the data directory"))
}

/// Whom applications connect as, and where: there again, though empty, where it is lost.
pub(super) fn complete(work: &Workplace, to: &SalvageServer, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    let settings = work.tools.settings;
    let mut client = to.connect("template1")?;
    let mut exists =
        |query: &str, name: &str| client.query(query, &[&name]).is_ok_and(|rows| !rows.is_empty());
    let has_role = exists("SELECT FROM pg_catalog.pg_roles WHERE rolname = $1", &settings.application_role);
    let has_database = exists("SELECT FROM pg_catalog.pg_database WHERE datname = $1", &settings.database);
    if !has_role {
        // What was salvaged is worth more than a role that can log in at once.
        let password = settings.application_password_to_set().ok().flatten().map(Secret::reveal);
        ensure_role(&mut client, &Role { name: &settings.application_role, password })?;
        salvaged.assume(format!("the role '{}' is made anew", settings.application_role));
    }
    if !has_database {
        ensure_database(&mut client, &settings.database, &settings.application_role)?;
        salvaged.assume(format!("the database '{}' is made anew, empty", settings.database));
    }
    Ok(())
}

/// The configuration of the old cluster, file by file.
const CONFIGURATION_FILES: [&str; 4] =
    ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf"];
const MOST_CONFIGURATION_BYTES: u64 = 1 << 20;

/// What people keep beside it: certificates, keys, files that it includes.
fn bring_other_files(work: &Workplace, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    for entry in work.root.entries(".").context("list the old cluster")? {
        let name = entry.name.as_str();
        let is_transient = backup_rule(name) == BackupRule::Skip;
        let place = Path::new(STAGING).join(name);
        if entry.facts.kind != EntryKind::File || is_transient || work.root.facts(&place)?.is_some() {
            continue;
        }
        match work.root.read_bounded(name, MOST_CONFIGURATION_BYTES) {
            Ok(bytes) => work
                .root
                .write_durably(&place, &bytes, entry.facts.mode & 0o777)
                .with_context(|| format!("copy '{name}'"))?,
            Err(error) => salvaged.assume(format!("'{name}' was left behind: {error}")),
        }
    }
    Ok(())
}

/// Puts the old configuration in place of the new one, if a server starts with it. The new cluster must be stopped.
pub(super) fn bring_configuration(work: &Workplace, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    bring_other_files(work, salvaged)?;
    let mut fresh = Vec::new();
    for name in CONFIGURATION_FILES {
        let place = Path::new(STAGING).join(name);
        fresh.push((place.clone(), work.root.read_bounded(&place, MOST_CONFIGURATION_BYTES).ok()));
        let Ok(mut old) = work.root.read_bounded(name, MOST_CONFIGURATION_BYTES) else {
            if name != "postgresql.auto.conf" {
                salvaged.assume(format!("'{name}' could not be read, and is a new one"));
            }
            continue;
        };
        if name == "postgresql.auto.conf" && has_in_place_tablespaces(work) {
            old.extend_from_slice(b"\nallow_in_place_tablespaces = 'on'\n");
        }
        work.root.write_durably(&place, &old, 0o600).with_context(|| format!("write '{name}'"))?;
    }
    let Err(error) = try_configuration(work) else { return Ok(()) };
    for (place, content) in fresh {
        match content {
            Some(content) => work.root.write_durably(&place, &content, 0o600),
            None => work.discard(&place),
        }
        .with_context(|| format!("put '{}' back", place.display()))?;
    }
    salvaged.assume(format!(
        "the configuration is a new one, since no server starts with the old: {}",
        one_line(&error)
    ));
    Ok(())
}

fn has_in_place_tablespaces(work: &Workplace) -> bool {
    work.root.entries(PathBuf::from(STAGING).join("pg_tblspc")).is_ok_and(|entries| !entries.is_empty())
}

/// Starts a server with the configuration as it is, but for what would reach outside; why it does not start.
fn try_configuration(work: &Workplace) -> Result<(), String> {
    let programs = &work.tools.installation;
    programs.configured("config_file", &work.root.path().join(STAGING)).map_err(|error| error.to_string())?;
    let settings = [("archive_mode", "off"), ("shared_preload_libraries", ""), ("max_worker_processes", "0")];
    let start = PrivateStart {
        data_directory: work.root.path().join(STAGING),
        log_file: work.tools.log_file(),
        settings: settings.map(|(name, value)| (name, value.to_owned())).to_vec(),
    };
    let server =
        PrivateServer::start(work.tools, work.root, start).map_err(|error| match error.log().last() {
            Some(line) => line.clone(),
            None => error.to_string(),
        })?;
    server.stop().map_err(|error| format!("{error:#}"))
}
