//! A cluster that is not sound: each fault is made by hand on a real one, and the rows must be back.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use rstest::rstest;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Shell that takes what nothing in place brings back: which transactions were committed.
const BEYOND_REPAIR: &str = "rm pg_xact/0000; rm -f .pgbox/seal";

/// Runs a shell command in the data directory.
fn shell(data: &Path, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(data))
}

#[rstest]
#[case::directories_lost_by_git(
    "rmdir pg_notify pg_replslot pg_twophase pg_tblspc pg_stat_tmp pg_logical/snapshots"
)]
#[case::an_empty_pid_file(": > postmaster.pid")]
#[case::a_pid_file_with_something_else_in_it("echo '{\"a\": 1}' > postmaster.pid")]
#[case::a_pid_file_of_a_dead_server("printf '999999\\n/x\\n1\\n5432\\n/tmp\\nlocalhost\\n' > postmaster.pid")]
#[case::a_mode_that_the_server_refuses("chmod 755 .")]
#[case::files_of_root("chown -R root base pg_wal PG_VERSION")]
#[case::several_at_once("rmdir pg_notify; : > postmaster.pid; chmod 777 .; chown root global/pg_control")]
fn what_can_be_put_right_in_place_is(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox.data(), damage);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert!(!sandbox.data().join(".pgbox/aside").join("damaged_").exists());
}

/// Rows committed after the backup, then a clean stop.
fn add_rows_since_the_backup(sandbox: &Sandbox) {
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    sandbox.succeed(&["maintenance", "stop"]);
}

#[rstest]
#[case::the_index_this_project_began_with("rm global/2671")]
#[case::a_shared_catalog("rm global/1262")]
#[case::an_empty_catalog(": > global/1260")]
#[case::the_shared_relation_map("rm global/pg_filenode.map")]
#[case::a_flipped_bit_in_the_shared_relation_map(
    "printf '\\001' | dd of=global/pg_filenode.map bs=1 seek=100 conv=notrunc"
)]
#[case::a_relation_map_of_a_database("rm base/1/pg_filenode.map")]
#[case::a_users_database_directory("rm -r base/1638*")]
#[case::the_control_file("rm global/pg_control")]
#[case::a_flipped_bit_in_the_control_file(
    "printf '\\377' | dd of=global/pg_control bs=1 seek=60 conv=notrunc"
)]
#[case::the_version("rm PG_VERSION")]
#[case::the_configuration("rm postgresql.conf pg_hba.conf")]
#[case::the_transaction_status(BEYOND_REPAIR)]
#[case::the_base_directory("rm -r base")]
fn what_was_lost_comes_back_with_every_row(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    add_rows_since_the_backup(&sandbox);
    shell(&sandbox.data(), damage);

    let told = sandbox.succeed(&["init-postgresql"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150", "{told}");
    assert!(!sandbox.data().join(".pgbox/journal.json").exists());
}

#[rstest]
#[case::a_users_database_directory("rm -r base/1638*")]
#[case::the_transaction_status(BEYOND_REPAIR)]
#[case::the_base_directory("rm -r base")]
fn a_cluster_that_is_replaced_by_its_backup_is_kept(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox.data(), damage);

    let told = sandbox.succeed(&["init-postgresql"]);

    assert_eq!(sandbox.backup_names("damaged_").len(), 1, "{told}");
    assert!(told.contains("restored data_"), "{told}");
}

#[test]
fn rows_that_are_lost_are_said_to_be() {
    // The WAL since the backup is gone, too, and was never archived, so that the backup is all there is.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("WAL_ARCHIVE", "off");
    add_rows_since_the_backup(&sandbox);
    shell(&sandbox.data(), &format!("{BEYOND_REPAIR}; rm pg_wal/0*"));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert!(told.contains("are lost"), "{told}");
}

#[test]
fn without_a_backup_what_reads_is_salvaged_and_the_old_cluster_kept() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox.data(), BEYOND_REPAIR);

    let told = sandbox.succeed(&["init-postgresql"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100", "{told}");
    assert!(told.contains("there is no backup to restore"), "{told}");
    assert_eq!(sandbox.backup_names("damaged_").len(), 1);
}

#[test]
fn an_initdb_that_never_finished_is_not_taken_for_a_cluster() {
    // Another program's initdb, killed when it had written PG_VERSION, the control file and the configuration.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox.data(), "rm -r base/1638* postmaster.opts global/pg_filenode.map .pgbox pg_wal/0*");
    shell(&sandbox.data(), "find base global -name '1638*' -delete; find base global -name '1639*' -delete");
    fs::remove_file(sandbox.data().join("global/pg_control")).unwrap();

    let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(plan.contains("an initdb was cut short"), "{plan}");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT 1"), "1");
}

#[test]
fn a_killed_server_is_simply_started_again() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 120)");
    sandbox.kill_server();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "120");
}

