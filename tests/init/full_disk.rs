//! A disk that is full when pgbox writes its notes: no note makes a start fail that was none, and the next start is right.

use crate::support::extent::is_wanted;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::small_disk::SmallDisk;
use crate::support::step_points::{has_step_points, pause_at, points};
use rstest::rstest;
use std::process::Command;

const INIT: [&str; 2] = ["init-postgresql", "--no-backup"];

/// A cluster on a small disk of its own, stopped, to which a script did something. Its backups are on another disk, with
/// the second sandbox.
fn scene(template: &Sandbox, disk: &SmallDisk, script: &str) -> (Sandbox, Sandbox) {
    let mut sandbox = Sandbox::copy_of(template.path(), disk.path());
    let elsewhere = Sandbox::empty();
    run(Command::new("cp").arg("-a").arg(template.backups()).arg(elsewhere.backups()));
    sandbox.set("BACKUP_DIR", elsewhere.backups().display().to_string());
    // A history that is begun takes a block.
    let script = format!("{script}; rm -f .pgbox/history.jsonl");
    run(Command::new("sh").args(["-ec", &script]).current_dir(sandbox.data()));
    (sandbox, elsewhere)
}

#[rstest]
#[case::with_a_copy_of_its_configuration(
    "rm -r pg_notify; echo 'work_mem = plenty' >> postgresql.conf",
    "after a step"
)]
#[case::after_a_restore("rm pg_xact/0000 .pgbox/seal", "serves, not accepted yet")]
fn a_disk_of_the_data_that_fills_at_any_step_of_a_start_makes_no_served_start_fail(
    #[case] script: &str,
    #[case] served_at: &str,
) {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let Some(disk) = SmallDisk::new("300M") else { return };
    let template = Sandbox::with_backup();
    let names = points(&scene(&template, &disk, script).0, &INIT);
    // From then on there are only notes to write.
    let served = names.iter().rposition(|name| name == served_at).unwrap();
    let mut unrecorded = 0;
    for index in (0..names.len()).filter(|index| *index >= served || is_wanted(*index, 8)) {
        let (sandbox, _elsewhere) = scene(&template, &disk, script);

        let (output, ballast) = pause_at(&sandbox, index + 1, &INIT, || disk.fill());

        let told = printed(&output);
        eprintln!("filled at point {} of {}, {}: {}", index + 1, names.len(), names[index], output.status);
        assert!(output.status.success() || index < served, "{told}");
        unrecorded += told.matches("could not be recorded in the history").count();
        if output.status.success() {
            sandbox.succeed(&["maintenance", "stop"]);
        }
        drop(ballast);
        sandbox.succeed(&INIT);
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100", "{told}");
        sandbox.succeed(&["maintenance", "check"]);
    }
    assert!(unrecorded > 0 || served_at == "after a step", "no note was ever refused for want of room");
}

#[test]
fn a_full_disk_of_the_backups_keeps_no_server_from_starting_and_what_was_read_back_is_read_again() {
    if !has_postgresql() {
        return;
    }
    let Some(disk) = SmallDisk::new("100M") else { return };
    let mut sandbox = Sandbox::with_backup();
    let backups = disk.path().join("backups");
    run(Command::new("cp").arg("-a").arg(sandbox.backups()).arg(&backups));
    sandbox.set("BACKUP_DIR", backups.display().to_string());
    let ballast = disk.fill();

    sandbox.succeed(&INIT);
    let full = sandbox.output(&["backup-postgresql", "scrub", "--all"]);

    let told = printed(&full);
    assert!(!full.status.success() && told.contains("the file system is full"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    drop(ballast);
    let told = sandbox.succeed(&["backup-postgresql", "scrub", "--all"]);
    assert!(told.contains("everything has been read in this round"), "{told}");
    let left: Vec<_> = std::fs::read_dir(&backups).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".tmp")), "{left:?}");
}
