//! What a user without any right, or the server's own, plants in a container's directories, and what root does then.

use crate::support::docker::{Container, Volumes};
use std::time::Duration;

/// How long a container has to stop.
const GRACE: Duration = Duration::from_mins(1);
const NOBODY: &str = "--user=65534:65534";
const POSTGRES: &str = "--user=postgres";
const BACKUPS: &str = "/var/lib/postgresql-backup";

/// Runs a script in a container as a user.
#[track_caller]
fn as_user(container: &Container, user: &str, script: &str) {
    let output = container.exec_with(&[user], &["sh", "-euc", script]);
    assert!(output.status.success(), "{script}: {output:?}");
}

/// Owner, mode and number of names of what an attacker is after.
fn state_of_etc(container: &Container) -> String {
    container.run(&["find", "/etc", "-maxdepth", "2", "-printf", "%p %U:%G %m %n\n"])
}

fn started(volumes: &Volumes) -> Container {
    // A stop may take long on a busy machine; what hangs takes longer than any.
    let options = ["--network=none", "--env=BACKUP_INTERVAL=off", "--env=STOP_TIMEOUT=40s"];
    let container = volumes.start_with(&options, &[]);
    container.wait_until_ready();
    // As the image has them; a directory of the host that is mounted there need not be.
    container.run(&["chmod", "1777", BACKUPS, "/var/log/postgresql"]);
    container
}

#[test]
fn a_link_to_etc_among_the_backups_gives_nothing_of_it_away() {
    let Some(volumes) = Volumes::new() else { return };
    let container = started(&volumes);
    let before = state_of_etc(&container);
    let script = "ln -s /etc data_20250101_000000; ln -s /etc damaged_20250101_000000
        mkdir replaced_20250101_000000; ln -s /etc replaced_20250101_000000/base";
    as_user(&container, NOBODY, &format!("cd {BACKUPS}; {script}"));
    as_user(&container, NOBODY, "cd /var/log/postgresql; ln -s /etc/passwd postgresql.log.1");

    for command in [["maintenance", "backup"], ["maintenance", "cleanup"], ["maintenance", "stop"]] {
        let output = container.exec(&command);
        assert_eq!(state_of_etc(&container), before, "{command:?}: {output:?}");
    }
    container.stop();
    container.start();
    container.wait_until_ready();
    assert_eq!(state_of_etc(&container), before);
}

#[test]
fn a_servers_log_that_is_a_link_takes_no_text_to_another_file() {
    let Some(volumes) = Volumes::new() else { return };
    let container = started(&volumes);
    container.run(&["maintenance", "stop"]);
    as_user(
        &container,
        POSTGRES,
        "echo key > /tmp/keys; cd /var/log/postgresql; ln -sf /tmp/keys postgresql.log",
    );

    let output = container.exec(&["maintenance", "start"]);

    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is a link, not a file"), "{output:?}");
    assert_eq!(container.run(&["cat", "/tmp/keys"]), "key\n");
    as_user(&container, POSTGRES, "rm /var/log/postgresql/postgresql.log");
    container.run(&["maintenance", "start"]);
}

#[test]
fn a_fifo_for_the_pid_file_keeps_the_container_from_nothing() {
    let Some(volumes) = Volumes::new() else { return };
    let container = started(&volumes);
    as_user(&container, POSTGRES, "cd \"$PGDATA\"; mkfifo new; mv new postmaster.pid");

    container.stop_within(GRACE);

    // Killed after that, it would have ended with 137.
    assert_ne!(container.exit_status(), 137, "{}", container.log());
    assert_eq!(volumes.cluster_state(), "shut down");
}

#[test]
fn a_fifo_in_the_repository_keeps_no_command_and_no_stop_waiting() {
    let Some(volumes) = Volumes::new() else { return };
    let container = started(&volumes);
    as_user(
        &container,
        POSTGRES,
        &format!("cd {BACKUPS}; rm -f repository.json* lock; mkfifo repository.json lock"),
    );

    for command in
        ["backup-postgresql list", "maintenance status", "maintenance health", "maintenance backup"]
    {
        let script = format!("timeout 60 {command}; [ $? != 124 ]");
        let output = container.exec(&["sh", "-c", &script]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    container.stop_within(GRACE);

    assert_ne!(container.exit_status(), 137, "{}", container.log());
    assert_eq!(volumes.cluster_state(), "shut down");
}

#[test]
fn a_postmaster_that_its_superuser_stopped_is_continued_and_shuts_down_cleanly() {
    let Some(volumes) = Volumes::new() else { return };
    let container = started(&volumes);
    as_user(&container, POSTGRES, "kill -STOP $(head -1 \"$PGDATA/postmaster.pid\")");

    container.stop_within(GRACE);

    let told = container.log();
    assert!(told.contains("was stopped by a signal; continued it"), "{told}");
    assert!(!told.contains("shut PostgreSQL down at once"), "{told}");
}