#[test]
fn a_backup_that_cannot_be_used_does_not_lead_to_an_empty_cluster() {
    // Every pack of the repository is damaged, and then the cluster.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(
        &sandbox.backups(),
        "for pack in $(find packs -name '*.pack'); do printf 'XXXX' | dd of=$pack bs=1 seek=200 conv=notrunc; done",
    );
    shell(&sandbox.data(), BEYOND_REPAIR);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100", "{told}");
    assert!(told.contains("could not be used") && told.contains("salvaged"), "{told}");
    assert!(!sandbox.data().join(".pgbox/journal.json").exists());
}

#[test]
fn a_backup_whose_server_does_not_start_gives_way_to_the_data_that_was_there() {
    // The backup holds a configuration that no server starts with; it was written after the server had started.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let configuration = sandbox.data().join("postgresql.conf");
    let sound = fs::read(&configuration).unwrap();
    let lines = b"\nssl = on\nssl_cert_file = 'not-there.crt'\n";
    fs::write(&configuration, [sound.as_slice(), lines].concat()).unwrap();
    sandbox.succeed(&["backup-postgresql", "create"]);
    fs::write(&configuration, sound).unwrap();
    let name = sandbox.backup_names("data_").remove(0);

    let told = sandbox.expect_status(&["backup-postgresql", "restore", &name, "--yes"], 1);

    assert!(told.contains("the data directory is as it was"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[rstest]
#[case("never", "rmdir pg_notify")]
#[case("never", "rm global/2671")]
#[case("repair", BEYOND_REPAIR)]
fn recovery_goes_only_as_far_as_it_is_allowed(#[case] policy: &str, #[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    shell(&sandbox.data(), damage);
    sandbox.set("RECOVERY", policy);
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains("Nothing was changed"), "{told}");
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn a_dry_run_shows_the_plan_and_changes_nothing() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox.data(), &format!("{BEYOND_REPAIR}; rmdir pg_notify; chmod 755 ."));
    let before = sandbox.listing();

    let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(plan.contains("restore data_") && plan.contains("transaction-status-missing"), "{plan}");
    assert_eq!(sandbox.listing(), before);
    let mode = fs::metadata(sandbox.data()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn a_server_killed_under_ddl_is_never_taken_for_damaged() {
    // Files come and go while the catalogs are rewritten; a false alarm would roll the whole cluster back.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let churn = "CREATE TABLE IF NOT EXISTS churn (id int); INSERT INTO churn VALUES (1); \
        VACUUM FULL pg_class; VACUUM FULL pg_database; REINDEX SYSTEM dbuser; VACUUM FULL pg_authid; TRUNCATE churn; \
        CREATE DATABASE short_lived; REINDEX TABLE pg_database; DROP DATABASE short_lived; DROP TABLE churn;";
    for round in 0..6_u64 {
        let mut worker = sandbox.psql();
        let script = churn.replace("; ", ";\n").repeat(50);
        let worker = worker.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut worker = worker.stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut input = worker.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut input, script.as_bytes()));
        std::thread::sleep(std::time::Duration::from_millis(150 + round * 170));
        sandbox.kill_server();
        worker.wait().unwrap();
        // The pipe breaks when psql has lost its server.
        let _ = feeder.join().unwrap();

        let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);
        assert!(!plan.contains("[replaces]"), "round {round}: {plan}");
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.succeed(&["maintenance", "stop"]);
        let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);
        assert!(!plan.contains("found:"), "round {round}, after a clean stop: {plan}");
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    }
}

