//! A disk that becomes full between any two steps: what was there is still there, and the next run goes on.

use std::os::unix::fs::chown;
use std::path::Path;

use pgbox::repository::Repository;

use super::killed::{assert_all_read, has_left_overs, points_of_create};
use crate::support::extent::is_wanted;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::small_disk::SmallDisk;
use crate::support::step_points::{has_step_points, pause_at, points};

const CREATE: [&str; 2] = ["backup-postgresql", "create"];

fn give_to_server(path: &Path, sandbox: &Sandbox) {
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(sandbox.data()).unwrap());
    chown(path, Some(owner), None).unwrap();
}

/// Rows that no compression makes smaller.
fn add_rows(sandbox: &Sandbox, round: usize) {
    sandbox.sql(&format!(
        "INSERT INTO later SELECT {round}, sha512((random()::text || i)::bytea) FROM generate_series(1, 1000) AS i"
    ));
}

#[test]
fn a_backup_to_a_disk_that_fills_at_any_step_harms_nothing_and_the_next_one_is_whole() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let Some(disk) = SmallDisk::new("200M") else { return };
    let mut sandbox = Sandbox::with_backup();
    give_to_server(disk.path(), &sandbox);
    let backups = disk.path().join("backups");
    run(std::process::Command::new("cp").arg("-a").arg(sandbox.backups()).arg(&backups));
    sandbox.set("BACKUP_DIR", backups.display().to_string());
    sandbox.set("MAX_BACKUPS", "100");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE later (round int, bytes bytea)");
    let count = points_of_create(&sandbox).len();
    let repository = Repository::open(&backups, None).unwrap().unwrap();
    for number in 1..=count {
        let before = repository.backups().unwrap().len();
        add_rows(&sandbox, number);

        let (output, ballast) = pause_at(&sandbox, number, &CREATE, || disk.fill());

        let text = printed(&output);
        let listed = assert_all_read(&repository).len();
        if output.status.success() {
            assert_eq!(listed, before + 1, "filled at point {number}: {text}");
        } else {
            assert_eq!(output.status.code(), Some(1), "filled at point {number}: {text}");
            assert!(text.contains("the file system is full") || text.contains(" free"), "{number}: {text}");
            assert_eq!(listed, before, "filled at point {number}: {text}");
            drop(ballast);
            sandbox.succeed(&CREATE);
            assert_eq!(assert_all_read(&repository).len(), before + 1);
        }
        assert_eq!(sandbox.sql("SELECT count(DISTINCT round) FROM later"), number.to_string());
    }
    assert!(!has_left_overs(&backups));
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
}

#[test]
fn a_restore_onto_a_disk_that_fills_at_any_step_leaves_the_former_or_the_restored_cluster() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let Some(disk) = SmallDisk::new("400M") else { return };
    let template = Sandbox::with_backup();
    let name = template.backup_names("data_").remove(0);
    let restore = ["backup-postgresql", "restore", &name, "--yes"];
    let scene = || {
        let mut sandbox = Sandbox::copy_of(template.path(), disk.path());
        // The repository is on another disk.
        sandbox.set("BACKUP_DIR", template.backups().display().to_string());
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150); CHECKPOINT");
        sandbox
    };
    let count = points(&scene(), &restore).len();
    assert!(count >= 5, "{count}");
    for number in (1..=count).filter(|number| is_wanted(*number, 4)) {
        let sandbox = scene();

        let (output, ballast) = pause_at(&sandbox, number, &restore, || disk.fill());

        drop(ballast);
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        let rows = sandbox.sql("SELECT count(*) FROM kept");
        let expected: &[&str] = if output.status.success() { &["100"] } else { &["100", "150"] };
        assert!(expected.contains(&rows.as_str()), "{rows} rows at point {number}: {}", printed(&output));
        sandbox.succeed(&["maintenance", "check"]);
    }
}
