//! Reading the repository back finds what rotted, and what a backup relies on is there.

use crate::archive::archive_now;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{has_step_points, kill_at, pause_at};
use crate::support::wait::wait_until;
use rstest::rstest;
use std::process::Command;

/// A cluster that runs, with a backup of it and an archived segment.
fn running() -> Sandbox {
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    archive_now(&sandbox);
    sandbox
}

/// Runs shell commands in the backup directory.
fn damage(sandbox: &Sandbox, script: &str) {
    run(Command::new("sh").args(["-ec", script]).current_dir(sandbox.backups()));
}

/// Changes 64 bytes in the middle of each file that is given.
const FLIP: &str = r#"flip() { for file in "$@"; do
    size=$(stat -c %s "$file"); printf '%64s' | dd of="$file" bs=1 seek=$((size / 2)) conv=notrunc status=none
done; };"#;

#[rstest]
#[case::a_pack("flip packs/*/*.pack", true)]
#[case::the_end_of_a_pack("truncate -s -1 packs/*/*.pack", false)]
#[case::half_of_a_pack(
    "for pack in packs/*/*.pack; do truncate -s $(($(stat -c %s $pack) / 2)) $pack; done",
    false
)]
#[case::a_pack_that_is_gone("rm packs/*/*.pack", false)]
#[case::a_file_table("flip data_*/files.zst", false)]
fn what_rots_is_found_named_and_stored_again(#[case] script: &str, #[case] is_mended_for_all: bool) {
    if !has_postgresql() {
        return;
    }
    let sandbox = running();
    let old = sandbox.backup_names("data_")[0].clone();
    damage(&sandbox, &format!("{FLIP} {script}"));

    let told = sandbox.expect_status(&["backup-postgresql", "scrub", "--all"], 4);

    assert!(told.contains(&format!("{old} needs it, so it is damaged")), "{told}");
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains("backup-scrub") && health.contains(&format!("it is part of {old}")), "{health}");
    let told = sandbox.succeed(&["backup-postgresql", "create"]);
    assert!(told.contains("backed up"), "{told}");
    let new = sandbox.backup_names("data_")[0].clone();
    assert_ne!(old, new);
    // What is left of the damaged pack is told besides.
    let verified = sandbox.output(&["backup-postgresql", "verify", &new]);
    assert!(printed(&verified).contains(&format!("{new}  sound")), "{verified:?}");
    if is_mended_for_all {
        let told = sandbox.succeed(&["backup-postgresql", "scrub", "--all"]);
        assert!(told.contains(&format!("{old} is sound again")), "{told}");
        sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    }
}

#[test]
fn archived_wal_that_rots_is_found_and_bridged_by_a_backup_though_nothing_changed() {
    if !has_postgresql() {
        return;
    }
    let sandbox = running();
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let next = || {
        sandbox.sql("SELECT pg_create_restore_point('here')");
        let name = sandbox.sql("SELECT pg_walfile_name(pg_switch_wal())");
        wait_until("it is archived", || !crate::archive::archived(&sandbox, &name).is_empty());
        name
    };
    let rotten = next();
    next();
    assert!(sandbox.succeed(&["backup-postgresql", "create"]).contains("nothing changed"));
    damage(&sandbox, &format!("{FLIP} flip wal/*/00000001/{rotten}-*"));

    let told = sandbox.expect_status(&["backup-postgresql", "scrub", "--all"], 4);

    assert!(told.contains(&rotten), "{told}");
    let told = sandbox.succeed(&["backup-postgresql", "create"]);
    assert!(told.contains("backed up"), "{told}");
}

#[test]
fn archived_wal_that_a_verification_finds_rotten_is_known_from_then_on() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = running();
    sandbox.set("SCRUB_INTERVAL", "off");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let next = || {
        sandbox.sql("SELECT pg_create_restore_point('here')");
        archive_now(&sandbox)
    };
    let rotten = next();
    next();
    damage(&sandbox, &format!("{FLIP} flip wal/*/00000001/{rotten}-*"));

    let verified = sandbox.expect_status(&["backup-postgresql", "verify", "--all"], 4);
    let told = sandbox.succeed(&["backup-postgresql", "create"]);

    assert!(verified.contains(&rotten), "{verified}");
    assert!(told.contains("backed up"), "the hole is bridged: {told}");
    damage(&sandbox, &format!("rm wal/*/00000001/{rotten}-*"));
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    let state = std::fs::read_to_string(sandbox.backups().join("scrub.json")).unwrap();
    assert!(!state.contains(&rotten), "{state}");
}

#[rstest]
#[case::gone("rm packs/*/*.pack")]
#[case::rotten("flip packs/*/*.pack")]
fn a_backup_relies_on_nothing_that_is_not_there_though_nobody_looked_before(#[case] script: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = running();
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    assert!(sandbox.succeed(&["backup-postgresql", "create"]).contains("nothing changed"));
    damage(&sandbox, &format!("{FLIP} {script}"));

    let told = sandbox.succeed(&["backup-postgresql", "create"]);

    assert!(told.contains("backed up"), "{told}");
    let new = sandbox.backup_names("data_")[0].clone();
    sandbox.succeed(&["backup-postgresql", "verify", &new]);
    assert!(sandbox.succeed(&["backup-postgresql", "create"]).contains("nothing changed"));
}

#[test]
fn as_much_is_read_as_is_due_and_the_place_is_remembered() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = running();
    // Killed at the second thing that was read: nothing is remembered yet, and nothing is broken.
    kill_at(&sandbox, 2, &["backup-postgresql", "scrub", "--all"]);

    let told = sandbox.succeed(&["backup-postgresql", "scrub"]);
    assert!(!told.contains("nothing is due"), "{told}");
    let told = sandbox.succeed(&["backup-postgresql", "scrub"]);
    assert!(told.contains("nothing is due"), "no more is due: {told}");
    let told = sandbox.succeed(&["backup-postgresql", "scrub", "--all"]);
    assert!(told.contains("everything has been read in this round"), "{told}");
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("everything was read back since"), "{health}");
}

#[test]
fn reading_back_keeps_no_backup_from_being_made() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = running();
    let (output, told) = pause_at(&sandbox, 1, &["backup-postgresql", "scrub", "--all"], || {
        let told = sandbox.succeed(&["backup-postgresql", "create", "--force"]);
        let cleaned = sandbox.succeed(&["backup-postgresql", "cleanup"]);
        assert!(sandbox.succeed(&["backup-postgresql", "scrub"]).contains("another process"));
        told + &cleaned
    });
    assert!(output.status.success(), "{output:?}");
    assert!(told.contains("backed up"), "{told}");
}

#[test]
fn health_tells_when_nothing_is_read_back() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = running();
    sandbox.succeed(&["backup-postgresql", "scrub", "--all"]);
    sandbox.set("SCRUB_INTERVAL", "1s");
    wait_until("it is overdue", || {
        let health = sandbox.output(&["maintenance", "health"]);
        String::from_utf8_lossy(&health.stdout).contains("not everything was read back since")
    });
    sandbox.expect_status(&["maintenance", "health"], 1);

    std::fs::remove_file(sandbox.backups().join("scrub.json")).unwrap();
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("nobody ever read all of the backups back"), "{health}");

    sandbox.set("SCRUB_INTERVAL", "off");
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("off, by SCRUB_INTERVAL"), "{health}");
}