#[test]
fn a_template1_that_was_made_anew_is_no_damage() {
    // PostgreSQL's manual has it so; the new one has another number, and base/1 is gone.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    for statement in [
        "ALTER DATABASE template1 IS_TEMPLATE false",
        "DROP DATABASE template1",
        "CREATE DATABASE template1 TEMPLATE template0 IS_TEMPLATE true",
    ] {
        sandbox.sql(statement);
    }
    sandbox.succeed(&["maintenance", "stop"]);

    let printed = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!printed.contains("directory-missing") && !printed.contains("set the former"), "{printed}");
}

#[test]
fn what_an_interrupted_removal_left_is_no_interrupted_initdb() {
    // Little but pg_wal is left; its segments are of a server that ran, and the backup has the rows.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    add_rows_since_the_backup(&sandbox);
    shell(&sandbox.data(), "rm -r base global PG_VERSION postmaster.opts");

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150");
}

#[test]
fn a_file_that_could_not_be_stored_is_not_discarded() {
    // A file that its own user may not read, and that no server needs, in a cluster that is replaced.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let file = "pg_stat/notes";
    shell(
        &sandbox.data(),
        &format!("echo x > {file}; chown postgres {file}; chmod 0 {file}; {BEYOND_REPAIR}"),
    );

    let printed = sandbox.succeed(&["init-postgresql"]);

    assert!(printed.contains("could not be read"), "{printed}");
    let kept = format!("ls .pgbox/aside/damaged_*/{file}");
    assert!(shell(&sandbox.data(), &kept).contains(file));
    let stored = sandbox.backup_names("damaged_");
    assert_eq!(stored.len(), 1);
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    assert_eq!(sandbox.backup_names("damaged_"), stored, "it is stored once");
}

#[test]
fn a_mount_inside_the_data_directory_leaves_the_cluster_as_it_was() {
    // pg_wal as a volume of its own cannot be renamed, so that the cluster cannot be set aside.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let volume = sandbox.path().join("volume");
    shell(&sandbox.data(), &format!("{BEYOND_REPAIR}; cp -a pg_wal '{}'", volume.display()));
    let before = shell(&sandbox.data(), "find . -path ./.pgbox -prune -o -print | sort");
    let script = format!(
        "mount --bind '{}' \"$PGDATA/pg_wal\" && \"$0\" init-postgresql --no-backup",
        volume.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_pgbox")]);
    command.envs(sandbox.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));

    let output = command.output().unwrap();

    let told = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("a mount of its own"), "{told}");
    assert_eq!(shell(&sandbox.data(), "find . -path ./.pgbox -prune -o -print | sort"), before);
    // Without the mount, it is restored as usual.
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_server_whose_database_postgres_was_dropped_is_started() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("DROP DATABASE postgres");
    sandbox.succeed(&["maintenance", "stop"]);

    let printed = sandbox.succeed(&["init-postgresql"]);

    assert!(printed.contains("backed up"), "{printed}");
    sandbox.succeed(&["maintenance", "health"]);
}

#[rstest]
#[case::a_password_is_asked_for("scram-sha-256")]
#[case::nobody_is_let_in("reject")]
fn a_server_that_lets_us_not_in_is_started(#[case] method: &str) {
    // The method for local connections is what its owner made it.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox.data(), &format!("sed -i 's/^local .*/local all all {method}/' pg_hba.conf"));

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(sandbox.application_login("dbuser", "password", "dbuser").status.success());
    assert!(sandbox.succeed(&["init-postgresql"]).contains("is running already"));
}

#[test]
fn a_recovery_that_failed_leaves_no_half_of_a_cluster_on_the_disk() {
    // The only backup has a chunk that cannot be read, so that its files are restored only in part.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox.data(), "rm -r base");
    shell(&sandbox.backups(), "find packs -name '*.pack' | while read pack; do : > \"$pack\"; done");

    let output = sandbox.output(&["init-postgresql", "--no-backup"]);

    assert!(!output.status.success(), "{}", printed(&output));
    assert!(!sandbox.data().join(".pgbox/new").exists());
}
