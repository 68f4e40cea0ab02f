//! What docs/FORMAT.md says is enough to restore a backup: a reader that knows nothing else does what pgbox does.

use super::export::with_everything;
use super::unpacked::empty_directory;
use crate::support::sandbox::{has_postgresql, run};
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
    let place = empty_directory();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundle/read_repository.py");
    let theirs = place.path().join("theirs");
    run(Command::new("python3").arg(script).arg(sandbox.backups()).arg(&name).arg(&theirs));

    let ours = place.path().join("ours");
    std::fs::create_dir(&ours).unwrap();
    let repository = Repository::open(&sandbox.backups(), None).unwrap().unwrap();
    let root = WriteRoot::claim(&ours, None, "a test").unwrap();
    restore_files(&repository.reader(name.parse().unwrap()).unwrap(), &root, Path::new("new"), &Silent)
        .unwrap();
    let (theirs, ours) = (listing(&theirs), listing(&ours.join("new")));
    assert!(theirs.contains("pg_tblspc/") && theirs.contains("server.crt l "), "{theirs}");
    assert!(theirs == ours, "{theirs}\n---\n{ours}");
}
