//! Names of files in another encoding than UTF-8: they keep nothing from being done, and come back as they were.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where strays are made: at the top, in a directory of the server's, in a directory whose own name is no text.
const PLACES: [&[u8]; 3] = [b"caf\xe9.csv", b"base/1/caf\xe9", b"\xfcber/\xff\xfe.txt"];

fn place(data: &Path, name: &[u8]) -> PathBuf {
    data.join(OsStr::from_bytes(name))
}

/// Makes strays in a cluster that is at rest, one of them a link to another.
fn add_strays(sandbox: &Sandbox) {
    let data = sandbox.data();
    for name in PLACES {
        let path = place(&data, name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
    }
    symlink(OsStr::from_bytes(b"nowhere\xe9"), place(&data, b"link\xe9")).unwrap();
    run(Command::new("chown").args(["-hR", "postgres"]).arg(&data));
}

#[track_caller]
fn assert_has_strays(data: &Path) {
    for name in PLACES {
        assert_eq!(fs::read(place(data, name)).unwrap(), name);
    }
    let target = fs::read_link(place(data, b"link\xe9")).unwrap();
    assert_eq!(target.as_os_str().as_bytes(), b"nowhere\xe9");
}

#[rstest]
#[case::served_and_repaired("rmdir pg_notify; chmod 755 .")]
#[case::restored("rm pg_xact/0000; rm -f .pgbox/seal")]
fn a_stray_name_in_another_encoding_keeps_no_cluster_from_coming_back(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["maintenance", "stop"]);
    add_strays(&sandbox);
    run(Command::new("sh").args(["-euc", damage]).current_dir(sandbox.data()));

    sandbox.succeed(&["init-postgresql"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    if sandbox.data().join(OsStr::from_bytes(PLACES[0])).exists() {
        assert_has_strays(&sandbox.data());
    } else {
        // The backup is older than they are; they are kept with what it took the place of.
        assert_eq!(sandbox.backup_names("damaged_").len(), 1);
    }
    sandbox.succeed(&["maintenance", "check"]);
}

#[test]
fn names_in_another_encoding_are_backed_up_exported_imported_and_restored_as_they_are() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    add_strays(&sandbox);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["backup-postgresql", "create"]);
    let bundle = sandbox.path().join("bundle.tar.zst");
    sandbox.succeed(&["backup-postgresql", "verify", "latest"]);
    sandbox.succeed(&["backup-postgresql", "export", "latest", bundle.to_str().unwrap()]);
    for name in PLACES {
        fs::remove_file(place(&sandbox.data(), name)).unwrap();
    }
    fs::remove_file(place(&sandbox.data(), b"link\xe9")).unwrap();

    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);

    assert_has_strays(&sandbox.data());
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    let other = Sandbox::empty();
    other.succeed(&["backup-postgresql", "import", bundle.to_str().unwrap()]);
    other.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);
    assert_has_strays(&other.data());
}

#[test]
fn a_name_in_another_encoding_is_told_by_its_bytes() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    add_strays(&sandbox);
    fs::set_permissions(place(&sandbox.data(), PLACES[0]), fs::Permissions::from_mode(0o000)).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("caf\\xe9.csv"), "{told}");
}
