//! Making a new cluster in staging, complete: roles, database and a person's own scripts included.
//!
//! Nothing of it is in place before all of it is done, so whatever ends us half-way leaves an empty data
//! directory and a staging directory that the next start empties.

use super::Tools;
use super::access::settle_access;
use super::init_scripts::run_init_scripts;
use super::private_server::{PrivateServer, PrivateStart};
use super::staging::{STAGING, clear_staging, end_servers_in_staging, staged};
use crate::cluster::control_file;
use crate::cluster::initdb::{InitdbOptions, initdb};
use crate::cluster::session::{Login, Preamble, Purpose, ServerAddress};
use crate::cluster::setup::{Role, ensure_database, ensure_role};
use crate::error::{Failure, Kind};
use crate::pg::control_file::{CONTROL_FILE, ClusterState};
use crate::pg::layout;
use crate::settings::Secret;
use crate::sys::{NewWalRoot, WriteRoot, ensure_directory};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Appended to the new cluster's `postgresql.conf`, where a person can change it.
pub(super) const CONFIGURATION: &str = "
# ---- set by pgbox when it made this cluster ----
# Keeps enough WAL that damaged pages can be healed by replaying it, and that a backup can be caught up.
wal_keep_size = 512MB
";

/// Makes a new cluster in the staging directory and leaves it cleanly stopped and on disk.
///
/// # Errors
/// What initdb, the server or a script said. Nothing was put in place.
pub(super) fn build_fresh(tools: &Tools, root: &WriteRoot) -> anyhow::Result<()> {
    // Before anything is made: a server that everybody gets into is not to be.
    let password = tools.settings.application_password_to_set()?;
    note_roles_without_password(tools, password.is_some());
    tools.progress.begin("making a new cluster", None);
    clear_staging(root)?;
    let wal = new_wal_root(tools, root)?;
    stage_empty_cluster(tools, root, wal.as_ref())?;
    complete(tools, root, &root.path().join(STAGING))?;
    if let Some(wal) = &wal {
        settle_wal(root, wal).context("put the new cluster's WAL in its place")?;
    }
    root.sync_file_system().context("write the new cluster to disk")?;
    tools.progress.end();
    Ok(())
}

/// Says that a role cannot log in over TCP, where that may be a surprise.
fn note_roles_without_password(tools: &Tools, has_application_password: bool) {
    let settings = tools.settings;
    let (role, superuser) = (&settings.application_role, &settings.superuser);
    if role == superuser && settings.superuser_password.is_none() {
        tools.progress.note(&format!(
            "the superuser '{superuser}' has no password, so that no application can log in as it over TCP; POSTGRES_PASSWORD \
             gives it one"
        ));
    } else if !has_application_password {
        tools.progress.note(&format!(
            "the role '{role}' is made without a password, since none was given; DATABASE_PASSWORD gives it one"
        ));
    }
}

/// Takes the directory that the new cluster's WAL is to be in, where one is asked for.
///
/// # Errors
/// [`Kind::Refused`] where something is in it: it may be all that is left of a cluster whose data directory is not mounted.
/// Where a former cluster is in the data directory still, that one's WAL is most likely there, and the new one goes without.
fn new_wal_root(tools: &Tools, root: &WriteRoot) -> anyhow::Result<Option<NewWalRoot>> {
    let Some(directory) = &tools.settings.initdb_waldir else { return Ok(None) };
    let shown = directory.display();
    ensure_directory(directory, 0o700, None).with_context(|| format!("make '{shown}'"))?;
    let claimed = NewWalRoot::claim(directory).with_context(|| format!("take '{shown}' for the WAL"))?;
    if claimed.is_some() {
        return Ok(claimed);
    }
    if !layout::is_effectively_empty(root.names(".").context("list the data directory")?) {
        tools.progress.note(&format!("the new cluster has its WAL in itself: '{shown}' is not empty"));
        return Ok(None);
    }
    let message = format!("cannot make a new cluster with its WAL in '{shown}': it is not empty");
    let hint = "if its cluster is elsewhere, mount that, or set PGDATA to it; else set POSTGRES_INITDB_WALDIR to an empty \
                directory. Nothing was changed.";
    Err(Failure::new(Kind::Refused, message).hint(hint).into())
}

/// Moves the WAL of the stopped new cluster up in its directory, and links it from there.
fn settle_wal(root: &WriteRoot, wal: &NewWalRoot) -> anyhow::Result<()> {
    wal.settle()?;
    let (link, former) = (staged("pg_wal"), Path::new(".pgbox/former-wal-link"));
    root.discard(former)?;
    root.rename(&link, former)?;
    root.create_symlink(wal.path(), &link)?;
    root.discard(former)?;
    Ok(root.sync_directory(STAGING)?)
}

