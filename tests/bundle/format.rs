//! What docs/FORMAT.md says is enough to restore a backup: a reader that knows nothing else does what pgbox does.

use super::export::with_everything;
use super::unpacked::empty_directory;
use crate::archive::{archive_now, archived};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use pgbox::execute::restore_files::restore_files;
use pgbox::progress::Silent;
use pgbox::repository::Repository;
use pgbox::sys::WriteRoot;
use std::path::Path;
use std::process::Command;

/// Every entry with its mode, length, time and content. The time of what a restore writes anew is its own.
fn listing(directory: &Path) -> String {
    let script = "find . -mindepth 1 -printf '%P %y %m %l ' \\( -type f ! -name postgresql.auto.conf -printf '%s %T@ ' \\) \
                  -printf '\\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum";
    run(Command::new("sh").args(["-c", script]).current_dir(directory))
}

/// The reader that knows docs/FORMAT.md and nothing else.
fn reader() -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundle/read_repository.py");
    let mut command = Command::new("python3");
    // Nothing is to be written beside the sources.
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
    command
}

/// Restores a backup by our own means.
fn restore_ours(sandbox: &Sandbox, key_file: Option<&Path>, name: &str, place: &Path) -> String {
    let ours = place.join("ours");
    std::fs::create_dir(&ours).unwrap();
    let repository = Repository::open(&sandbox.backups(), key_file).unwrap().unwrap();
    let root = WriteRoot::claim(&ours, None, "a test").unwrap();
    restore_files(&repository.reader(name.parse().unwrap()).unwrap(), &root, Path::new("new"), &Silent)
        .unwrap();
    listing(&ours.join("new"))
}

/// Whether some pack has chunks that are compressed with a dictionary.
fn has_dictionaries(sandbox: &Sandbox) -> bool {
    walkdir::WalkDir::new(sandbox.backups().join("packs")).into_iter().any(|entry| {
        let entry = entry.unwrap();
        let is_pack = entry.path().extension().is_some_and(|extension| extension == "pack");
        is_pack && {
            let bytes = std::fs::read(entry.path()).unwrap();
            bytes[bytes.len() - 56 + 12..][..4] != [0; 4]
        }
    })
}

#[test]
fn a_reader_by_the_document_and_the_key_alone_reads_an_encrypted_repository() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    let key_file = sandbox.path().join("key");
    std::fs::write(&key_file, "6a1f0c3e5b7d9f2846ace0135792468bdf13579bdf02468ace1122334455667f\n").unwrap();
    sandbox.set("BACKUP_KEY_FILE", key_file.to_str().unwrap());
    sandbox.succeed(&["init-postgresql"]);
    // More than one piece of 128 KiB when it is compressed.
    sandbox.sql("CREATE EXTENSION pgcrypto; CREATE TABLE t AS SELECT gen_random_bytes(1000) FROM generate_series(1, 300)");
    let segment = archive_now(&sandbox);
    let name = sandbox.backup_names("data_").remove(0);
    assert!(has_dictionaries(&sandbox));
    let place = empty_directory();

    let theirs = place.path().join("theirs");
    run(reader().arg(sandbox.backups()).arg(&name).arg(&theirs).arg(&key_file));
    let (theirs, ours) = (listing(&theirs), restore_ours(&sandbox, Some(&key_file), &name, place.path()));
    assert!(theirs == ours, "{theirs}\n---\n{ours}");

    let cluster = sandbox.sql("SELECT system_identifier FROM pg_control_system()");
    let stored = &archived(&sandbox, &segment)[0];
    let stored = sandbox.backups().join(format!("wal/{cluster}/00000001/{stored}"));
    assert!(stored.metadata().unwrap().len() > 2 * 131_072);
    let output = reader().arg(sandbox.backups()).arg("--wal").arg(&stored).arg(&key_file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout == std::fs::read(sandbox.data().join("pg_wal").join(segment)).unwrap());
}

#[test]
fn a_reader_by_the_document_alone_restores_what_pgbox_restores() {
    if !has_postgresql() {
        return;
    }
    let space = empty_directory();
    let sandbox = with_everything(space.path());
    std::os::unix::fs::symlink("/nowhere/server.crt", sandbox.data().join("server.crt")).unwrap();
    sandbox.sql("INSERT INTO large SELECT generate_series(1, 1000), 'later'");
    sandbox.succeed(&["backup-postgresql", "create", "--note", "a \"note\" with \\ and ü and\ttabs"]);
    let name = sandbox.backup_names("data_").remove(0);
    assert!(has_dictionaries(&sandbox));
    let place = empty_directory();

    let theirs = place.path().join("theirs");
    run(reader().arg(sandbox.backups()).arg(&name).arg(&theirs));

    let (theirs, ours) = (listing(&theirs), restore_ours(&sandbox, None, &name, place.path()));
    assert!(theirs.contains("pg_tblspc/") && theirs.contains("server.crt l "), "{theirs}");
    assert!(theirs == ours, "{theirs}\n---\n{ours}");
}
