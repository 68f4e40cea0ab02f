//! What was made elsewhere: a cluster runs what is in it, a link leads where it wants, and a file may be no archive.

use crate::support::directory;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Lets the server's user read what is below a directory.
pub(super) fn let_everybody_read(place: &Path) {
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(place));
}

/// A bundle of the sandbox's backup, with a line more in its configuration and without the manifest that tells.
fn hostile_bundle(sandbox: &Sandbox, place: &Path, line: &str) -> String {
    let bundle = place.join("bundle.tar");
    sandbox.succeed(&["backup-postgresql", "export", "latest", bundle.to_str().unwrap()]);
    let unpacked = place.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar").arg("-xf").arg(&bundle).arg("-C").arg(&unpacked));
    fs::remove_file(unpacked.join("backup_manifest")).unwrap();
    let configuration = unpacked.join("postgresql.auto.conf");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("{text}\n{line}\n")).unwrap();
    run(Command::new("tar").arg("-cf").arg(&bundle).arg("-C").arg(&unpacked).arg("."));
    let_everybody_read(place);
    bundle.to_str().unwrap().to_owned()
}

#[test]
fn what_was_imported_is_run_after_a_word_only_and_without_what_its_configuration_loads() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let place = directory::make();
    // A server that takes such a line does not start.
    let bundle = hostile_bundle(
        &sandbox,
        place.path(),
        "local_preload_libraries = 'evil'\nsession_preload_libraries = '/evil'\nshared_preload_libraries = '/evil'",
    );
    sandbox.set("BACKUP_DIR", sandbox.path().join("other").to_str().unwrap());

    let told = sandbox.succeed(&["backup-postgresql", "import", &bundle]);

    assert!(told.contains("a cluster is a program"), "{told}");
    let name = sandbox.backup_names("data_").remove(0);
    assert!(sandbox.succeed(&["backup-postgresql", "show", &name]).contains("imported"));
    let into = place.path().join("copy");
    for arguments in [
        &["verify", &name, "--prove"][..],
        &["restore", &name],
        &["restore", &name, "--into", into.to_str().unwrap()],
    ] {
        let told = sandbox.expect_status(&[&["backup-postgresql"], arguments].concat(), 6);
        assert!(told.contains("a cluster is a program") && told.contains("--yes"), "{told}");
    }
    assert!(!into.exists());
    let told = sandbox.succeed(&["backup-postgresql", "verify", &name, "--prove", "--yes"]);
    assert!(told.contains("proved"), "{told}");
}

#[test]
fn nothing_of_a_file_that_is_no_archive_is_printed() {
    let sandbox = Sandbox::with_backup();
    let place = directory::make();
    let file = place.path().join("shadow");
    fs::write(&file, format!("root:$y$secret:{}", "x".repeat(2000))).unwrap();
    let_everybody_read(place.path());

    let output = sandbox.output(&["backup-postgresql", "import", file.to_str().unwrap()]);

    let told = printed(&output);
    assert!(!output.status.success() && told.contains("no tar archive"), "{told}");
    assert!(!told.contains("secret") && !told.contains("root:"), "{told}");
}

#[test]
fn nothing_of_a_file_that_holds_a_wrong_setting_is_printed() {
    let mut sandbox = Sandbox::empty();
    let file = sandbox.path().join("shadow");
    fs::write(&file, "root:$y$secret").unwrap();
    sandbox.set("POSTGRES_INITDB_ARGS_FILE", file.to_str().unwrap());
    fs::write(&file, "root:$y$secret 'unbalanced").unwrap();

    let told = sandbox.expect_status(&["maintenance", "status"], 2);

    assert!(told.contains("POSTGRES_INITDB_ARGS_FILE") && !told.contains("secret"), "{told}");
}

#[test]
fn a_link_that_leaves_the_tree_through_another_is_refused() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let place = directory::make();
    let bundle = hostile_bundle(&sandbox, place.path(), "");
    let unpacked = place.path().join("unpacked");
    fs::create_dir_all(unpacked.join("x/x/x")).unwrap();
    std::os::unix::fs::symlink("../../..", unpacked.join("x/x/x/d")).unwrap();
    std::os::unix::fs::symlink("x/x/x/d/../../etc/hostname", unpacked.join("e")).unwrap();
    run(Command::new("tar").arg("-cf").arg(&bundle).arg("-C").arg(&unpacked).arg("."));
    sandbox.set("BACKUP_DIR", sandbox.path().join("other").to_str().unwrap());

    let told = sandbox.expect_status(&["backup-postgresql", "import", &bundle], 6);

    assert!(told.contains("'e' is a symbolic link that leads out of it"), "{told}");
    assert!(sandbox.backup_names("").is_empty());
}

#[test]
fn a_function_beside_those_that_check_a_copy_neither_runs_nor_keeps_indexes_from_being_checked() {
    // The owner of the database makes a function with fewer arguments, where the extension is.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let mark = sandbox.path().join("log/called");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE EXTENSION amcheck SCHEMA public");
    let bait = format!(
        "CREATE FUNCTION public.verify_heapam(regclass, boolean, boolean) \
         RETURNS TABLE (blkno bigint, offnum int, attnum int, msg text) LANGUAGE plpgsql AS $$ BEGIN \
         COPY (SELECT 1) TO PROGRAM 'cat > {}'; END $$",
        mark.display()
    );
    run(sandbox.psql().args(["-U", "dbuser", "-v", "ON_ERROR_STOP=1", "-qc", &bait]));
    sandbox.succeed(&["backup-postgresql", "create"]);

    let told = sandbox.succeed(&["backup-postgresql", "verify", "latest", "--prove"]);

    assert!(told.contains("every index agrees with its table"), "{told}");
    assert!(!mark.exists(), "{told}");
}
