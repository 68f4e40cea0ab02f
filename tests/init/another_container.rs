//! A server that pgbox did not start, in another container beside it: never two servers on one cluster.

use crate::faults::template::{Left, template};
use crate::support::foreign_server::ForeignServer;
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use crate::support::unpluggable_disk::UnpluggableDisk;
use crate::support::versions::USUAL;
use rstest::rstest;
use std::fs;
use std::path::Path;
use std::process::Command;

const INIT: [&str; 2] = ["init-postgresql", "--no-backup"];
/// No launcher keeps a file open then.
const IDLE: [&str; 2] = ["autovacuum=off", "max_logical_replication_workers=0"];

/// Programs without Perl, by which the kernel is asked.
fn hide_perl(sandbox: &mut Sandbox) {
    let programs = sandbox.path().join("programs");
    fs::create_dir(&programs).unwrap();
    sandbox.set("PATH", programs.display().to_string());
}

/// Makes everything in the data directory look as old as a cluster that nobody has used for an hour.
fn age(data: &Path) {
    run(Command::new("find").arg(data).args(["-exec", "touch", "-d", "1 hour ago", "{}", "+"]));
}

fn lines_of_pid_file(data: &Path) -> String {
    fs::read_to_string(data.join("postmaster.pid")).unwrap()
}

#[rstest]
#[case::a_start(&INIT)]
#[case::a_restore_in_place(&["backup-postgresql", "restore", "NAME", "--yes", "--no-backup"])]
#[case::a_restore_of_the_whole(&["backup-postgresql", "restore", "NAME", "--yes", "--no-backup", "--full"])]
#[case::a_repair(&["maintenance", "repair", "--yes"])]
#[case::a_plan(&["init-postgresql", "--dry-run"])]
fn beside_a_server_in_another_container_nothing_is_done(#[case] arguments: &[&str]) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = sandbox.backup_names("data_").remove(0);
    let arguments: Vec<&str> =
        arguments.iter().map(|&argument| if argument == "NAME" { name.as_str() } else { argument }).collect();
    let server = ForeignServer::start(&sandbox, USUAL, &[]);
    server.hide_socket();
    let pid_file = lines_of_pid_file(&sandbox.data());

    let told = sandbox.expect_status(&arguments, 5);

    assert!(told.contains("'global/1262' is open for writing"), "{told}");
    assert_eq!(lines_of_pid_file(&sandbox.data()), pid_file);
    assert!(!sandbox.data().join(".pgbox/journal.json").exists());
    assert!(sandbox.output(&["maintenance", "health"]).status.code() == Some(1));
    server.stop();
    sandbox.succeed(&INIT);
}

#[rstest]
#[case(13)]
#[case(14)]
#[case(16)]
#[case(17)]
#[case(18)]
fn a_server_of_any_version_is_seen(#[case] major: u32) {
    let Some(template) = template(major, Left::Clean) else { return };
    let sandbox = template.copy();
    let server = ForeignServer::start(&sandbox, major, &[]);

    sandbox.expect_status(&INIT, 5);

    server.stop();
}

#[test]
fn a_server_that_is_paused_is_seen() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let server = ForeignServer::start(&sandbox, USUAL, &[]);
    server.pause();

    sandbox.expect_status(&INIT, 5);
}

#[rstest]
#[case::that_answers_at_its_socket(&IDLE, false, false)]
#[case::whose_files_changed_just_now(&IDLE, true, false)]
#[case::that_the_kernel_is_not_asked_about(&[], true, true)]
fn a_server_without_an_open_file_is_seen(
    #[case] settings: &[&str],
    #[case] hides_socket: bool,
    #[case] hides_perl: bool,
) {
    // The one of which nothing but its pid file can be known for certain.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    if hides_perl {
        hide_perl(&mut sandbox);
    }
    let server = ForeignServer::start(&sandbox, USUAL, settings);
    if hides_socket {
        server.hide_socket();
    } else {
        age(&sandbox.data());
    }
    let pid_file = lines_of_pid_file(&sandbox.data());

    let told = sandbox.expect_status(&INIT, 5);

    assert!(told.contains("is in use by"), "{told}");
    assert_eq!(lines_of_pid_file(&sandbox.data()), pid_file);
    server.stop();
    sandbox.succeed(&INIT);
}

#[test]
fn a_server_of_another_container_that_was_killed_is_no_reason_to_wait() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let server = ForeignServer::start(&sandbox, USUAL, &[]);
    server.sql("INSERT INTO kept VALUES (1000)");
    server.kill();

    let told = sandbox.succeed(&INIT);

    assert!(told.contains("pid-file-stale"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
}

#[test]
fn where_the_kernel_cannot_be_asked_a_pid_file_counts_until_it_is_old_or_removed() {
    if !has_postgresql() {
        return;
    }
    for is_removed in [false, true] {
        let mut sandbox = Sandbox::without_backup();
        hide_perl(&mut sandbox);
        let server = ForeignServer::start(&sandbox, USUAL, &[]);
        server.sql("INSERT INTO kept VALUES (1000)");
        server.kill();

        let told = sandbox.expect_status(&INIT, 5);

        assert!(told.contains("remove postmaster.pid"), "{told}");
        if is_removed {
            fs::remove_file(sandbox.data().join("postmaster.pid")).unwrap();
        } else {
            age(&sandbox.data());
        }
        sandbox.succeed(&INIT);
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
    }
}

#[test]
fn where_the_kernel_cannot_be_asked_a_killed_server_of_pgboxs_own_is_started_at_once() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    hide_perl(&mut sandbox);
    sandbox.succeed(&INIT);
    sandbox.kill_server();

    let told = sandbox.succeed(&INIT);

    assert!(told.contains("pid-file-stale"), "{told}");
}

#[test]
fn on_a_share_that_other_machines_may_use_a_pid_file_counts_until_it_is_old() {
    // The kernel grants a lease there, and knows of its own processes alone.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    let server = ForeignServer::start(&sandbox, USUAL, &[]);
    server.kill();
    let share = sandbox.path().join("share");
    let Some(disk) = UnpluggableDisk::new(&sandbox.data(), &share) else { return };
    sandbox.set("PGDATA", disk.path().display().to_string());

    let told = sandbox.expect_status(&INIT, 5);

    assert!(told.contains("other machines may use the same files"), "{told}");
    age(disk.path());
    assert!(sandbox.succeed(&["init-postgresql", "--dry-run"]).contains("pid-file-stale"));
}

#[test]
fn those_who_read_the_files_are_in_nobodys_way() {
    // As a backup program does, or another look of pgbox's own.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let _readers = ["global/1262", "global/pg_control", "PG_VERSION"]
        .map(|name| fs::File::open(sandbox.data().join(name)).unwrap());

    sandbox.succeed(&INIT);
}

#[test]
fn a_server_that_comes_between_the_lock_and_the_start_is_seen() {
    // pgbox stands still after its last look at the directory, and another container starts a server.
    use crate::support::step_points::{has_step_points, pause_at, points};
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let first = points(&sandbox, &INIT).iter().position(|point| point == "before a step").unwrap() + 1;
    sandbox.succeed(&["maintenance", "stop"]);

    let (output, server) = pause_at(&sandbox, first, &INIT, || ForeignServer::start(&sandbox, USUAL, &[]));

    let told = crate::support::sandbox::printed(&output);
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("'global/1262' is open for writing"), "{told}");
    assert_eq!(server.sql("SELECT count(*) FROM kept"), "100");
    server.stop();
    sandbox.succeed(&INIT);
}
