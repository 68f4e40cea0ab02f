//! What is refused, with nothing changed.

use crate::faults::template::{Left, template};
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use rstest::rstest;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

#[test]
fn a_directory_that_is_not_postgresqls_is_left_as_it_is() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.data()).unwrap();
    fs::write(sandbox.data().join("letter.txt"), "dear").unwrap();
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains("letter.txt"), "{told}");
    assert_eq!(sandbox.listing(), before);
    assert!(!sandbox.data().join(".pgbox").exists());
}

#[test]
fn another_major_version_is_left_as_it_is() {
    if !has_postgresql() {
        return;
    }
    let Some(template) = template(14, Left::Clean) else { return };
    let mut sandbox = template.copy();
    // The programs of all versions that are installed, and 14 is not among them.
    sandbox.set("POSTGRES_BIN_DIR", "");
    let before = sandbox.listing();

    sandbox.set("POSTGRES_VERSION", "14");
    sandbox.expect_status(&["init-postgresql"], 127);
    sandbox.set("POSTGRES_VERSION", "15");
    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains("made by PostgreSQL 14"), "{told}");
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(
        health.contains("the cluster is one of PostgreSQL 14, and POSTGRES_VERSION asks for 15"),
        "{health}"
    );
    assert_eq!(sandbox.listing(), before);
}

/// Writes version numbers into the control file, whose CRC then fits, as a server of another version would.
fn give_versions(sandbox: &Sandbox, control: u32, catalog: u32) {
    const CRC_OFFSET: usize = 288;
    let path = sandbox.data().join("global/pg_control");
    let mut file = fs::read(&path).unwrap();
    file[8..12].copy_from_slice(&control.to_le_bytes());
    file[12..16].copy_from_slice(&catalog.to_le_bytes());
    let crc = crc32c::crc32c(&file[..CRC_OFFSET]);
    file[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, file).unwrap();
}

#[rstest]
#[case::of_a_version_to_come(2001, 202_710_011)]
#[case::of_a_beta_of_a_known_version(1300, 202_209_060)]
#[case::of_a_known_layout_with_other_catalogs(1300, 202_406_281)]
fn a_cluster_of_a_version_that_is_not_known_is_neither_touched_nor_called_damaged(
    #[case] control: u32,
    #[case] catalog: u32,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    give_versions(&sandbox, control, catalog);
    let before = sandbox.listing();

    let refused = sandbox.expect_status(&["init-postgresql"], 6);
    let checked = printed(&sandbox.output(&["maintenance", "check", "--deep"]));
    let healthy = printed(&sandbox.output(&["maintenance", "health"]));

    for said in [refused, checked, healthy] {
        assert!(said.contains("pgbox does not know"), "{said}");
        let advises = ["damaged", "restore"].iter().find(|word| said.contains(**word));
        assert_eq!(advises, None, "{said}");
    }
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn a_version_that_has_had_its_last_release_is_told_by_health() {
    let Some(template) = template(14, Left::Clean) else { return };
    let sandbox = template.copy();

    let health = printed(&sandbox.output(&["maintenance", "health"]));

    assert!(health.contains("PostgreSQL 14 had its last release on 2026-11-12"), "{health}");
}

#[test]
fn a_directory_whose_lock_somebody_holds_is_busy() {
    // The lock is held as a server in another container would hold it: nothing of it is to be seen here.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["maintenance", "stop"]);
    let lock = sandbox.data().join(".pgbox/lock");
    let mut holder = Command::new("flock");
    let mut holder = holder.arg(&lock).args(["sh", "-c", "echo held; exec sleep 300"]);
    holder = holder.stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 4]).unwrap();

    let started = sandbox.output(&["init-postgresql"]);
    let name = sandbox.backup_names("data_").remove(0);
    let restored = sandbox.output(&["backup-postgresql", "restore", &name, "--yes"]);

    holder.kill().unwrap();
    holder.wait().unwrap();
    // `flock` runs the command in its place of honour; the lock goes with the last of them.
    assert_eq!((started.status.code(), restored.status.code()), (Some(5), Some(5)));
    assert!(!sandbox.data().join("postmaster.pid").exists());
}

