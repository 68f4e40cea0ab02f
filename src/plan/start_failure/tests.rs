//! The words of servers of 13 to 18, and what each says of the cause.

use super::*;
use rstest::rstest;

fn of(log: &str) -> StartFailure {
    let lines: Vec<String> = log.lines().map(str::to_owned).collect();
    StartFailure::of_log(&lines)
}

fn data(place: &str) -> Cause {
    Cause::Data { place: place.to_owned() }
}

// What servers of 13 to 18 say, each with the prefix that its configuration gives it.
#[rstest]
#[case::a_port(
    "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use\nHINT:  Is another postmaster already \
     running on port 5432?\nWARNING:  could not create listen socket for \"localhost\"\nFATAL:  could not create any \
     TCP/IP sockets",
    Cause::Address
)]
#[case::a_sockets_lock("FATAL:  lock file \"/run/.s.PGSQL.5432.lock\" already exists", Cause::Address)]
#[case::a_sockets_directory(
    "FATAL:  could not create lock file \"/gone/.s.PGSQL.5432.lock\": No such file or directory",
    Cause::Address
)]
#[case::another_server("FATAL:  lock file \"postmaster.pid\" already exists", Cause::InUse)]
#[case::its_memory(
    "FATAL:  pre-existing shared memory block (key 10010695, ID 4) is still in use",
    Cause::InUse
)]
#[case::too_little_memory(
    "FATAL:  could not map anonymous shared memory: Cannot allocate memory",
    Cause::Memory
)]
#[case::semaphores(
    "FATAL:  could not create semaphores: No space left on device\nDETAIL:  Failed system call was semget(1, 17, \
     03600).",
    Cause::Memory
)]
#[case::a_small_dev_shm(
    "FATAL:  could not resize shared memory segment \"/PostgreSQL.4\" to 1048576 bytes: No space left on device",
    Cause::Memory
)]
#[case::the_oom_killer("LOG:  startup process (PID 7) was terminated by signal 9: Killed", Cause::Killed)]
#[case::open_files(
    "FATAL:  insufficient file descriptors available to start server process",
    Cause::OpenFiles
)]
#[case::a_full_disk(
    "FATAL:  could not write lock file \"postmaster.pid\": No space left on device",
    Cause::Room
)]
#[case::a_full_disk_of_wal(
    "PANIC:  could not write to file \"pg_wal/xlogtemp.99\": No space left on device",
    Cause::Room
)]
#[case::a_failing_disk("PANIC:  could not read file \"global/pg_control\": Input/output error", Cause::Disk)]
#[case::permissions("FATAL:  could not open file \"pg_xact/0000\": Permission denied", Cause::Permission)]
#[case::the_directorys_mode(
    "FATAL:  data directory \"/d\" has invalid permissions\nDETAIL:  Permissions should be u=rwx (0700).",
    Cause::Permission
)]
#[case::a_key_that_is_not_there(
    "FATAL:  could not access private key file \"/tls/server.key\": No such file or directory",
    Cause::Certificate
)]
#[case::a_key_for_all_to_read(
    "FATAL:  private key file \"server.key\" has group or world access",
    Cause::Certificate
)]
#[case::a_certificate_that_is_not_there(
    "FATAL:  could not load server certificate file \"server.crt\": No such file or directory",
    Cause::Certificate
)]
#[case::a_library(
    "FATAL:  could not access file \"pg_stat_statements,auto_explain\": No such file or directory",
    Cause::Library
)]
#[case::a_library_of_another_version(
    "FATAL:  incompatible library \"/lib/x.so\": version mismatch",
    Cause::Library
)]
#[case::a_resource_manager(
    "FATAL:  resource manager with ID 128 not registered\nCONTEXT:  WAL redo at 0/1500028 for custom128",
    Cause::Library
)]
#[case::a_value(
    "LOG:  invalid value for parameter \"max_connections\": \"1OO\"\nFATAL:  configuration file \
     \"/d/postgresql.conf\" contains errors",
    Cause::Setting
)]
#[case::a_contradiction(
    "postgres: superuser_reserved_connections (100) must be less than max_connections (100)",
    Cause::Setting
)]
#[case::archiving_at_minimal(
    "FATAL:  WAL archival cannot be enabled when wal_level is \"minimal\"",
    Cause::Setting
)]
#[case::a_slot_without_its_level(
    "FATAL:  logical replication slot \"cdc\" exists, but wal_level < logical\nHINT:  Change wal_level to be \
     logical or higher.",
    Cause::Setting
)]
#[case::too_few_slots(
    "FATAL:  too many replication slots active before shutdown\nHINT:  Increase max_replication_slots and try \
     again.",
    Cause::Setting
)]
#[case::too_few_prepared_transactions(
    "FATAL:  maximum number of prepared transactions reached\nHINT:  Increase max_prepared_transactions (currently \
     0).",
    Cause::Setting
)]
#[case::a_standby_with_too_little(
    "WARNING:  hot standby is not possible because of insufficient parameter settings\nFATAL:  recovery aborted \
     because of insufficient parameter settings\nDETAIL:  max_connections = 10 is a lower setting than on the \
     primary server, where its value was 100.",
    Cause::Setting
)]
#[case::the_same_in_13(
    "FATAL:  hot standby is not possible because max_connections = 10 is a lower setting than on the master server \
     (its value was 100)",
    Cause::Setting
)]
#[case::access("FATAL:  could not load /etc/postgresql/pg_hba.conf", Cause::Setting)]
#[case::a_locale("FATAL:  database locale is incompatible with operating system", Cause::Locale)]
#[case::a_tablespace_that_is_not_mounted(
    "FATAL:  directory \"/mnt/fast\" does not exist\nCONTEXT:  WAL redo at 0/1500028 for Tablespace/CREATE: 16400 \
     \"/mnt/fast\"",
    Cause::Tablespace
)]
#[case::another_build(
    "FATAL:  database files are incompatible with server\nDETAIL:  The database cluster was initialized with \
     BLCKSZ 8192, but the server was compiled with BLCKSZ 16384.",
    Cause::OtherBuild
)]
#[case::a_target("FATAL:  recovery ended before configured recovery target was reached", Cause::Target)]
#[case::a_base_backup_without_its_wal(
    "FATAL:  could not locate required checkpoint record\nHINT:  If you are restoring from a backup, touch \
     \"/d/recovery.signal\" and add required recovery options.",
    Cause::MissingWal
)]
#[case::no_checkpoint("PANIC:  could not locate a valid checkpoint record", data("pg_wal"))]
#[case::no_checkpoint_in_18(
    "PANIC:  could not locate a valid checkpoint record at 0/1529160",
    data("pg_wal")
)]
#[case::transaction_status(
    "FATAL:  could not access status of transaction 730\nDETAIL:  Could not open file \"pg_xact/0000\": No such \
     file or directory.",
    data("pg_xact/0000")
)]
#[case::a_relation_map(
    "FATAL:  relation mapping file \"global/pg_filenode.map\" contains invalid data",
    data("global/pg_filenode.map")
)]
#[case::a_page("FATAL:  invalid page in block 3 of relation base/5/1259", data("base/5/1259"))]
#[case::a_slots_state(
    "PANIC:  replication slot file \"pg_replslot/cdc/state\" has wrong magic number: 0 instead of 17112992",
    data("pg_replslot/cdc/state")
)]
#[case::the_control_file(
    "PANIC:  control file contains invalid database cluster state",
    data("global/pg_control")
)]
#[case::a_record_that_does_not_fit(
    "PANIC:  invalid lp\nCONTEXT:  WAL redo at 0/1500028 for Heap/DELETE: off 1",
    data("pg_wal")
)]
#[case::what_clients_were_told("FATAL:  the database system is starting up", Cause::Unknown)]
#[case::another_language("FATAL:  konnte private Schluesseldatei nicht finden", Cause::Unknown)]
#[case::nothing("", Cause::Unknown)]
fn a_start_that_failed_is_told_by_its_cause(#[case] log: &str, #[case] cause: Cause) {
    let prefixed: Vec<String> = log
        .lines()
        .map(|line| {
            let prefix =
                if line.starts_with("postgres:") { "" } else { "2026-11-30 06:04:31.176 UTC [19308] " };
            format!("{prefix}{line}")
        })
        .collect();

    assert_eq!(of(log).cause, cause);
    assert_eq!(of(&prefixed.join("\n")).cause, cause);
}

