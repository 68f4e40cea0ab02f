//! Restores that change the present files: what differs is written, the rest is left, and whatever happens on the way,
//! the next start has the one state or the other, whole.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::extent::is_wanted;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::small_disk::SmallDisk;
use crate::support::step_points::{KILL_AT, has_step_points, kill_at, points};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const INIT: [&str; 2] = ["init-postgresql", "--no-backup"];

/// A stopped cluster that changed in every way since its newest backup.
pub(super) struct Changed {
    sandbox: Sandbox,
    /// The backup.
    pub(super) name: String,
    /// What `pg_dump` printed when it was made, and at the end.
    at_backup: String,
    at_end: String,
}

pub(super) fn changed() -> &'static Changed {
    static CHANGED: OnceLock<Changed> = OnceLock::new();
    CHANGED.get_or_init(|| {
        let sandbox = Sandbox::with_backup();
        sandbox.succeed(&INIT);
        sandbox.sql(
            "CREATE TABLE resting AS SELECT i, md5(i::text) AS text FROM generate_series(1, 20000) AS i; \
             CREATE TABLE dropped AS SELECT i FROM generate_series(1, 3000) AS i; \
             CREATE TABLE truncated AS SELECT i FROM generate_series(1, 3000) AS i; \
             CREATE TABLE rewritten AS SELECT i FROM generate_series(1, 3000) AS i; \
             CREATE TABLE grown (i int PRIMARY KEY); INSERT INTO grown SELECT generate_series(1, 3000)",
        );
        sandbox.succeed(&["backup-postgresql", "create"]);
        let (name, at_backup) = (sandbox.backup_names("data_").remove(0), dump(&sandbox));
        sandbox.sql(
            "DROP TABLE dropped; TRUNCATE truncated; DELETE FROM rewritten WHERE i % 2 = 0; \
             INSERT INTO grown SELECT generate_series(3001, 30000); \
             CREATE TABLE new AS SELECT i FROM generate_series(1, 3000) AS i; DELETE FROM kept WHERE id > 10",
        );
        sandbox.sql("VACUUM FULL rewritten");
        sandbox.sql("CREATE DATABASE other");
        let at_end = dump(&sandbox);
        sandbox.succeed(&["maintenance", "stop"]);
        fs::remove_file(sandbox.data().join(".pgbox/stopped")).unwrap();
        Changed { sandbox, name, at_backup, at_end }
    })
}

/// The application's database as `pg_dump` prints it, but for the lines that are another each time.
fn dump(sandbox: &Sandbox) -> String {
    let text = run(&mut tool(sandbox, "pg_dump", &["-d", "dbuser"]));
    let lines =
        text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    lines.collect::<Vec<_>>().join("\n")
}

fn tool(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(PROGRAMS).join(name));
    command.args(["-h", "/var/run/postgresql", "-p", &sandbox.port(), "-U", "postgres"]).args(arguments);
    command
}

/// A copy of a sandbox on a disk that has no room for a second cluster. Its server is stopped before the disk goes.
pub(super) struct Tight {
    pub(super) sandbox: Sandbox,
    pub(super) _disk: SmallDisk,
}

/// What a disk has free that is too small for a second cluster, and large enough for the first WAL of a server.
pub(super) const FREE_MIB: u64 = 90;
/// The same, before the server makes the WAL of what the test does.
const FREE_AT_FIRST_MIB: u64 = 122;

impl Tight {
    pub(super) fn copy_of(sandbox: &Sandbox, free_mib: u64) -> Option<Self> {
        let used = run(Command::new("du").args(["-sm", "--apparent-size"]).arg(sandbox.path()));
        let used_mib: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
        let disk = SmallDisk::new(&format!("{}M", used_mib + free_mib))?;
        let copy = Sandbox::copy_of(sandbox.path(), disk.path());
        Some(Self { sandbox: copy, _disk: disk })
    }

    /// Takes the room that was freed meanwhile.
    fn fill(&self) {
        self.leave_free(FREE_MIB);
    }

