//! A repository with a key: the whole way with it, nothing to be read without it, and nothing to be put in its place.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgbox::repository::Repository;

use super::verify::{files_below, flip_bytes, newest};
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::wait::wait_until;

const KEY: &str = "6a1f0c3e5b7d9f2846ace0135792468bdf13579bdf02468ace1122334455667f";
const OTHER_KEY: &str = "00f0c3e5b7d9f2846ace0135792468bdf13579bdf02468ace1122334455667f1";
/// What no file of an encrypted repository may hold: a row, names of relations, fields of documents, paths, notes.
const SECRETS: [&str; 7] = [
    "Rumpelstiltskin",
    "kept_pkey",
    "pg_catalog",
    "stop_lsn",
    "damaged_packs",
    "base/1/",
    "before the flood",
];

/// A key file as the server's user can read it.
fn key_file(sandbox: &Sandbox, name: &str, key: &str) -> PathBuf {
    let path = sandbox.path().join(name);
    fs::write(&path, format!("{key}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    super::server::give_to_server(&path);
    path
}

fn set_key(sandbox: &mut Sandbox, name: &str, key: &str) {
    let path = key_file(sandbox, name, key);
    sandbox.set("BACKUP_KEY_FILE", path.to_str().unwrap());
}

/// A cluster with the table `kept` of 100 rows, and a repository that is encrypted with [`KEY`] and has a backup of it.
pub(super) fn with_key() -> Sandbox {
    let mut sandbox = Sandbox::without_backup();
    set_key(&mut sandbox, "key", KEY);
    sandbox.succeed(&["init-postgresql"]);
    sandbox
}

/// Does without the key from now on: an empty variable is as if it were not set.
fn forget_key(sandbox: &mut Sandbox) {
    sandbox.set("BACKUP_KEY_FILE", "");
}

fn archived_files(sandbox: &Sandbox) -> Vec<PathBuf> {
    let files = files_below(&sandbox.backups().join("wal"));
    files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "zst")).collect()
}

/// Ends the current segment and waits until it is archived.
fn archive_now(sandbox: &Sandbox) {
    let name = sandbox.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    sandbox.sql("SELECT pg_switch_wal()");
    wait_until("the segment is archived", || {
        archived_files(sandbox).iter().any(|file| file.to_string_lossy().contains(&name))
    });
}

#[test]
fn the_whole_way_goes_with_a_key_as_it_goes_without() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_key();
    sandbox.sql("CREATE TABLE large AS SELECT i, md5(i::text) FROM generate_series(1, 100000) AS i");
    sandbox.succeed(&["backup-postgresql", "create", "--note", "before the flood"]);
    let second = newest(&sandbox);
    assert!(sandbox.succeed(&["backup-postgresql", "create"]).contains("nothing changed since"));
    let text = sandbox.succeed(&["backup-postgresql", "verify", "--all", "--prove"]);
    assert!(text.contains(&format!("proved {second}")), "{text}");
    assert!(sandbox.succeed(&["backup-postgresql", "show", "latest"]).contains("before the flood"));
    sandbox.succeed(&["backup-postgresql", "pin", &second, "--note", "keep"]);
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("complete, pinned"));
    sandbox.succeed(&["backup-postgresql", "unpin", &second]);

    // Cleanup moves what is still needed of a pack that is mostly not.
    sandbox.sql("DROP TABLE large");
    sandbox.set("MAX_BACKUPS", "1");
    sandbox.succeed(&["backup-postgresql", "create"]);
    // The newest one that was verified is kept besides.
    sandbox.succeed(&["backup-postgresql", "verify", "latest"]);
    let told = sandbox.succeed(&["backup-postgresql", "cleanup"]);
    assert!(told.contains("repacked 1 pack"), "{told}");
    assert_eq!(sandbox.backup_names("data_").len(), 1);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);

    // Recovery from the archive, after a loss of everything.
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    archive_now(&sandbox);
    sandbox.kill_server();
    run(Command::new("sh").args(["-c", "rm -rf base global pg_xact pg_wal/*"]).current_dir(sandbox.data()));
    let told = sandbox.succeed(&["init-postgresql"]);
    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "150|150", "{told}");
    assert!(sandbox.backup_names("damaged_").len() == 1, "what was damaged is in the repository");

    // A bundle is plain, and comes back from another place.
    let bundle = sandbox.path().join("bundle.tar.gz");
    sandbox.succeed(&["backup-postgresql", "export", "latest", bundle.to_str().unwrap()]);
    sandbox.succeed(&["backup-postgresql", "import", bundle.to_str().unwrap(), "--note", "imported"]);
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "150|150");
    sandbox.succeed(&["backup-postgresql", "undo", "--yes"]);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    assert!(found_secrets(&sandbox.backups()).is_empty());
}

