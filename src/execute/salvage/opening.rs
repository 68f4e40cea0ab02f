//! Starting a server on the copy, with every tolerance that PostgreSQL has.

use super::donor::Donor;
use super::loss::{Salvaged, one_line};
use super::reset::reset;
use super::server::SalvageServer;
use super::workplace::Workplace;
use crate::cluster::server::StartError;
use crate::cluster::session::{Purpose, SessionError};
use crate::execute::private_server::PrivateStart;
use crate::sys::effective_identity;
use anyhow::{Context, bail};

/// What the copy is opened with. Nothing of it is ever served, so that speed may take the place of safety.
const CONFIGURATION: &str = "
autovacuum = off
archive_mode = off
default_transaction_read_only = on
fsync = off
full_page_writes = off
hot_standby = off
ignore_checksum_failure = on
ignore_invalid_pages = on
ignore_system_indexes = on
jit = off
lc_messages = 'C'
log_line_prefix = ''
log_min_messages = warning
logging_collector = off
max_connections = 20
max_logical_replication_workers = 0
max_parallel_workers_per_gather = 0
max_wal_senders = 0
synchronous_commit = off
wal_level = replica
zero_damaged_pages = on
";
const HOST_BASED_ACCESS: &str = "local all all trust\n";

/// How many lost catalogs are replaced before a database is given up.
const MOST_REPLACED: usize = 60;

/// Starts a server on the copy, by ever stronger means.
///
/// # Errors
/// What the last of them failed with.
pub(super) fn open(
    work: &Workplace,
    donor: &mut Donor,
    salvaged: &mut Salvaged,
) -> anyhow::Result<SalvageServer> {
    donor.replace_lost_shared(salvaged)?;
    configure(work)?;
    let libraries = preloaded_libraries(work);
    let mut reason = "the control file could not be read".to_owned();
    if work.control_file().is_some() {
        match start_with_or_without(work, &libraries, salvaged) {
            Ok(server) => return find_superuser(work, server, salvaged),
            Err(error) => reason = reason_of(&error),
        }
        work.tools.progress.note(&format!("the copy did not start as it is: {reason}"));
    }
    reset(work, &reason, salvaged)?;
    let server = start_with_or_without(work, &libraries, salvaged)
        .map_err(|error| super::super::start_failure(error, "open the damaged cluster's copy"))?;
    find_superuser(work, server, salvaged)
}

fn configure(work: &Workplace) -> anyhow::Result<()> {
    let prepared = work.control_file().map_or(64, |control| control.max_prepared_transactions.clamp(1, 8192));
    let text = format!("{CONFIGURATION}max_prepared_transactions = {prepared}\n");
    for (name, text) in
        [("postgresql.conf", text.as_str()), ("pg_hba.conf", HOST_BASED_ACCESS), ("pg_ident.conf", "")]
    {
        work.root
            .write_durably(work.copied(name), text.as_bytes(), 0o600)
            .with_context(|| format!("configure the copy ({name})"))?;
    }
    Ok(())
}

/// What the present configuration has the server load when it starts: an extension's functions may need it.
pub(super) fn preloaded_libraries(work: &Workplace) -> String {
    let programs = &work.tools.installation;
    programs.configured("shared_preload_libraries", work.root.path()).unwrap_or_default()
}

/// The settings that make a server load those libraries, and keep it from running what they would run by themselves.
pub(super) fn with_libraries(libraries: &str) -> Vec<(&'static str, String)> {
    if libraries.is_empty() {
        return Vec::new();
    }
    vec![("shared_preload_libraries", libraries.to_owned()), ("max_worker_processes", "0".to_owned())]
}

fn start_with_or_without(
    work: &Workplace,
    libraries: &str,
    salvaged: &mut Salvaged,
) -> Result<SalvageServer, StartError> {
    let start = |libraries: &str| {
        let start = PrivateStart {
            data_directory: work.copy_directory(),
            log_file: work.scratch("server.log"),
            settings: with_libraries(libraries),
        };
        SalvageServer::start(work, &work.tools.settings.superuser, Purpose::Rescuing, start)
    };
    match start(libraries) {
        Err(StartError::Ended { .. }) if !libraries.is_empty() => {
            let server = start("")?;
            salvaged.assume(format!("'{libraries}' could not be loaded, so that what needs it may be lost"));
            Ok(server)
        }
        result => result,
    }
}

/// Why a server did not start, in one line: the last that it complained of.
fn reason_of(error: &StartError) -> String {
    let complaint = |line: &&String| ["FATAL:", "PANIC:"].iter().any(|level| line.contains(level));
    let last = error.log().iter().rev().find(complaint);
    one_line(&last.cloned().unwrap_or_else(|| error.to_string()))
}

/// Finds out whom the copy takes for its superuser.
fn find_superuser(
    work: &Workplace,
    mut server: SalvageServer,
    salvaged: &mut Salvaged,
) -> anyhow::Result<SalvageServer> {
    let mut users = vec![work.tools.settings.superuser.clone(), "postgres".to_owned()];
    users.extend(effective_identity().name);
    users.push(work.tools.settings.application_role.clone());
    for user in users {
        for database in ["template1", "postgres", &work.tools.settings.database] {
            let Ok(mut client) = server.connect_as(&user, database) else { continue };
            // 10 is the superuser whom initdb made (catalog/pg_authid.dat, `BOOTSTRAP_SUPERUSERID`).
            let query =
                "SELECT rolname::text FROM pg_catalog.pg_authid WHERE oid = 10 AND rolsuper AND rolcanlogin";
            if let Ok(row) = client.query_one(query, &[]) {
                server.superuser = row.get(0);
                return Ok(server);
            }
        }
    }
    // Which database answers, and with which complaint, is seen when each is opened.
    server.superuser.clone_from(&work.tools.settings.superuser);
    if !server.is_alive() {
        bail!("the server of the copy ended as soon as anybody connected");
    }
    salvaged.assume("the superuser's name could not be read, and is taken from the settings");
    Ok(server)
}

/// Opens a database of the copy; a catalog whose file is gone is replaced by that of a new cluster on the way.
///
/// # Errors
/// Why it cannot be opened.
pub(super) fn open_database(
    server: &SalvageServer,
    donor: &mut Donor,
    name: &str,
    salvaged: &mut Salvaged,
) -> anyhow::Result<postgres::Client> {
    for _ in 0..MOST_REPLACED {
        let error = match server.connect(name) {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let Some(path) = missing_file(&error) else { return Err(error.into()) };
        if !donor.replace_lost(&path)? {
            return Err(error.into());
        }
        tell_replaced(name, &path, salvaged);
    }
    bail!("too many of its catalogs are gone")
}

/// Says that a catalog of a new cluster stands in for a lost one.
pub(super) fn tell_replaced(database: &str, path: &str, salvaged: &mut Salvaged) {
    let reason = "its file was gone, and that of a new cluster stands in for it";
    salvaged.lose_object(database, format!("what users had in the catalog '{path}'"), reason);
}

/// The file that the server could not open, by its own words (md.c, `mdopenfork()`).
fn missing_file(error: &SessionError) -> Option<String> {
    let SessionError::Connect(error) = error else { return None };
    path_in(error.as_db_error()?.message())
}

fn path_in(message: &str) -> Option<String> {
    let path = message.strip_prefix("could not open file \"")?.split('"').next()?;
    Some(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_gone_is_read_from_the_complaint() {
        let message = "could not open file \"base/16384/2601\": No such file or directory";

        assert_eq!(path_in(message).as_deref(), Some("base/16384/2601"));
        assert_eq!(path_in("database \"x\" does not exist"), None);
    }
}