    /// Leaves no more than so much room. Returns what takes it.
    fn leave_free(&self, most_mib: u64) -> Option<PathBuf> {
        let free = run(Command::new("df").args(["--output=avail", "-m"]).arg(self.sandbox.path()));
        let free_mib: u64 = free.lines().nth(1).unwrap().trim().parse().unwrap();
        let taken_mib = free_mib.checked_sub(most_mib).filter(|taken_mib| *taken_mib > 0)?;
        let ballast = tempfile::NamedTempFile::new_in(self.sandbox.path()).unwrap().keep().unwrap().1;
        run(Command::new("fallocate").arg("-l").arg(format!("{taken_mib}M")).arg(&ballast));
        Some(ballast)
    }

    /// What is on it is the changed cluster.
    pub(super) fn changed() -> Option<Self> {
        if !has_postgresql() {
            return None;
        }
        Self::copy_of(&changed().sandbox, FREE_MIB)
    }
}

pub(super) fn restore_of(name: &str) -> [&str; 4] {
    ["backup-postgresql", "restore", name, "--yes"]
}

pub(super) fn assert_at_backup(sandbox: &Sandbox) {
    assert!(dump(sandbox) == changed().at_backup, "it is not what it was when the backup was made");
    assert_no_leftovers(sandbox);
}

pub(super) fn assert_at_end(sandbox: &Sandbox) {
    assert!(dump(sandbox) == changed().at_end, "it is not what it was before the restore");
    assert_no_leftovers(sandbox);
}

fn assert_no_leftovers(sandbox: &Sandbox) {
    for name in ["journal.json", "former_pg_control", "removed", "new", "incoming-wal"] {
        assert!(!sandbox.data().join(".pgbox").join(name).exists(), "{name}");
    }
}

fn file_of(sandbox: &Sandbox, table: &str) -> PathBuf {
    sandbox.data().join(sandbox.sql(&format!("SELECT pg_relation_filepath('{table}')")))
}

#[test]
fn without_room_beside_what_changed_is_put_right_and_the_rest_keeps_its_files() {
    let Some(tight) = Tight::changed() else { return };
    let (sandbox, name) = (&tight.sandbox, &changed().name);
    sandbox.succeed(&INIT);
    let resting = file_of(sandbox, "resting");
    let inode = fs::metadata(&resting).unwrap().ino();
    let shown = sandbox.succeed(&["backup-postgresql", "restore", name, "--dry-run"]);
    assert!(shown.contains("there is no room to build it beside"), "{shown}");
    assert!(
        sandbox
            .expect_status(&["backup-postgresql", "restore", name, "--full", "--yes"], 6)
            .contains("--full")
    );

    let told = sandbox.succeed(&restore_of(name));

    assert!(told.contains("into the present files: "), "{told}");
    assert_at_backup(sandbox);
    assert_eq!(fs::metadata(&resting).unwrap().ino(), inode);
    assert_eq!(sandbox.sql("SELECT count(*) FROM pg_database WHERE datname = 'other'"), "0");
    let checked = tool(sandbox, "pg_amcheck", &["--all", "--install-missing"]).output().unwrap();
    assert!(checked.status.success() && checked.stdout.is_empty(), "{}", printed(&checked));

    sandbox.succeed(&["backup-postgresql", "undo", "--yes"]);
    assert_at_end(sandbox);
    assert_eq!(sandbox.sql("SELECT count(*) FROM pg_database WHERE datname = 'other'"), "1");
}

#[test]
fn killed_at_any_step_the_next_start_has_the_one_state_or_the_other() {
    if !has_step_points() {
        return;
    }
    let restore = restore_of(&changed().name);
    let Some(first) = Tight::changed() else { return };
    let names = points(&first.sandbox, &restore);
    drop(first);
    let turned = names.iter().position(|name| name == "journal begun").unwrap();
    let done = names.iter().rposition(|name| name == "journal removed").unwrap();
    assert!(done - turned > 10, "{names:?}");
    for (index, name) in names.iter().enumerate().filter(|(index, _)| *index <= done && is_wanted(*index, 4))
    {
        let Some(Tight { sandbox, _disk }) = Tight::changed() else { return };
        kill_at(&sandbox, index + 1, &restore);
        sandbox.succeed(&INIT);
        eprintln!("killed at point {} of {}: {name}", index + 1, names.len());
        if index >= turned {
            assert_at_backup(&sandbox);
        } else {
            assert_at_end(&sandbox);
        }
        drop(sandbox);
    }
}

