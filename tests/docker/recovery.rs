//! Losing data, and getting it back.

use crate::support::docker::{Container, Volumes};

#[test]
fn what_nothing_in_place_brings_back_comes_from_the_backup_with_its_rows() {
    // Damage: pg_xact/0000, which tells what was committed, is removed from a cleanly stopped cluster, and with it the seal,
    // by which the file could be worked out from the WAL.
    let Some(volumes) = Volumes::new() else { return };
    let container = start_with_a_backup(&volumes);
    container.stop();
    volumes.shell("rm \"$PGDATA/pg_xact/0000\" \"$PGDATA/.pgbox/seal\"");

    container.start();
    container.wait_until_ready();

    assert_eq!(container.sql("SELECT count(*) FROM kept"), "100");
    assert!(
        container.log().contains("pg_xact/0000"),
        "the log does not say what was missing: {}",
        container.log()
    );
    let aside = volumes
        .shell("find \"$PGDATA/.pgbox\" /var/lib/postgresql-backup -maxdepth 3 -name 'damaged_*' -print");
    assert!(!aside.trim().is_empty(), "the damaged data was not kept");
}

#[test]
fn a_missing_index_of_a_system_catalog_is_built_anew() {
    // Damage: global/2671 (an index of pg_database) is removed from a cleanly stopped cluster.
    let Some(volumes) = Volumes::new() else { return };
    let container = start_with_a_backup(&volumes);
    container.stop();
    volumes.shell("rm \"$PGDATA/global/2671\"");

    container.start();
    container.wait_until_ready();

    assert_eq!(container.sql("SELECT count(*) FROM kept"), "100");
    assert!(container.log().contains("2671"), "the log does not say what was missing: {}", container.log());
}

#[test]
fn restore_at_a_terminal_asks_for_the_name_and_brings_the_rows_back() {
    let Some(volumes) = Volumes::new() else { return };
    let container = start_with_a_backup(&volumes);
    let name = newest_backup(&container);
    container.sql("DELETE FROM kept");

    let mut terminal = container.terminal(&["backup-postgresql", "restore", &name]);
    terminal.wait_for_text("type");
    terminal.type_line(&name);
    let status = terminal.wait();

    assert!(status.success(), "{status}: {}", terminal.shown());
    container.wait_until_ready();
    assert_eq!(container.sql("SELECT count(*) FROM kept"), "100");
    assert!(container.is_running());
}

#[test]
fn restore_at_a_terminal_changes_nothing_when_another_name_is_typed() {
    let Some(volumes) = Volumes::new() else { return };
    let container = start_with_a_backup(&volumes);
    let name = newest_backup(&container);
    container.sql("DELETE FROM kept WHERE id > 50");

    let mut terminal = container.terminal(&["backup-postgresql", "restore", &name]);
    terminal.wait_for_text("type");
    terminal.type_line("yes");
    let status = terminal.wait();

    assert_eq!(status.code(), Some(6), "{}", terminal.shown());
    assert_eq!(container.sql("SELECT count(*) FROM kept"), "50");
}

#[test]
fn restore_without_a_terminal_never_takes_its_answer_from_a_pipe() {
    let Some(volumes) = Volumes::new() else { return };
    let container = start_with_a_backup(&volumes);
    let name = newest_backup(&container);
    container.sql("DELETE FROM kept WHERE id > 50");
    let script = format!("echo {name} | backup-postgresql restore {name}");

    let refused = container.exec(&["sh", "-c", &script]);

    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert_eq!(container.sql("SELECT count(*) FROM kept"), "50");
}

#[test]
fn restore_with_yes_needs_no_terminal() {
    let Some(volumes) = Volumes::new() else { return };
    let container = start_with_a_backup(&volumes);
    let name = newest_backup(&container);
    container.sql("DELETE FROM kept");

    container.run(&["backup-postgresql", "restore", &name, "--yes"]);

    container.wait_until_ready();
    assert_eq!(container.sql("SELECT count(*) FROM kept"), "100");
    container.stop();
    assert_eq!(volumes.cluster_state(), "shut down");
}

#[test]
fn an_unknown_backup_is_refused_with_its_own_status() {
    let Some(volumes) = Volumes::new() else { return };
    let container = start_with_a_backup(&volumes);

    let refused = container.exec(&["backup-postgresql", "restore", "data_20010101_000000", "--yes"]);

    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(container.sql("SELECT count(*) FROM kept"), "100");
}

fn start_with_a_backup(volumes: &Volumes) -> Container {
    let container = volumes.start();
    container.wait_until_ready();
    container.sql("CREATE TABLE kept AS SELECT generate_series(1, 100) AS id");
    container.back_up();
    container
}

fn newest_backup(container: &Container) -> String {
    let names = container.run(&["sh", "-ec", "cd /var/lib/postgresql-backup; ls -d data_*"]);
    names.lines().max().unwrap_or_default().to_owned()
}