/// The file's bytes, and what every zstd frame in it holds.
fn unpacked(file: &Path) -> Vec<u8> {
    const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let bytes = fs::read(file).unwrap();
    let mut all = bytes.clone();
    for offset in (0..bytes.len()).filter(|offset| bytes[*offset..].starts_with(&FRAME)) {
        if let Ok(decoder) = zstd::Decoder::new(&bytes[offset..]) {
            // What is no frame after all ends in an error; what came before it counts.
            let _ = std::io::copy(&mut decoder.single_frame(), &mut all);
        }
    }
    all
}

/// Which secrets can be read in any file of a repository, its locks apart.
fn found_secrets(backups: &Path) -> Vec<&'static str> {
    let mut all = tempfile::NamedTempFile::new().unwrap();
    for file in files_below(backups).into_iter().filter(|file| !file.ends_with("lock")) {
        all.write_all(&unpacked(&file)).unwrap();
    }
    let is_found = |secret: &&str| {
        let mut grep = Command::new("grep");
        grep.args(["--quiet", "--text", "--fixed-strings", "-e", secret]).arg(all.path());
        grep.status().unwrap().success()
    };
    SECRETS.into_iter().filter(is_found).collect()
}

/// A backup with a note and a verdict, a pin, and archived WAL, of rows that are secret.
fn fill(sandbox: &Sandbox) {
    sandbox.sql(
        "CREATE TABLE secret AS SELECT 'Rumpelstiltskin ' || i AS name FROM generate_series(1, 1000) AS i",
    );
    archive_now(sandbox);
    sandbox.succeed(&["backup-postgresql", "create", "--note", "before the flood"]);
    sandbox
        .sql("INSERT INTO secret SELECT 'Rumpelstiltskin ' || i AS name FROM generate_series(1, 1000) AS i");
    archive_now(sandbox);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    sandbox.succeed(&["backup-postgresql", "pin", "latest", "--note", "before the flood"]);
}

#[test]
fn without_the_key_nothing_can_be_read_that_can_be_read_in_a_plain_repository() {
    if !has_postgresql() {
        return;
    }
    let (plain, encrypted) = (Sandbox::without_backup(), with_key());
    plain.succeed(&["init-postgresql"]);
    fill(&plain);
    fill(&encrypted);

    assert_eq!(found_secrets(&plain.backups()), SECRETS);
    assert_eq!(found_secrets(&encrypted.backups()), [""; 0]);

    // Names are no hashes that whoever guesses a content could compute.
    let version = fs::read(plain.data().join("PG_VERSION")).unwrap();
    let guessed = blake3::hash(&version);
    let knows = |sandbox: &Sandbox| {
        let packs = files_below(&sandbox.backups().join("packs"));
        let has =
            |pack: &PathBuf| fs::read(pack).unwrap().windows(32).any(|bytes| bytes == guessed.as_bytes());
        packs.iter().any(has)
    };
    assert!(knows(&plain) && !knows(&encrypted));
    for (sandbox, is_hash) in [(&plain, true), (&encrypted, false)] {
        let file = archived_files(sandbox).pop().unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let (segment, hash) = name.split_once('-').unwrap();
        let content = fs::read(sandbox.data().join("pg_wal").join(segment)).unwrap();
        assert_eq!(blake3::hash(&content).to_hex().as_str() == hash, is_hash, "{name}");
    }
}

#[test]
fn any_flipped_byte_of_an_encrypted_repository_is_found_and_what_it_damages_is_not_restored() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_key();
    sandbox.succeed(&["maintenance", "stop"]);
    flip_bytes(&sandbox);
}

#[test]
fn a_damaged_or_lost_file_with_the_wrapped_key_is_found_and_made_again_from_the_other() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_key();
    let names = ["repository.json", "repository.json.copy"];
    let path = |name: &str| sandbox.backups().join(name);
    let text = fs::read(path(names[0])).unwrap();
    assert_eq!(fs::read(path(names[1])).unwrap(), text);
    for name in names {
        for is_lost in [true, false] {
            if is_lost {
                fs::remove_file(path(name)).unwrap();
            } else {
                fs::write(path(name), &text[..90]).unwrap();
            }

            let told = sandbox.expect_status(&["backup-postgresql", "verify", "--all"], 4);
            assert!(told.contains(&format!("{name}' is ")), "{told}");
            assert!(!told.contains("DAMAGED"), "{told}");

            sandbox.succeed(&["backup-postgresql", "create", "--force"]);
            assert!(names.iter().all(|name| fs::read(path(name)).unwrap() == text));
            sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
        }
    }
}

