//! Proves that a backup can be restored: it is restored into a directory that nobody uses, a server that only this
//! process can reach recovers it, and all that is in it is read.
//!
//! The real server goes on serving meanwhile, and nothing of its cluster is touched: the copy is in a directory of its own
//! with a lock of its own, below `.pgbox` on the disk of the data directory, or where temporary files go. It is removed
//! whatever comes of it; what a killed proof left, a server too, the next one removes, and so do the next start, stop,
//! verification and cleanup. The copy archives nothing,
//! replicates nothing and runs no background workers of anybody, so that nothing of it gets out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use chrono::{DateTime, Utc};

use super::indexes;
use super::reading::{self, Read};
use crate::cluster::binaries;
use crate::cluster::inspect::{Depth, running_server};
use crate::cluster::server::StartError;
use crate::error::{Failure, Kind};
use crate::execute::private_server::{PrivateServer, PrivateStart, isolation};
use crate::execute::release::wait_for_release;
use crate::execute::restore_files::restore_files;
use crate::execute::staging::{STAGING, clear_staging, ensure_room, inspect_staged, staged};
use crate::execute::{Tools, start_failure};
use crate::pg::MajorVersion;
use crate::plan::server_answer::ServerAnswer;
use crate::plan::{BackupSummary, Proof, Severity};
use crate::repository::Repository;
use crate::sys::{
    OWN_DIRECTORY, OperationLock, ReadRoot, WriteRoot, effective_identity, ensure_directory,
    remove_all_left_behind, step_point,
};

/// What replay and the first checkpoint write besides the copy.
const SPARE_BYTES: u64 = 128 << 20;
const HOST_BASED_ACCESS: &str = "local all all trust\n";
/// Where the server's own words go, below the directory of the proof.
const LOG: &str = ".pgbox/proof.log";
const ACCESS_FILE: &str = ".pgbox/proof.hba";

/// Proves one backup.
///
/// # Errors
/// [`Kind::Refused`] without room, [`Kind::Busy`] while another proof or a writer is at work, and what says nothing about
/// the backup. That it could not be recovered or read is no error: it is in the [`Proof`].
pub(super) fn prove(
    tools: &Tools,
    repository: &Repository,
    backup: &BackupSummary,
    now: DateTime<Utc>,
) -> anyhow::Result<Proof> {
    let installation = match backup.major_version {
        Some(major) => binaries::find(Some(major))?,
        None => tools.installation.clone(),
    };
    let tools = Tools { installation: &installation, ..*tools };
    let place = place(&tools, backup)?;
    let operation = OperationLock::take(&place, "proving a backup").context("begin the proof")?;
    wait_for_release(&tools, &place)?;
    let root =
        WriteRoot::claim(&place, None, "proving a backup").context("take the directory of the proof")?;
    clear_staging(&root)?;
    let started = Instant::now();
    let proven = restore_and_read(&tools, repository, &root, backup);
    let cleared = [STAGING, LOG, ACCESS_FILE].iter().try_for_each(|path| root.discard(path));
    drop((root, operation));
    let mut proof = proven?;
    cleared.context("remove the copy that was proven")?;
    proof.proven_at = now;
    proof.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(proof)
}

/// The directories that proofs are made in: below `.pgbox`, and where temporary files go.
fn places(tools: &Tools) -> [PathBuf; 2] {
    let temporary = std::env::temp_dir().join(format!("pgbox-proof-{}", effective_identity().uid));
    [tools.settings.data_directory.join(OWN_DIRECTORY).join("proof"), temporary]
}

/// The directory of a proof that was killed, where a copy of a cluster is left, and the server on that copy, if one runs.
pub(crate) fn left_behind(tools: &Tools) -> Option<(PathBuf, Option<i32>)> {
    let is_left = |place: &PathBuf| {
        place.join(STAGING).is_dir()
            && ensure_ours(place).is_ok()
            && !OperationLock::is_held(place).unwrap_or(true)
    };
    let place = places(tools).into_iter().find(is_left)?;
    let server = ReadRoot::open(&place.join(STAGING)).ok().and_then(|root| running_server(&root));
    Some((place, server))
}