#[test]
fn a_port_that_something_else_uses_is_named() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    sandbox.set("PGPORT", &port);

    let told = sandbox.expect_status(&["init-postgresql"], 1);

    assert!(told.contains(&format!("port {port} is in use")), "{told}");
}

#[rstest]
#[case("0")]
#[case("-1")]
#[case("seven")]
fn a_number_of_backups_that_makes_no_sense_is_a_usage_error(#[case] number: &str) {
    let mut sandbox = Sandbox::empty();
    sandbox.set("MAX_BACKUPS", number);

    let told = sandbox.expect_status(&["backup-postgresql", "cleanup"], 2);

    assert!(told.contains(&format!("'{number}'")), "{told}");
}

#[rstest]
#[case("../../etc")]
#[case("-rf")]
#[case("")]
#[case("data_20200101_000000\n")]
#[case("data_20200101_000000")]
fn a_name_that_is_no_backups_is_no_such_backup(#[case] name: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let before = sandbox.listing();

    sandbox.expect_status(&["backup-postgresql", "restore", "--yes", "--", name], 3);

    assert_eq!(sandbox.listing(), before);
}

#[test]
fn without_postgresql_the_status_is_127() {
    let mut sandbox = Sandbox::empty();
    sandbox.set("POSTGRES_BIN_DIR", "/nonexistent");

    let told = sandbox.expect_status(&["init-postgresql"], 127);

    assert!(told.contains("install"), "{told}");
}

#[test]
fn a_backup_directory_that_cannot_be_written_keeps_no_server_from_starting() {
    // A file stands where the backup directory should be.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    fs::write(sandbox.backups(), "").unwrap();

    let told = sandbox.succeed(&["init-postgresql"]);

    assert!(told.contains("no backup was made"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_restore_without_a_terminal_needs_yes() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = sandbox.backup_names("data_").remove(0);
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["backup-postgresql", "restore", &name], 6);

    assert!(told.contains("--yes"), "{told}");
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn a_repository_that_somebody_writes_is_busy() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let repository = pgbox::repository::Repository::open(&sandbox.backups(), None).unwrap().unwrap();
    let held = repository.lock_exclusively("a test").unwrap();

    let created = sandbox.expect_status(&["backup-postgresql", "create"], 5);
    sandbox.expect_status(&["backup-postgresql", "cleanup"], 5);

    drop(held);
    assert!(created.contains("a test"), "{created}");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
}

#[test]
fn a_lost_link_to_a_tablespace_is_for_a_person_to_put_back() {
    // What git and rsync do to links: the directory of a tablespace is there, and nothing leads to it.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let space = sandbox.path().join("space");
    fs::create_dir(&space).unwrap();
    run(Command::new("chown").arg("postgres").arg(&space));
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql(&format!("CREATE TABLESPACE apart LOCATION '{}'", space.display()));
    sandbox.sql("CREATE TABLE there (id int) TABLESPACE apart; INSERT INTO there VALUES (1)");
    let oid = sandbox.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'apart'");
    // Sets the hint bits by which the row is known to be live.
    sandbox.sql("VACUUM pg_tablespace");
    sandbox.succeed(&["maintenance", "stop"]);
    fs::remove_dir_all(sandbox.data().join("pg_tblspc")).unwrap();

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains(&format!("pg_tblspc/{oid}")) && told.contains("ln -s"), "{told}");
    fs::create_dir(sandbox.data().join("pg_tblspc")).unwrap();
    std::os::unix::fs::symlink(&space, sandbox.data().join("pg_tblspc").join(oid)).unwrap();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM there"), "1");
}