#[test]
fn what_is_put_in_the_place_of_something_else_is_found() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_key();
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    archive_now(&sandbox);
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox.sql("INSERT INTO kept VALUES (1001)");
    archive_now(&sandbox);
    sandbox.sql("INSERT INTO kept VALUES (1002)");
    archive_now(&sandbox);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    let names = sandbox.backup_names("data_");
    let [new, old] = [0, 1].map(|number| sandbox.backups().join(&names[number]));

    // An old backup under the name of the newest one.
    for file in ["backup.json", "files.zst"] {
        exchange(&old.join(file), &new.join(file));
    }
    let told = sandbox.succeed(&["backup-postgresql", "list"]);
    assert_eq!(told.matches("cannot be decrypted").count(), 2, "{told}");
    sandbox.expect_status(&["backup-postgresql", "verify", "--all"], 4);
    for file in ["backup.json", "files.zst"] {
        exchange(&old.join(file), &new.join(file));
    }
    // A whole backup under another name, such as one that makes it the newest.
    let renamed = sandbox.backups().join("data_20991231_235959");
    fs::rename(&old, &renamed).unwrap();
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("cannot be decrypted"));
    fs::rename(&renamed, &old).unwrap();
    // A verdict on another backup.
    exchange(&old.join("verification.json"), &new.join("verification.json"));
    let told = sandbox.succeed(&["backup-postgresql", "list"]);
    assert_eq!(told.matches("verdict unreadable").count(), 2, "{told}");
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    // One WAL file's content under another one's name.
    let segments = archived_files(&sandbox);
    let [one, other] = [&segments[segments.len() - 2], &segments[segments.len() - 1]];
    exchange(one, other);
    let told = sandbox.expect_status(&["backup-postgresql", "verify", "--all"], 4);
    assert_eq!(told.matches("is damaged: ").count(), 2, "{told}");
    exchange(one, other);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    // A copy such as the old scripts made, which would be restored without a key.
    sandbox.succeed(&["maintenance", "stop"]);
    let planted = sandbox.backups().join("data_20991231_235959");
    run(Command::new("cp").arg("-a").arg(sandbox.data()).arg(&planted));
    let told = sandbox.succeed(&["backup-postgresql", "list"]);
    assert!(told.contains("a plain copy, which nothing in an encrypted repository is"), "{told}");
    sandbox.expect_status(&["backup-postgresql", "restore", "data_20991231_235959", "--yes"], 6);
}

fn exchange(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(&aside, other).unwrap();
}

/// Every file of a repository but its locks, which tell who looked last.
fn contents(backups: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_below(backups).into_iter().filter(|file| !file.ends_with("lock"));
    files.map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

#[test]
fn a_sound_cluster_starts_without_the_key_and_says_that_no_backup_is_made() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_key();
    let name = newest(&sandbox);
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.succeed(&["maintenance", "stop"]);
    let before = contents(&sandbox.backups());
    let missing = sandbox.path().join("missing").to_str().unwrap().to_owned();
    let other = key_file(&sandbox, "other", OTHER_KEY).to_str().unwrap().to_owned();
    let no_key = sandbox.path().join("no-key");
    fs::write(&no_key, "correct horse battery staple").unwrap();
    let no_key = no_key.to_str().unwrap().to_owned();
    for (file, reason, status) in [
        (String::new(), "is encrypted, and no key is set", 6),
        (other, "is encrypted with another key than the one in", 6),
        (missing, "could not read the key file", 2),
        (no_key, "must hold one line of 64 hexadecimal digits", 2),
    ] {
        sandbox.set("BACKUP_KEY_FILE", file);

        let told = sandbox.succeed(&["init-postgresql"]);

        assert!(told.contains(reason) && told.contains("no backup was made"), "{told}");
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
        assert!(!told.contains(KEY) && !told.contains("correct horse"), "{told}");
        let health = sandbox.expect_status(&["maintenance", "health"], 1);
        assert!(health.contains(reason) && health.contains("hint: backup-age: "), "{health}");
        let told = sandbox.expect_status(&["backup-postgresql", "list"], status);
        assert!(
            told.contains(&name) && told.contains("it is encrypted") && told.contains("hint: "),
            "{told}"
        );
        for command in
            [["restore", "latest"], ["verify", "--all"], ["cleanup", "--dry-run"], ["show", "latest"]]
        {
            let told = sandbox.expect_status(&["backup-postgresql", command[0], command[1]], status);
            assert!(told.contains(reason), "{told}");
        }
        sandbox.succeed(&["maintenance", "stop"]);
        assert!(contents(&sandbox.backups()) == before);
    }
}

