//! A keeper whose repository goes away while its server runs.

use rustix::process::Signal;
use std::fs::File;
use std::process::Child;

use super::setting::{archive_now, archived};
use crate::support::sandbox::{Sandbox, has_postgresql, signal};
use crate::support::unpluggable_disk::UnpluggableDisk;
use crate::support::wait::wait_until;

/// `start-services`, ended when dropped, by a panic too. The server goes with it.
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = signal(self.0.id().cast_signed(), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// How many segments wait to be archived.
fn waiting(sandbox: &Sandbox) -> u32 {
    let query = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name ~ '^[0-9A-F]{24}.ready$'";
    sandbox.sql(query).parse().unwrap()
}

fn write_a_segment(sandbox: &Sandbox) {
    sandbox.sql("CREATE TABLE switched (); DROP TABLE switched; SELECT pg_switch_wal()");
}

#[test]
fn when_the_repository_goes_away_the_server_serves_on_and_when_it_is_back_it_is_backed_up_again() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let Some(disk) = UnpluggableDisk::new(&sandbox.backups(), &sandbox.path().join("disk")) else { return };
    sandbox.set("BACKUP_DIR", disk.path().display().to_string());
    sandbox.set("BACKUP_INTERVAL", "2s");
    sandbox.set("WAL_QUEUE_LIMIT", "32M");
    sandbox.set("SERVICES_DIR", sandbox.path().join("services.d").display().to_string());
    let log = sandbox.path().join("keeper.log");
    let output = File::create(&log).unwrap();
    let told = || std::fs::read_to_string(&log).unwrap();
    let mut command = sandbox.command(&["start-services"]);
    command.stdout(output.try_clone().unwrap()).stderr(output);
    // Both end before the disk goes, and it before the directory.
    let sandbox = sandbox;
    let mut disk = disk;
    let keeper = Keeper(command.spawn().unwrap());
    wait_until("the server serves, and is backed up", || told().contains("PostgreSQL 15 is ready"));
    // What is kept for whom it may concern is not to hide what is kept for the archive.
    sandbox.sql("ALTER SYSTEM SET wal_keep_size = 0");
    sandbox.sql("SELECT pg_reload_conf()");
    let segment = archive_now(&sandbox);
    let postmaster = sandbox.postmaster();

    disk.unplug();

    wait_until("the backup that fails is told", || told().contains("its file system is gone"));
    for _ in 0..8 {
        write_a_segment(&sandbox);
    }
    wait_until("what waits is given up", || waiting(&sandbox) <= 2);
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains("given up since") && health.contains("backup-age    ISSUE"), "{health}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    // What was given up is not kept; segments that are named ahead are those that come next.
    sandbox.sql("CHECKPOINT");
    let query = "SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' \
                 AND name <= pg_walfile_name(pg_current_wal_lsn())";
    let kept: u32 = sandbox.sql(query).parse().unwrap();
    assert!(kept <= 4, "{kept} segments");

    disk.plug_in();

    write_a_segment(&sandbox);
    wait_until("the gap is closed by a backup", || !sandbox.data().join(".pgbox/wal-gap.json").exists());
    assert!(!archived(&sandbox, &segment).is_empty());
    archive_now(&sandbox);
    let health = sandbox.output(&["maintenance", "health"]);
    assert!(String::from_utf8_lossy(&health.stdout).contains("archived until"), "{health:?}");
    assert_eq!(sandbox.postmaster(), postmaster, "{}", told());
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    drop(keeper);
}
