//! `docker stop` at the worst moments: nothing is lost, and the next start comes back.

use crate::support::docker::{Container, Volumes};
use crate::support::wait::wait_until;
use rstest::rstest;

#[test]
fn docker_stop_during_the_first_initdb_leaves_a_start_that_works() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    wait_until("initdb to have begun", || staging_is_in_use(&container));

    container.stop();
    assert_ne!(container.exit_status(), 137, "killed: {}", container.log());
    container.start();
    container.wait_until_ready();

    assert_eq!(container.sql("SELECT 1"), "1");
    container.stop();
    assert_eq!(volumes.cluster_state(), "shut down");
}

#[rstest]
#[case::beside("--full", "test -n \"$(ls -A \"$PGDATA/.pgbox/new\")\"")]
#[case::in_place("", "ls \"$BACKUP_DIR\" | grep -q '^replaced_'")]
fn docker_stop_during_a_restore_loses_neither_the_old_rows_nor_the_start(
    #[case] option: &str,
    #[case] has_begun: &str,
) {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();
    fill(&container);
    container.sql("CREATE TABLE kept AS SELECT generate_series(1, 100) AS id");
    container.back_up();
    container.sql("DELETE FROM kept WHERE id > 50");
    let restore = format!("backup-postgresql restore latest --yes {option}");
    container.spawn(&["sh", "-c", &restore]);
    wait_until("the restore to have begun", || container.exec(&["sh", "-c", has_begun]).status.success());

    container.stop();
    container.start();
    container.wait_until_ready();

    // The restore was carried through, or taken back; never something between.
    let rows = container.sql("SELECT count(*) FROM kept");
    assert!(rows == "100" || rows == "50", "{rows} rows: {}", container.log());
    assert_eq!(container.sql("SELECT count(*) FROM filler"), "200000");
    assert!(container.exec(&["maintenance", "health"]).status.success());
}

#[test]
fn docker_stop_during_a_backup_leaves_no_half_backup_and_a_clean_cluster() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();
    fill(&container);
    let before = complete_backups(&container);
    container.spawn(&["backup-postgresql", "create"]);
    wait_until("the backup to have begun", || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE '%pg_backup_start%' AND pid <> pg_backend_pid()";
        container.sql(query) != "0"
    });

    container.stop();
    assert_ne!(container.exit_status(), 137, "killed: {}", container.log());
    assert_eq!(volumes.cluster_state(), "shut down");
    container.start();
    container.wait_until_ready();

    assert_eq!(container.sql("SELECT count(*) FROM filler"), "200000");
    container.back_up();
    assert!(complete_backups(&container) > before);
    container.run(&["backup-postgresql", "list"]);
}

/// Enough bytes for a backup or a restore to be caught in the middle of it.
fn fill(container: &Container) {
    container.sql("CREATE TABLE filler AS SELECT i AS id, repeat(md5(i::text), 20) AS noise FROM generate_series(1, 200000) i");
}

/// A backup counts once its `backup.json` is there.
fn complete_backups(container: &Container) -> usize {
    container
        .run(&["sh", "-c", "ls /var/lib/postgresql-backup/data_*/backup.json 2>/dev/null || true"])
        .lines()
        .count()
}

/// Whether a cluster is being built: it is built in `.pgbox/new`, and moved up when it is whole.
fn staging_is_in_use(container: &Container) -> bool {
    container.exec(&["sh", "-c", "test -n \"$(ls -A \"$PGDATA/.pgbox/new\")\""]).status.success()
}
