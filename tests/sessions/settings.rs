//! Settings of roles and databases, and commands that were set for another server's recovery.

use super::{FORMATS, LIBRARIES, LIMITS, NAMES, READ_ONLY, make_settings, sql};
use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::versions::programs;
use rstest::rstest;

#[rstest]
#[case::every_transaction_is_read_only(READ_ONLY)]
#[case::every_statement_is_ended_at_once(LIMITS)]
#[case::a_library_of_every_session_is_gone(LIBRARIES)]
#[case::every_session_is_another_role_with_names_of_its_own(NAMES)]
#[case::every_value_is_written_otherwise(FORMATS)]
fn what_an_owner_set_for_sessions_keeps_nothing_from_working(#[case] settings: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    make_settings(&sandbox, settings);
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox.set("DATABASE_PASSWORD", "another");

    let started = sandbox.succeed(&["init-postgresql", "--sync-password"]);

    assert!(started.contains("backed up") && !started.contains("could not be verified"), "{started}");
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("two connections to port"), "{health}");
    assert!(sandbox.succeed(&["maintenance", "status"]).contains("connections"));
    let proven = sandbox.succeed(&["backup-postgresql", "verify", "latest", "--prove"]);
    assert!(proven.contains("in 3 databases read whole"), "{proven}");
    assert!(!proven.contains("indexes were not checked"), "{proven}");
    let kept = sql(&sandbox, "dbuser", "SELECT count(*) FROM pg_catalog.pg_db_role_setting");
    assert_ne!(kept, "0", "the settings are the owner's");
}

#[rstest]
#[case(13)]
#[case(17)]
#[case(18)]
fn what_an_owner_set_for_sessions_keeps_no_version_from_working(#[case] major: u32) {
    // From 17 on, a trigger ends each session at its login.
    let Some(programs) = programs(major) else { return };
    let mut sandbox = Sandbox::empty();
    sandbox.set("POSTGRES_BIN_DIR", programs.to_str().unwrap());
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    if major >= 17 {
        sandbox.sql(
            "CREATE FUNCTION nobody_in() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'",
        );
        sandbox.sql("CREATE EVENT TRIGGER nobody_in ON login EXECUTE FUNCTION nobody_in()");
        assert!(!sandbox.psql().args(["-c", "SELECT 1"]).output().unwrap().status.success());
        sandbox.set("POSTGRES_DB", "postgres");
        sandbox.sql("ALTER ROLE postgres SET transaction_timeout = '1ms'");
    } else {
        make_settings(&sandbox, &[READ_ONLY, LIMITS, LIBRARIES, NAMES, FORMATS].join("; "));
    }
    sandbox.succeed(&["maintenance", "stop"]);

    let started = sandbox.succeed(&["init-postgresql", "--sync-password"]);

    assert!(started.contains("backed up") && !started.contains("could not be verified"), "{started}");
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("two connections to port"), "{health}");
}

#[test]
fn a_restore_runs_no_command_of_another_tool() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let traces = sandbox.path().join("traces");
    std::fs::create_dir(&traces).unwrap();
    std::fs::set_permissions(&traces, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for name in ["archive_cleanup_command", "recovery_end_command", "restore_command"] {
        sandbox.sql(&format!("ALTER SYSTEM SET {name} = 'touch {}/{name}'", traces.display()));
    }
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let elsewhere = sandbox.path().join("elsewhere");
    let into = ["--into", elsewhere.to_str().unwrap()];

    sandbox.succeed(&["backup-postgresql", "verify", "latest", "--prove"]);
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes", into[0], into[1]]);
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);

    let left: Vec<_> = std::fs::read_dir(&traces).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
    let kept =
        "SELECT count(*) FROM pg_file_settings WHERE setting LIKE 'touch%' AND name LIKE '%\\_command'";
    assert_eq!(sandbox.sql(kept), "3", "the owner's settings are kept");
}