#[test]
fn the_words_are_those_of_the_cause_without_the_time() {
    let failure = of(
        "2026-11-30 06:04:31.176 UTC [19308] LOG:  invalid value for parameter \"x\": \"1OO\"\n\
        2026-11-30 06:04:31.176 UTC [19308] FATAL:  configuration file \"/d/postgresql.conf\" contains errors\n",
    );

    let words = "configuration file \"/d/postgresql.conf\" contains errors: invalid value for parameter \"x\": \"1OO\"";
    assert_eq!(failure.words.as_deref(), Some(words));
}

#[test]
fn only_what_is_known_to_be_outside_the_data_ends_the_search_for_damage() {
    assert!(Cause::Certificate.is_outside_the_data() && !Cause::Certificate.may_pass());
    assert!(Cause::Memory.is_outside_the_data() && Cause::Memory.may_pass());
    assert!(!Cause::Unknown.is_outside_the_data() && !data("pg_wal").is_outside_the_data());
}

#[test]
fn an_answer_to_a_connection_counts_before_the_log() {
    let log = ["FATAL:  could not open file \"base/5/1259\": No such file or directory".to_owned()];
    let locale =
        StartFailure::of_answer("FATAL: database locale is incompatible with operating system", &log);
    assert_eq!(locale.cause, Cause::Locale);
    let closed = StartFailure::of_answer("connection closed", &log);
    assert_eq!(closed.cause, data("base/5/1259"));
}