#[test]
fn killed_again_while_it_is_finished_it_is_finished_all_the_same() {
    if !has_step_points() {
        return;
    }
    let restore = restore_of(&changed().name);
    let Some(first) = Tight::changed() else { return };
    let names = points(&first.sandbox, &restore);
    let written = names.iter().position(|name| name == "a file written").unwrap();
    drop(first);
    let Some(Tight { sandbox, _disk }) = Tight::changed() else { return };
    kill_at(&sandbox, written + 1, &restore);
    // Each start gets one point further than the one before it; the last begins with the files changed.
    for number in [1, 3, 5, 6, 7, 2] {
        kill_at(&sandbox, number, &INIT);
    }

    sandbox.succeed(&INIT);

    assert_at_backup(&sandbox);
    drop(sandbox);
}

#[test]
fn a_disk_that_fills_up_in_the_middle_stops_it_until_there_is_room_again() {
    if !has_step_points() {
        return;
    }
    let restore = restore_of(&changed().name);
    let Some(first) = Tight::changed() else { return };
    let names = points(&first.sandbox, &restore);
    let number = names.iter().position(|name| name == "what is not in it removed").unwrap() + 1;
    drop(first);
    let Some(tight) = Tight::changed() else { return };
    let sandbox = &tight.sandbox;
    kill_at(sandbox, number, &restore);
    let ballast = tight.leave_free(1).unwrap();
    // The last parts of a megabyte.
    let mut rest = fs::File::create(sandbox.path().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}

    let told = sandbox.expect_status(&INIT, 1);

    assert!(told.contains("No space left on device"), "{told}");
    fs::remove_file(ballast).unwrap();
    sandbox.succeed(&INIT);
    // It was turned back, unless there was no room even to note that.
    if dump(sandbox) == changed().at_backup {
        assert_no_leftovers(sandbox);
    } else {
        assert_at_end(sandbox);
    }
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
}

/// Flips a byte in every part of the newest pack, where only what the newest backup brought is.
fn spoil_packs_newer_than(sandbox: &Sandbox, known: &[PathBuf]) {
    for pack in packs(sandbox).into_iter().filter(|pack| !known.contains(pack)) {
        let file = fs::OpenOptions::new().read(true).write(true).open(&pack).unwrap();
        // Its index is at the end.
        let length = file.metadata().unwrap().len().saturating_sub(64 * 1024);
        for offset in (100..length).step_by(500) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        }
    }
}

fn packs(sandbox: &Sandbox) -> Vec<PathBuf> {
    let directories = fs::read_dir(sandbox.backups().join("packs")).unwrap();
    directories
        .flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap())
        .map(|pack| pack.unwrap().path())
        .collect()
}

/// A server on a tight disk with a tablespace outside its data, whose newest backup has a table that the present state
/// has not; which packs are older than that backup.
fn with_tablespace() -> Option<(Tight, String, Vec<PathBuf>)> {
    if !has_postgresql() {
        return None;
    }
    let tight = Tight::copy_of(&Sandbox::with_backup(), FREE_AT_FIRST_MIB)?;
    let sandbox = &tight.sandbox;
    let known = packs(sandbox);
    sandbox.succeed(&INIT);
    let space = sandbox.path().join("space");
    fs::create_dir(&space).unwrap();
    run(Command::new("chown").arg("postgres:").arg(&space));
    sandbox.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    sandbox.sql("CREATE TABLE away TABLESPACE space AS SELECT generate_series(1, 5000) AS i");
    sandbox.sql(
        "CREATE TABLE random AS SELECT i, md5(i::text) AS a, md5((i + 1)::text) AS b FROM generate_series(1, 20000) AS i",
    );
    sandbox.succeed(&["backup-postgresql", "create"]);
    let name = sandbox.backup_names("data_").remove(0);
    sandbox.sql("DROP TABLE random; DELETE FROM away WHERE i > 100; DELETE FROM kept WHERE id > 10");
    Some((tight, name, known))
}

const FIGURES: &str =
    "SELECT (SELECT count(*) FROM away), (SELECT count(*) FROM kept), to_regclass('random')";

