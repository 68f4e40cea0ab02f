//! The SQL of a hot backup: one session that must stay open from start to stop.

use anyhow::Context;
use postgres::Client;

use crate::cluster::session::{Preamble, Purpose};
use crate::error::{Failure, Kind};
use crate::pg::control_file::ControlFile;
use crate::pg::{Lsn, MajorVersion};
use crate::repository::TablePath;

/// The first version with `pg_backup_start()`; before, it was `pg_start_backup()`.
const FIRST_WITH_BACKUP_START: i32 = 150_000;

/// Makes a session fit for a backup, and sees that the server is the one whose control file was read.
///
/// Timeouts that a person set for ordinary sessions would end the backup halfway.
pub(super) fn prepare(client: &mut Client, control: &ControlFile) -> anyhow::Result<()> {
    let version = server_version(client)?;
    // Whoever uses this as a library opened the session their own way.
    let preamble = Preamble::new(MajorVersion((version / 10_000).cast_unsigned()), Purpose::Serving);
    client.batch_execute(&preamble.statements()).context("prepare the session")?;
    let row = client
        .query_one(
            "SELECT pg_is_in_recovery(), current_setting('wal_level'), system_identifier FROM pg_control_system()",
            &[],
        )
        .context("ask the server what it is")?;
    let (is_in_recovery, wal_level, identifier): (bool, String, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if identifier.cast_unsigned() != control.system_identifier.0 {
        let message = format!(
            "cannot back up: the server's system identifier is {}, and that of the data directory is {}",
            identifier.cast_unsigned(),
            control.system_identifier
        );
        return Err(Failure::new(Kind::Refused, message).hint("check PGDATA and PGPORT").into());
    }
    if is_in_recovery {
        let message = "cannot back up a server in recovery";
        return Err(Failure::new(Kind::Refused, message)
            .hint("wait until it has finished, or promote it")
            .into());
    }
    if wal_level == "minimal" {
        let message =
            "cannot back up a running server with wal_level = minimal: its WAL cannot restore a backup";
        return Err(Failure::new(Kind::Refused, message)
            .hint("set wal_level = replica and restart it")
            .into());
    }
    Ok(())
}

fn server_version(client: &mut Client) -> anyhow::Result<i32> {
    let row = client.query_one("SELECT pg_catalog.current_setting('server_version_num')::int4", &[]);
    Ok(row.context("ask for the server's version")?.try_get(0)?)
}

/// What a backup that was stopped leaves to be stored.
pub(super) struct Stopped {
    /// Where the backup becomes consistent.
    pub(super) stop_lsn: Lsn,
    /// `backup_label`, and `tablespace_map` where there are tablespaces: to be stored byte for byte.
    pub(super) files: Vec<(TablePath, String)>,
}

/// A backup that the server knows to be going on. Dropped before it is stopped, it is given up.
pub(super) struct BackupSession<'c> {
    client: &'c mut Client,
    version: i32,
    has_slot: bool,
    is_running: bool,
}

impl<'c> BackupSession<'c> {
    /// Starts a backup, with a checkpoint at once, and returns where recovery from it will begin.
    pub(super) fn start(client: &'c mut Client, label: &str) -> anyhow::Result<(Self, Lsn)> {
        let version = server_version(client)?;
        let mut session = Self { client, version, has_slot: false, is_running: false };
        session.has_slot = session.reserve_wal();
        let statement = if version >= FIRST_WITH_BACKUP_START {
            "SELECT pg_backup_start($1, fast => true)::text"
        } else {
            "SELECT pg_start_backup($1, true, false)::text"
        };
        let row = session.client.query_one(statement, &[&label]).context("start the backup in the server")?;
        session.is_running = true;
        let start_lsn: String = row.try_get(0)?;
        Ok((session, start_lsn.parse().context("read where the backup starts")?))
    }

    /// Keeps the server from removing WAL that the backup needs. Where no slot is to be had, the backup goes on: WAL
    /// that is then missing at the end is noticed.
    fn reserve_wal(&mut self) -> bool {
        let statement =
            "SELECT pg_create_physical_replication_slot('pgbox_backup_' || pg_backend_pid(), true, true)";
        self.client.query_one(statement, &[]).is_ok()
    }

    /// Sees that the session still lives.
    pub(super) fn ping(&mut self) -> anyhow::Result<()> {
        self.client
            .simple_query("")
            .context("could not go on with the backup: the server ended its session")?;
        Ok(())
    }

    /// Ends the backup in the server. The slot stays until this value is dropped, so that the WAL can be copied.
    pub(super) fn stop(&mut self) -> anyhow::Result<Stopped> {
        let statement = if self.version >= FIRST_WITH_BACKUP_START {
            "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(wait_for_archive => false)"
        } else {
            "SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
        };
        self.is_running = false;
        let row = self.client.query_one(statement, &[]).context("stop the backup in the server")?;
        let (stop_lsn, label, map): (String, String, Option<String>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let mut files = vec![("backup_label".to_owned().try_into()?, label)];
        if let Some(map) = map.filter(|map| !map.trim().is_empty()) {
            files.push(("tablespace_map".to_owned().try_into()?, map));
        }
        Ok(Stopped { stop_lsn: stop_lsn.parse().context("read where the backup ends")?, files })
    }
}

impl Drop for BackupSession<'_> {
    /// Best effort: the server does both by itself when the session ends, but the caller may go on to use it.
    fn drop(&mut self) {
        if self.is_running {
            let _ = self.stop();
        }
        if self.has_slot {
            let _ = self
                .client
                .query_one("SELECT pg_drop_replication_slot('pgbox_backup_' || pg_backend_pid())", &[]);
        }
    }
}