#[test]
fn a_damaged_cluster_is_left_as_it_is_while_the_key_to_its_backups_is_missing() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_key();
    sandbox.kill_server();
    run(Command::new("sh").args(["-c", "rm -rf base global pg_xact pg_wal/*"]).current_dir(sandbox.data()));
    let (before, key) = (sandbox.listing(), sandbox.path().join("key"));
    let kept = contents(&sandbox.backups());
    let other = key_file(&sandbox, "other", OTHER_KEY);
    for file in [Path::new(""), &other] {
        sandbox.set("BACKUP_KEY_FILE", file.to_str().unwrap());

        let told = sandbox.expect_status(&["init-postgresql"], 6);

        assert!(told.contains("is encrypted") && told.contains("hint: set BACKUP_KEY_FILE"), "{told}");
        assert_eq!(sandbox.listing(), before);
        assert!(contents(&sandbox.backups()) == kept);
    }
    sandbox.set("BACKUP_KEY_FILE", key.to_str().unwrap());
    sandbox.succeed(&["init-postgresql"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn wal_waits_for_its_key_and_is_never_archived_in_the_open() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_key();
    sandbox.succeed(&["maintenance", "stop"]);
    forget_key(&mut sandbox);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let before = archived_files(&sandbox);
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.sql("SELECT pg_switch_wal()");
    wait_until("archiving failed", || {
        sandbox
            .sql("SELECT pg_stat_clear_snapshot(); SELECT failed_count > 0 FROM pg_stat_archiver")
            .ends_with('t')
    });
    assert_eq!(archived_files(&sandbox), before);
    let log = fs::read_to_string(sandbox.path().join("log/postgresql.log")).unwrap();
    assert!(log.contains("is encrypted, and no key is set"), "{log}");

    sandbox.succeed(&["maintenance", "stop"]);
    let key = sandbox.path().join("key");
    sandbox.set("BACKUP_KEY_FILE", key.to_str().unwrap());
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    wait_until("what waited is archived", || archived_files(&sandbox).len() > before.len());
    let command = sandbox.sql("SHOW archive_command");
    assert!(command.contains("--backup-key-file=") && !command.contains(KEY), "{command}");
}

#[test]
fn a_key_for_a_plain_repository_is_refused_and_nothing_is_written() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let before = contents(&sandbox.backups());
    assert!(!sandbox.backups().join("repository.json.copy").exists());
    set_key(&mut sandbox, "key", KEY);

    let told = sandbox.succeed(&["init-postgresql"]);

    assert!(
        told.contains("a key is set, and the backups in") && told.contains("are not encrypted"),
        "{told}"
    );
    let told = sandbox.expect_status(&["backup-postgresql", "create"], 6);
    assert!(told.contains("set BACKUP_DIR to an empty directory"), "{told}");
    assert!(contents(&sandbox.backups()) == before);

    // Backups of the old scripts are plain, too, and a new directory is not.
    let place = sandbox.path().join("elsewhere");
    fs::create_dir_all(place.join("data_20260101_000000")).unwrap();
    fs::write(place.join("data_20260101_000000/PG_VERSION"), "15\n").unwrap();
    super::server::give_to_server(&place);
    sandbox.set("BACKUP_DIR", place.to_str().unwrap());
    sandbox.expect_status(&["backup-postgresql", "create"], 6);
    assert!(!place.join("repository.json").exists());
    sandbox.set("BACKUP_DIR", sandbox.path().join("new").to_str().unwrap());
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
}

#[test]
fn a_key_that_everybody_may_read_is_a_warning_and_no_refusal() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_key();
    let health = printed(&sandbox.output(&["maintenance", "health"]));
    assert!(health.contains("backups are encrypted with the key in"), "{health}");
    // As Kubernetes mounts a secret: a symlink to a file that everybody may read.
    let (file, link) = (sandbox.path().join("..data"), sandbox.path().join("secret"));
    fs::write(&file, KEY).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink("..data", &link).unwrap();
    sandbox.set("BACKUP_KEY_FILE", link.to_str().unwrap());

    let health = printed(&sandbox.output(&["maintenance", "health"]));

    assert!(health.contains("everybody on this machine may read") && health.contains("/secret'"), "{health}");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
}

#[test]
fn a_program_is_asked_for_the_key_by_the_library_too() {
    let directory = crate::support::directory::make();
    let (place, key) = (directory.path().join("backups"), directory.path().join("key"));
    fs::write(&key, KEY).unwrap();
    Repository::open_or_create(&place, Some(&key)).unwrap();

    assert!(Repository::open(&place, None).unwrap_err().is_about_key());
    assert!(Repository::open_or_create(&place, None).unwrap_err().is_about_key());
    assert!(Repository::open(&place, Some(&key)).unwrap().is_some());
    // Killed between the two files that a new repository begins with.
    fs::remove_file(place.join("repository.json")).unwrap();
    assert!(Repository::open(&place, Some(&key)).unwrap().is_some());
    assert!(Repository::open_or_create(&place, None).unwrap_err().is_about_key());
}