#[test]
fn tablespaces_come_inside_and_an_undo_brings_their_rows_back() {
    let Some((tight, name, _)) = with_tablespace() else { return };
    let sandbox = &tight.sandbox;

    let told = sandbox.succeed(&restore_of(&name));

    assert!(told.contains("is now in the data directory"), "{told}");
    assert_eq!(sandbox.sql(FIGURES), "5000|100|random");
    sandbox.succeed(&["backup-postgresql", "undo", "--yes"]);
    assert_eq!(sandbox.sql(FIGURES), "100|10|");
}

#[test]
fn a_damaged_backup_is_found_before_anything_changes() {
    let Some((tight, name, known)) = with_tablespace() else { return };
    let sandbox = &tight.sandbox;
    spoil_packs_newer_than(sandbox, &known);

    let told = sandbox.expect_status(&restore_of(&name), 4);

    assert!(told.contains("nothing was changed") && told.contains("is damaged at byte"), "{told}");
    assert_eq!(sandbox.sql(FIGURES), "100|10|");
    assert_no_leftovers(sandbox);
}

#[test]
fn a_backup_that_is_damaged_in_the_middle_lets_the_present_state_come_back() {
    if !has_step_points() {
        return;
    }
    let Some((tight, name, known)) = with_tablespace() else { return };
    let sandbox = &tight.sandbox;
    let older = packs(sandbox);
    sandbox.succeed(&["maintenance", "stop"]);
    fs::remove_file(sandbox.data().join(".pgbox/stopped")).unwrap();
    let link = fs::read_dir(sandbox.data().join("pg_tblspc")).unwrap().next().unwrap().unwrap().path();
    let target = fs::read_link(&link).unwrap();
    let number = number_of(sandbox, &name, "what is not in it removed");
    kill_at(sandbox, number, &restore_of(&name));
    assert!(!sandbox.data().join("global/pg_control").exists());
    let backup_only: Vec<PathBuf> = packs(sandbox).into_iter().filter(|pack| !older.contains(pack)).collect();
    spoil_packs_newer_than(sandbox, &[known, backup_only].concat());

    let told = sandbox.succeed(&INIT);

    assert!(told.contains("took back 'restore data_"), "{told}");
    assert_eq!(sandbox.sql(FIGURES), "100|10|");
    assert_eq!(fs::read_link(&link).unwrap(), target);
    assert_no_leftovers(sandbox);
}

/// The number of a point of a restore, by a run on a copy.
fn number_of(sandbox: &Sandbox, name: &str, point: &str) -> usize {
    let copy = Tight::copy_of(sandbox, FREE_MIB).unwrap();
    // Its tablespace is that of the original.
    let space = fs::read_dir(copy.sandbox.data().join("pg_tblspc")).unwrap().next();
    if let Some(link) = space {
        let link = link.unwrap().path();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(copy.sandbox.path().join("space"), &link).unwrap();
        run(Command::new("chown").arg("-h").arg("postgres:").arg(&link));
    }
    points(&copy.sandbox, &restore_of(name)).iter().position(|name| name == point).unwrap() + 1
}