/// Stops the server that a killed proof left, and removes its copy of a cluster. That it could not is reported, and fails
/// nothing.
pub(crate) fn clear_left_behind(tools: &Tools) {
    while let Some((place, _)) = left_behind(tools) {
        if let Err(error) = clear(tools, &place) {
            let place = place.display();
            return tools
                .progress
                .note(&format!("could not remove what a killed proof left in '{place}': {error:#}"));
        }
    }
    remove_all_left_behind();
}

fn clear(tools: &Tools, place: &Path) -> anyhow::Result<()> {
    let _operation = OperationLock::take(place, "removing what a killed proof left")?;
    tools.progress.note(&format!("removing what a killed proof left in '{}'", place.display()));
    wait_for_release(tools, place)?;
    let root = WriteRoot::claim(place, None, "removing what a killed proof left")?;
    clear_staging(&root)?;
    [STAGING, LOG, ACCESS_FILE].iter().try_for_each(|path| root.discard(path)).context("remove the copy")
}

/// A directory of the proof's own with enough room on its disk.
fn place(tools: &Tools, backup: &BackupSummary) -> anyhow::Result<PathBuf> {
    let needed_bytes = backup.size_bytes.saturating_add(SPARE_BYTES);
    let action = format!("prove {}", backup.name);
    let temporary = std::env::temp_dir();
    let own = tools.settings.data_directory.join(OWN_DIRECTORY);
    // `.pgbox` is made by what works on the cluster, which a proof does not.
    let has_own = own.is_dir();
    let [beside, elsewhere] = places(tools);
    let place = if has_own && ensure_room(&own, needed_bytes, &action).is_ok() {
        beside
    } else {
        ensure_room(&temporary, needed_bytes, &action)?;
        elsewhere
    };
    ensure_directory(&place, 0o700, None).with_context(|| format!("make '{}'", place.display()))?;
    ensure_ours(&place)?;
    Ok(place)
}

/// Where anybody may write, somebody else may have made the directory first.
fn ensure_ours(place: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let facts = std::fs::symlink_metadata(place).with_context(|| format!("look at '{}'", place.display()))?;
    if facts.is_dir() && facts.uid() == effective_identity().uid && facts.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    let message = format!("cannot prove a backup in '{}': it is not a directory of our own", place.display());
    Err(Failure::new(Kind::Refused, message).hint("remove it, or set TMPDIR to another directory").into())
}

fn restore_and_read(
    tools: &Tools,
    repository: &Repository,
    root: &WriteRoot,
    backup: &BackupSummary,
) -> anyhow::Result<Proof> {
    let name = backup.name;
    {
        let _reading = repository.lock_shared("proving a backup").context("lock the repository")?;
        let reader = repository.reader(name)?;
        restore_files(&reader, root, Path::new(STAGING), tools.progress)
            .with_context(|| format!("restore {name}"))?;
    }
    step_point("restored for a proof");
    root.write_durably(ACCESS_FILE, HOST_BASED_ACCESS.as_bytes(), 0o600).context("let nobody else in")?;
    for file in ["postgresql.conf", "pg_ident.conf"] {
        if root.facts(staged(file))?.is_none() {
            root.write_durably(staged(file), b"", 0o600).context("configure the copy")?;
        }
    }
    let mut proof = Proof::default();
    tools.progress.begin("recovering the copy", None);
    let started = start(tools, root, backup);
    tools.progress.end();
    match started {
        Ok(server) => read_all(tools, root, server, &mut proof)?,
        Err(error) if is_about_backup(&error) => {
            let log = error.log().join(" / ");
            proof.failures.push(format!("it does not recover: {error}: {log}"));
        }
        Err(error) => return Err(start_failure(error, "start a server on the copy")),
    }
    Ok(proof)
}

/// Whether a server did not start on the copy for what is in it. One that was killed, that took too long, or that the
/// machine has no memory or no library for says nothing about the backup.
fn is_about_backup(error: &StartError) -> bool {
    matches!(error, StartError::Ended { .. })
        && ServerAnswer::last_in_log(error.whole_log()).is_some_and(ServerAnswer::is_about_data_at_start)
}

/// What is told where something kept the copy from being read, and nothing of it is known to be damaged.
fn no_verdict(first: &str, count: usize) -> anyhow::Error {
    let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let hint = "this says nothing about the backup, whose verdict stays as it was; mend what kept it from being read, \
                and prove it again";
    Failure::new(Kind::Failed, format!("could not read all of the copy: {first}{others}")).hint(hint).into()
}

