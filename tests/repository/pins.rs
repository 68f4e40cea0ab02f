//! Pins: what a person wants to keep stays, through any cleanup, until the pin is taken off.

use std::fs;

use crate::support::sandbox::{Sandbox, has_postgresql};

#[test]
fn a_pinned_backup_stays_until_it_is_unpinned() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let first = sandbox.backup_names("data_").first().unwrap().clone();
    let text = sandbox.succeed(&["backup-postgresql", "pin", &first, "--note", "before the migration"]);
    assert!(text.contains(&format!("pinned {first}")), "{text}");
    sandbox.set("MAX_BACKUPS", "1");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);

    let text = sandbox.succeed(&["backup-postgresql", "cleanup", "--dry-run", "--keep-daily", "3"]);
    assert!(text.contains("keep     pinned: before the migration"), "{text}");
    assert!(text.contains("number 1 of the newest 1, daily 1 of 3"), "{text}");
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("complete, pinned"));
    assert_eq!(sandbox.backup_names("data_").len(), 2);

    sandbox.succeed(&["backup-postgresql", "unpin", &first]);
    sandbox.succeed(&["backup-postgresql", "cleanup"]);
    assert!(!sandbox.backup_names("data_").contains(&first));
    assert!(sandbox.expect_status(&["backup-postgresql", "pin", &first], 3).contains("there is no backup"));
}

#[test]
fn a_pin_that_cannot_be_read_pins_all_the_same() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = sandbox.backup_names("data_").first().unwrap().clone();
    sandbox.succeed(&["backup-postgresql", "pin", &name]);
    fs::write(sandbox.backups().join(format!("{name}.pin")), "{").unwrap();

    let text = sandbox.succeed(&["backup-postgresql", "cleanup", "--dry-run"]);

    assert!(text.contains("pinned: the pin is damaged"), "{text}");
}