#[test]
fn a_backup_that_does_not_serve_lets_the_present_state_come_back_killed_or_not() {
    let Some(tight) =
        (if has_postgresql() { Tight::copy_of(&Sandbox::with_backup(), FREE_AT_FIRST_MIB) } else { None })
    else {
        return;
    };
    let sandbox = &tight.sandbox;
    sandbox.succeed(&INIT);
    sandbox.sql("ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let name = sandbox.backup_names("data_").remove(0);
    sandbox.sql("ALTER SYSTEM RESET ALL");
    sandbox.sql("DELETE FROM kept WHERE id > 10");

    let told = sandbox.expect_status(&restore_of(&name), 1);

    assert!(told.contains("the data directory is as it was"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "10");
    assert_no_leftovers(sandbox);
    if !has_step_points() {
        return;
    }
    let list = sandbox.path().join("points");
    fs::write(&list, "").unwrap();
    run(Command::new("chmod").arg("666").arg(&list));
    tight.fill();
    let failed = sandbox.command(&restore_of(&name)).env("PGBOX_STEP_POINTS", &list).output().unwrap();
    assert!(!failed.status.success());
    let names: Vec<String> = fs::read_to_string(&list).unwrap().lines().map(str::to_owned).collect();
    let turned = names.iter().position(|name| name == "turned back").unwrap();
    let back = names.iter().position(|name| name == "the former cluster is back").unwrap();
    for index in (turned..=back).filter(|index| is_wanted(*index, 4)) {
        eprintln!("killed at point {}: {}", index + 1, names[index]);
        tight.fill();
        let killed =
            sandbox.command(&restore_of(&name)).env(KILL_AT, (index + 1).to_string()).output().unwrap();
        assert_eq!(killed.status.code(), None, "{}", printed(&killed));
        sandbox.succeed(&INIT);
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "10");
        assert_no_leftovers(sandbox);
    }
}

#[test]
fn after_a_crash_sizes_and_times_are_not_believed() {
    let Some(tight) = Tight::changed() else { return };
    let sandbox = &tight.sandbox;
    sandbox.succeed(&INIT);
    let resting = file_of(sandbox, "resting");
    sandbox.kill_server();
    // A page went bad, and neither size nor time tell.
    let time = fs::metadata(&resting).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&resting).unwrap();
    file.write_all_at(&[0x55; 4096], 3 * 8192 + 2048).unwrap();
    file.set_modified(time).unwrap();
    drop(file);

    sandbox.succeed(&restore_of(&changed().name));

    assert_at_backup(sandbox);
}

#[test]
fn what_the_present_data_rests_on_is_read_before_anything_changes() {
    // The newest backup has the present data, and went bad; the older one is restored.
    let Some(tight) =
        (if has_postgresql() { Tight::copy_of(&Sandbox::with_backup(), FREE_AT_FIRST_MIB) } else { None })
    else {
        return;
    };
    let sandbox = &tight.sandbox;
    let (known, older) = (packs(sandbox), sandbox.backup_names("data_").remove(0));
    sandbox.succeed(&INIT);
    sandbox.sql("CREATE TABLE later AS SELECT i, md5(i::text) AS text FROM generate_series(1, 20000) AS i");
    sandbox.succeed(&["backup-postgresql", "create"]);
    spoil_packs_newer_than(sandbox, &known);

    let told = sandbox.expect_status(&restore_of(&older), 4);

    assert!(told.contains("rests on a damaged backup"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM later"), "20000");
}

#[test]
fn with_room_beside_the_present_files_are_changed_where_most_of_them_are_the_same() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&INIT);
    sandbox.sql("CREATE TABLE large WITH (fillfactor = 10) AS SELECT i, md5(i::text) AS text FROM generate_series(1, 100000) AS i");
    // So that reading it changes none of its pages.
    sandbox.sql("VACUUM large");
    sandbox.succeed(&["backup-postgresql", "create"]);
    let name = sandbox.backup_names("data_").remove(0);
    sandbox.sql("UPDATE large SET text = '' WHERE i <= 1000");
    let inode = fs::metadata(file_of(&sandbox, "large")).unwrap().ino();
    let before = sandbox.listing();
    let shown = sandbox.succeed(&["backup-postgresql", "restore", &name, "--dry-run"]);
    assert!(shown.contains("the present files are changed: most of it is the same"), "{shown}");
    let full = sandbox.succeed(&["backup-postgresql", "restore", &name, "--dry-run", "--full"]);
    assert!(full.contains("every file is written, beside the present data"), "{full}");
    assert_eq!(sandbox.listing(), before);

    sandbox.succeed(&restore_of(&name));

    let query = "SELECT count(*), count(*) FILTER (WHERE text = '') FROM large";
    assert_eq!(sandbox.sql(query), "100000|0");
    assert_eq!(fs::metadata(file_of(&sandbox, "large")).unwrap().ino(), inode);
    let shown = sandbox.succeed(&["backup-postgresql", "undo", "--yes"]);
    assert!(shown.contains("into the present files: "), "{shown}");
    assert_eq!(sandbox.sql(query), "100000|1000");
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes", "--full"]);
    assert_eq!(sandbox.sql(query), "100000|0");
}
