//! Two at work on one repository: one waits or is refused with status 5, and both end well.

use super::killed::assert_all_read;
use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use crate::support::step_points::{has_step_points, pause_at, points};
use pgbox::repository::Repository;

const CREATE: [&str; 2] = ["backup-postgresql", "create"];
const CLEANUP: [&str; 2] = ["backup-postgresql", "cleanup"];

/// A server that serves, and a backup that retention lets go once there is another.
fn scene() -> Sandbox {
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("MAX_BACKUPS", "1");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE later AS SELECT i, md5(i::text) FROM generate_series(1, 20000) AS i");
    sandbox
}

/// Runs one command while another stands still in its middle. What came of the second is seen before the first goes on.
fn meanwhile(sandbox: &Sandbox, first: &[&str], second: &[&str], twin: &Sandbox) -> Option<i32> {
    let middle = points(twin, first).len() / 2;
    let (output, status) = pause_at(sandbox, middle.max(1), first, || {
        let other = sandbox.output(second);
        let text = printed(&other);
        let status = other.status.code();
        assert!(status != Some(5) || text.contains("in use") || text.contains("at work"), "{text}");
        status
    });
    assert!(output.status.success(), "{first:?}: {}", printed(&output));
    let repository = Repository::open(&sandbox.backups(), None).unwrap().unwrap();
    assert!(!assert_all_read(&repository).is_empty());
    status
}

#[test]
fn a_create_keeps_a_second_create_and_a_cleanup_out_until_it_has_ended() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    for second in [CREATE, CLEANUP] {
        let sandbox = scene();
        assert_eq!(meanwhile(&sandbox, &CREATE, &second, &scene()), Some(5), "{second:?}");
        sandbox.succeed(&second);
        sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    }
}

#[test]
fn a_restore_keeps_a_cleanup_from_what_it_reads() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let (sandbox, twin) = (scene(), scene());
    let restore = |sandbox: &Sandbox| {
        let name = sandbox.backup_names("data_").remove(0);
        ["backup-postgresql".to_owned(), "restore".to_owned(), name, "--yes".to_owned(), "--full".to_owned()]
    };
    let (wanted, of_twin) = (restore(&sandbox), restore(&twin));
    assert_eq!(wanted, of_twin, "both are copies of one template");
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();

    let status = meanwhile(&sandbox, &wanted, &CLEANUP, &twin);

    assert!(matches!(status, Some(0 | 5)), "{status:?}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    sandbox.succeed(&CLEANUP);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
}
