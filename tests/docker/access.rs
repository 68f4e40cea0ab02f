//! Who may do what in a container: users that `docker exec --user` makes, hosts, and a container that is not started as
//! root.

use std::process::Output;

use rstest::rstest;

use crate::support::docker::{Container, Volumes};
use crate::support::sandbox::printed;
use crate::support::wait::wait_until;

const NOBODY: &str = "65534:65534";

/// `psql` by the socket, as a user of the container, without a password.
fn psql(container: &Container, user: &str, role: &str) -> Output {
    let database = if role == "postgres" { "postgres" } else { "dbuser" };
    let psql = ["psql", "-XAtw", "-U", role, "-d", database, "-c", "SELECT current_user"];
    container.exec_with(&[&format!("--user={user}")], &psql)
}

#[track_caller]
fn assert_let_in(container: &Container, user: &str, role: &str) {
    let output = psql(container, user, role);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), role, "{user}: {}", printed(&output));
}

#[track_caller]
fn assert_kept_out(container: &Container, user: &str, role: &str) {
    let text = printed(&psql(container, user, role));
    assert!(text.contains("Peer authentication failed"), "{user} as {role}: {text}");
}

#[test]
fn only_root_and_the_servers_user_are_let_in_without_a_password_and_no_host_as_the_superuser() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();

    for user in ["root", "postgres"] {
        assert_let_in(&container, user, "postgres");
        assert_let_in(&container, user, "dbuser");
    }
    assert_kept_out(&container, NOBODY, "postgres");
    assert_kept_out(&container, NOBODY, "dbuser");
    let by_host = ["psql", "-h", "127.0.0.1", "-U", "postgres", "-c", "SELECT 1"];
    let refused = printed(&container.exec_with(&["--env=PGPASSWORD=password"], &by_host));
    assert!(refused.contains("pg_hba.conf rejects connection"), "{refused}");
}

#[test]
fn every_user_of_the_container_is_the_application_role_where_its_template_says_so() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start_with(&["--env=LOCAL_ACCESS=trust"], &[]);
    container.wait_until_ready();

    assert_let_in(&container, NOBODY, "dbuser");
    assert_kept_out(&container, NOBODY, "postgres");
}

#[rstest]
#[case::without_a_name("4711:4711")]
#[case::with_a_name_of_its_own("games:games")]
fn a_container_of_another_user_lets_that_user_and_root_in(#[case] user: &str) {
    let Some(volumes) = Volumes::new() else { return };
    volumes.shell("chmod 1777 /var/lib/postgresql-data /var/lib/postgresql-backup /var/log/postgresql");
    let container = volumes.start_with(&[&format!("--user={user}")], &[]);
    container.wait_until_ready();

    for role in ["postgres", "dbuser"] {
        assert_let_in(&container, user, role);
        assert_let_in(&container, "root", role);
        assert_kept_out(&container, NOBODY, role);
    }
    container.back_up();
    let health = container.exec(&["maintenance", "health"]);
    assert!(health.status.success(), "{}", printed(&health));
    container.stop();
    container.start();
    container.wait_until_ready();
    assert_let_in(&container, user, "postgres");
}

#[test]
fn what_everybody_may_write_to_in_the_image_is_closed_and_what_was_planted_before_is_not_taken() {
    let Some(volumes) = Volumes::new() else { return };
    volumes.start().wait_until_ready();
    // A copy of the cluster of another user's, which would be the newest for decades.
    volumes.shell(
        "chmod 1777 /var/lib/postgresql-backup
         cp -r \"$PGDATA\" /var/lib/postgresql-backup/data_20990101_000000
         chown -R 65534:65534 /var/lib/postgresql-backup/data_20990101_000000",
    );
    let container = volumes.start();
    container.wait_until_ready();

    let facts = |path: &str| container.run(&["stat", "-c", "%a %u", path]).trim().to_owned();
    let owner = container.run(&["id", "-u", "postgres"]).trim().to_owned();
    assert_eq!(facts("/var/lib/postgresql-backup"), format!("700 {owner}"));
    assert_eq!(facts("/var/run/postgresql"), format!("3775 {owner}"));
    for of_root in ["/docker-entrypoint-initdb.d", "/etc/pgbox/services.d"] {
        assert_eq!(facts(of_root), "755 0", "{of_root}");
    }
    assert!(facts("/var/lib/postgresql-backup/data_20990101_000000/PG_VERSION").ends_with(" 65534"));
    let list = container.run(&["backup-postgresql", "list"]);
    assert!(list.contains("unreadable: it belongs to user nobody (65534)"), "{list}");
    // It is refused while the first backup is under way.
    wait_until("a cleanup", || {
        let output = container.exec(&["backup-postgresql", "cleanup"]);
        assert!(matches!(output.status.code(), Some(0 | 5)), "{}", printed(&output));
        output.status.success()
    });
    let planted = container.exec_with(&["--user=65534:65534"], &["mkdir", "/var/run/postgresql/in-the-way"]);
    assert!(printed(&planted).contains("Permission denied"), "{}", printed(&planted));
}