fn start(tools: &Tools, root: &WriteRoot, backup: &BackupSummary) -> Result<PrivateServer, StartError> {
    let libraries = if backup.imported { String::new() } else { preloaded_libraries(tools, root) };
    let start = |libraries: &str| {
        let mut settings: Vec<(&'static str, String)> = isolation().collect();
        settings.extend(SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())));
        settings.push(("shared_preload_libraries", libraries.to_owned()));
        settings.extend(foreign_programs(backup, tools.installation.version));
        settings.push(("hba_file", root.path().join(ACCESS_FILE).display().to_string()));
        let (data_directory, log_file) = (root.path().join(STAGING), root.path().join(LOG));
        PrivateServer::start(tools, root, PrivateStart { data_directory, log_file, settings })
    };
    match start(&libraries) {
        // One that is not installed here says nothing about the backup.
        Err(StartError::Ended { .. }) if !libraries.is_empty() => start(""),
        result => result,
    }
}

/// What the copy is opened with besides: it takes little, and no damage is passed over.
const SETTINGS: &[(&str, &str)] = &[
    ("hot_standby", "off"),
    ("huge_pages", "off"),
    ("ignore_checksum_failure", "off"),
    ("jit", "off"),
    ("lc_messages", "C"),
    // So that the cause of a failed start has its code and its place.
    ("log_error_verbosity", "verbose"),
    ("max_connections", "20"),
    ("shared_buffers", "64MB"),
    ("superuser_reserved_connections", "3"),
    ("zero_damaged_pages", "off"),
];

/// What a configuration has the server load and run, of a backup that was made elsewhere: nothing of it. That does not
/// make it harmless: its catalogs may have functions in libraries of its own.
fn foreign_programs(
    backup: &BackupSummary,
    version: MajorVersion,
) -> impl Iterator<Item = (&'static str, String)> {
    let settings = FOREIGN_PROGRAMS.iter().filter(move |(first, ..)| version >= MajorVersion(*first));
    let is_imported = backup.imported;
    settings.filter(move |_| is_imported).map(|(_, name, value)| (*name, (*value).to_owned()))
}

/// Each with the version that has it.
const FOREIGN_PROGRAMS: [(u32, &str, &str); 9] = [
    (13, "archive_command", ""),
    (13, "dynamic_library_path", "$libdir"),
    (13, "jit_provider", "llvmjit"),
    (13, "local_preload_libraries", ""),
    (13, "session_preload_libraries", ""),
    (13, "ssl_passphrase_command", ""),
    (15, "archive_library", ""),
    (18, "extension_control_path", "$system"),
    (18, "oauth_validator_libraries", ""),
];

/// What the backup's configuration has the server load: an extension's types may need it to be read.
fn preloaded_libraries(tools: &Tools, root: &WriteRoot) -> String {
    let staged = root.path().join(STAGING);
    tools.installation.configured("shared_preload_libraries", &staged).unwrap_or_default()
}

/// Reads everything, stops the server cleanly, and inspects what it leaves.
fn read_all(tools: &Tools, root: &WriteRoot, server: PrivateServer, proof: &mut Proof) -> anyhow::Result<()> {
    step_point("recovered for a proof");
    tools.progress.begin("reading every table", None);
    let read = reading::read_tables(tools, server.address());
    tools.progress.end();
    let Read { database_count, table_count, row_count, failures, undecided } = read;
    if let (true, Some(first)) = (failures.is_empty(), undecided.first()) {
        return Err(no_verdict(first, undecided.len()));
    }
    (proof.database_count, proof.table_count, proof.row_count) = (database_count, table_count, row_count);
    proof.failures.extend(failures);
    tools.progress.begin("checking every index", None);
    proof.index_check = indexes::check_indexes(tools, server.address());
    tools.progress.end();
    let stopped = server.stop();
    if let Err(error) = stopped {
        proof.failures.push(format!("{error:#}"));
        return Ok(());
    }
    let diagnosis = inspect_staged(tools, root, Depth::Catalogs)?;
    let errors = diagnosis.findings.iter().filter(|finding| finding.severity == Severity::Error);
    proof.failures.extend(errors.map(crate::plan::Finding::summary));
    Ok(())
}