/// A configuration file as a new cluster has it.
///
/// # Errors
/// What initdb said: it is asked, since what it writes depends on the machine and on its arguments.
pub(super) fn fresh_configuration(tools: &Tools, root: &WriteRoot, name: &str) -> anyhow::Result<Vec<u8>> {
    clear_staging(root)?;
    stage_empty_cluster(tools, root, None)?;
    let bytes =
        root.read_bounded(Path::new(STAGING).join(name), 1 << 20).with_context(|| format!("read {name}"))?;
    root.discard(STAGING).context("clear the staging directory")?;
    Ok(bytes)
}

/// Runs initdb in the staging directory, and adds what pgbox's clusters have in their configuration.
fn stage_empty_cluster(tools: &Tools, root: &WriteRoot, wal: Option<&NewWalRoot>) -> anyhow::Result<()> {
    let wal_directory = wal.map(NewWalRoot::building);
    let options = InitdbOptions { wal_directory: wal_directory.as_deref(), ..initdb_options(tools) };
    initdb(tools.installation, root, &root.path().join(STAGING), &options).context("make a new cluster")?;
    append(root, "postgresql.conf", CONFIGURATION)?;
    settle_access(tools, root, &tools.settings.superuser)
}

pub(super) fn initdb_options<'a>(tools: &Tools<'a>) -> InitdbOptions<'a> {
    let settings = tools.settings;
    InitdbOptions {
        superuser: &settings.superuser,
        password: settings.superuser_password.as_ref().map(Secret::reveal),
        wal_directory: None,
        arguments: &settings.initdb_arguments,
    }
}

pub(super) fn append(root: &WriteRoot, name: &str, text: &str) -> anyhow::Result<()> {
    let path = PathBuf::from(STAGING).join(name);
    let mut content = root.read_bounded(&path, 1 << 20).with_context(|| format!("read {name}"))?;
    content.extend_from_slice(text.as_bytes());
    root.write_durably(&path, &content, 0o600).with_context(|| format!("write {name}"))
}

/// Starts a server that only this process can reach, and sets the cluster up through it.
fn complete(tools: &Tools, root: &WriteRoot, staging: &Path) -> anyhow::Result<()> {
    let server = start_staged(tools, root, staging)?;
    let address = server.address();
    let completed = set_up(tools, address).and_then(|()| run_init_scripts(tools, address, staging));
    let stopped = server.stop();
    // A script may have restarted it, or started another, which nobody but us would ever stop.
    end_servers_in_staging(root)?;
    completed?;
    if is_shut_down(root)? {
        return Ok(());
    }
    if let Err(error) = stopped {
        tools.progress.note(&format!("{error:#}"));
    }
    tools.progress.note("a script left the server without a clean stop, which it gets now");
    start_staged(tools, root, staging)?.stop()
}

fn start_staged(tools: &Tools, root: &WriteRoot, staging: &Path) -> anyhow::Result<PrivateServer> {
    let start = PrivateStart {
        data_directory: staging.to_path_buf(),
        log_file: tools.log_file(),
        settings: Vec::new(),
    };
    PrivateServer::start(tools, root, start)
        .map_err(|error| super::start_failure(error, "set the new cluster up"))
}

/// Says whether the new cluster's last server stopped cleanly, by whomever it was started.
fn is_shut_down(root: &WriteRoot) -> anyhow::Result<bool> {
    let (_, control) =
        control_file::read_at(root, staged(CONTROL_FILE)).context("read the new control file")?;
    Ok(control.state == ClusterState::ShutDown && root.facts(staged("postmaster.pid"))?.is_none())
}

fn set_up(tools: &Tools, address: &ServerAddress) -> anyhow::Result<()> {
    let settings = tools.settings;
    let login = Login {
        users: vec![settings.superuser.clone()],
        password: settings.superuser_password_to_try().reveal().to_owned(),
        databases: vec!["postgres".into()],
        data_directory: None,
        preamble: Preamble::new(tools.installation.version, Purpose::Serving),
        patience: None,
    };
    let mut client = address.connect(&login)?;
    let options = initdb_options(tools);
    if !options.has_own_password() {
        ensure_role(&mut client, &Role { name: &settings.superuser, password: options.password })?;
    }
    if settings.application_role != settings.superuser {
        let password = settings.application_password_to_set()?.map(Secret::reveal);
        ensure_role(&mut client, &Role { name: &settings.application_role, password })?;
    }
    ensure_database(&mut client, &settings.database, &settings.application_role)?;
    Ok(())
}
