//! `backup-postgresql import`: of bundles and of what `pg_basebackup` writes, whole, cut, damaged and forged.

use super::export::{LARGE, path, with_everything};
use super::unpacked::{empty_directory, program};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use pgbox::repository::{Repository, TableEntry};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tar::{EntryType, Header};

/// A base backup of the sandbox's server, by PostgreSQL's own program.
fn base_backup(sandbox: &Sandbox, into: &Path, options: &[&str]) {
    let mut command = program("pg_basebackup");
    command.args(["-h", "/var/run/postgresql", "-U", "postgres", "-c", "fast", "-p", &sandbox.port(), "-D"]);
    run(command.arg(into).args(options));
}

#[test]
fn every_form_of_a_base_backup_is_imported_and_restored_with_all_rows() {
    if !has_postgresql() {
        return;
    }
    let (space, place) = (empty_directory(), empty_directory());
    let sandbox = with_everything(space.path());
    let large = sandbox.sql(LARGE);
    let mapping = format!("{}={}", space.path().display(), place.path().join("space").display());
    let plain = ["-X", "stream", "-T", &mapping, "--manifest-checksums=SHA256"];
    base_backup(&sandbox, &place.path().join("plain"), &plain);
    base_backup(&sandbox, &place.path().join("tar"), &["-X", "stream", "-F", "tar", "-z"]);
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();

    for source in [at("plain"), at("tar")] {
        sandbox.sql("DROP TABLE IF EXISTS far; TRUNCATE large");
        let output =
            sandbox.output(&["backup-postgresql", "import", &source, "--json", "--note", "from afar"]);
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let name = summary["name"].as_str().unwrap();
        assert!(output.status.success() && name.starts_with("data_"), "{summary}");
        assert_eq!((&summary["note"], &summary["timeline"].is_u64()), (&"from afar".into(), &true));
        assert!(summary["damaged_pages"].as_array().unwrap().is_empty(), "{summary}");

        sandbox.succeed(&["backup-postgresql", "restore", name, "--yes"]);

        assert_eq!(sandbox.sql(LARGE), large, "{source}");
        assert_eq!(sandbox.sql("SELECT sum(i) FROM far"), "500500", "{source}");
    }
}

/// Every file of the newest backup in a directory, with its chunks.
fn files(backups: &Path) -> Vec<serde_json::Value> {
    let repository = Repository::open(backups, None).unwrap().unwrap();
    let newest = repository.backups().unwrap().remove(0);
    let reader = repository.reader(newest.name).unwrap();
    let entries = reader.entries().iter().filter(|entry| entry.is_file());
    let facts = |entry: &TableEntry| serde_json::json!({ "path": entry.path, "content": entry.content });
    entries.map(facts).collect()
}

#[test]
fn a_bundle_comes_back_as_the_backup_that_it_was_made_of() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let original: serde_json::Value =
        serde_json::from_slice(&sandbox.output(&["backup-postgresql", "list", "--json"]).stdout).unwrap();
    for ending in ["tar", "tar.gz", "tar.zst"] {
        // A name that says nothing: the content does.
        let bundle = path(&sandbox, "bundle");
        sandbox.set("BACKUP_DIR", path(&sandbox, "backups"));
        sandbox.succeed(&["backup-postgresql", "export", "latest", &bundle, "--format", ending, "--force"]);
        let other = path(&sandbox, &format!("of-{ending}"));
        sandbox.set("BACKUP_DIR", &other);

        let output = sandbox.output(&["backup-postgresql", "import", &bundle, "--json"]);

        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for member in ["system_identifier", "start_lsn", "stop_lsn", "timeline", "size_bytes", "file_count"] {
            assert_eq!(summary[member], original[0][member], "{ending}: {member}");
        }
        assert!(files(Path::new(&other)) == files(&sandbox.backups()), "{ending}");
    }
}

#[test]
fn a_stream_is_imported_as_it_comes_and_has_the_time_and_the_lsns_of_its_label() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let script = format!(
        "{} -h /var/run/postgresql -U postgres -p {} -c fast -D - -F tar -X fetch | {} backup-postgresql import - --json",
        "/usr/lib/postgresql/15/bin/pg_basebackup",
        sandbox.port(),
        env!("CARGO_BIN_EXE_pgbox")
    );
    let mut shell = sandbox.command(&[]);
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", &script]);
    for (name, value) in shell.stdin(Stdio::null()).get_envs() {
        command.env(name, value.unwrap_or_default());
    }

    let summary: serde_json::Value = serde_json::from_str(&run(&mut command)).unwrap();

    let name = summary["name"].as_str().unwrap();
    let bundle = path(&sandbox, "bundle.tar");
    sandbox.succeed(&["backup-postgresql", "export", name, &bundle]);
    let label = run(Command::new("tar").args(["-xOf", &bundle, "backup_label"]));
    let start = summary["start_lsn"].as_str().unwrap();
    assert!(label.contains(&format!("START WAL LOCATION: {start} ")), "{label}");
    let time = label.lines().find_map(|line| line.strip_prefix("START TIME: ")).unwrap();
    let created = summary["created_at"].as_str().unwrap().replace('T', " ").replace('Z', " UTC");
    assert_eq!(created, time);
    assert_eq!(sandbox.backup_names("data_"), [name]);
}

/// A sandbox with a bundle of its backup, and another directory for backups, which is empty.
fn with_bundle() -> (Sandbox, Vec<u8>) {
    let mut sandbox = Sandbox::with_backup();
    let bundle = path(&sandbox, "bundle.tar");
    sandbox.succeed(&["backup-postgresql", "export", "latest", &bundle]);
    sandbox.set("BACKUP_DIR", path(&sandbox, "other"));
    (sandbox, fs::read(bundle).unwrap())
}

#[track_caller]
fn expect_refused(sandbox: &Sandbox, archive: &[u8], what: &str) -> String {
    let file = path(sandbox, "forged.tar");
    fs::write(&file, archive).unwrap();
    let output = sandbox.output(&["backup-postgresql", "import", &file]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{what}: {text}");
    assert_eq!(sandbox.backup_names(""), [""; 0], "{what}: {text}");
    // Nor does what was read of it take up any room.
    let packs = run(Command::new("find").arg(sandbox.path().join("other")).args([
        "-path",
        "*/packs/*",
        "-type",
        "f",
    ]));
    assert_eq!(packs, "", "{what}");
    text
}

/// The bundle with one more entry before its end.
fn with_entry(bundle: &[u8], name: &[u8], kind: EntryType, target: &str) -> Vec<u8> {
    let end = bundle.iter().rposition(|byte| *byte != 0).unwrap() / 512 * 512 + 512;
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_size(0);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    let mut archive = bundle[..end].to_vec();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(&[0; 1024]);
    archive
}

#[test]
fn an_archive_that_tries_to_leave_its_tree_is_refused_whole() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, bundle) = with_bundle();
    let regular = EntryType::Regular;
    for (name, kind, target, reason) in [
        (&b"../escaped"[..], regular, "", "is not a path below the data directory"),
        (b"base/../../escaped", regular, "", "is not a path below the data directory"),
        (b"/tmp/escaped", regular, "", "is not a path below the data directory"),
        (b"base//1", regular, "", "is not a path below the data directory"),
        (b"PG_VERSION", regular, "", "is in it twice"),
        (b"./PG_VERSION", regular, "", "is in it twice"),
        (b"server.key", EntryType::Symlink, "/etc/shadow", "leads out of it"),
        (b"log", EntryType::Symlink, "../outside", "leads out of it"),
        (b"hard", EntryType::Link, "PG_VERSION", "is a hard link"),
        (b"pipe", EntryType::Fifo, "", "is no file, directory or symbolic link"),
        (b"device", EntryType::Block, "", "is no file, directory or symbolic link"),
        (b"sparse", EntryType::GNUSparse, "", "is a sparse file"),
        (b"nowhere/file", regular, "", "is not in a directory"),
    ] {
        let text = expect_refused(
            &sandbox,
            &with_entry(&bundle, name, kind, target),
            &name.escape_ascii().to_string(),
        );
        assert!(text.contains(reason), "{}: {text}", name.escape_ascii());
    }
    // What lies below a link that is allowed by itself.
    let link = with_entry(&bundle, b"inside", EntryType::Symlink, "base");
    let text = expect_refused(&sandbox, &with_entry(&link, b"inside/1", regular, ""), "below a link");
    assert!(text.contains("is not in a directory"), "{text}");
}

#[test]
fn a_name_that_is_too_long_is_refused_before_it_is_read() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, bundle) = with_bundle();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(0);
    archive.append_data(&mut header, "d/".repeat(3000) + "x", std::io::empty()).unwrap();
    let mut forged = archive.into_inner().unwrap();
    forged.truncate(forged.len() - 1024);
    forged.extend_from_slice(&bundle);

    let text = expect_refused(&sandbox, &forged, "a long name");

    assert!(text.contains("more than 4,096 bytes"), "{text}");
}

#[test]
fn an_archive_that_is_cut_anywhere_or_is_none_is_refused() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, bundle) = with_bundle();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bundle).unwrap();
    let gzip = gzip.finish().unwrap();
    for part in [1, 3, 5, 7] {
        expect_refused(&sandbox, &bundle[..bundle.len() / 8 * part], "a cut archive");
        expect_refused(&sandbox, &gzip[..gzip.len() / 8 * part], "a cut gzip");
    }
    // The damage: the last entry, the manifest, and the mark at the end are gone, exactly between two entries.
    let manifest = bundle.windows(16).rposition(|bytes| bytes == b"backup_manifest\0").unwrap();
    expect_refused(&sandbox, &bundle[..manifest], "cut between two entries");
    for (archive, reason) in [
        (&b""[..], "cut short"),
        (b"no archive at all, but text that somebody wrote", "cut short"),
        (b"\x04\x22\x4D\x18....", "compressed with lz4"),
    ] {
        let text = expect_refused(&sandbox, archive, reason);
        assert!(text.contains(reason), "{text}");
    }
    sandbox.succeed(&["backup-postgresql", "import", &path(&sandbox, "bundle.tar")]);
}

/// Turns a byte of a file around.
fn flip(file: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

#[test]
fn damage_is_told_by_the_manifest_or_by_the_pages_and_missing_wal_is_refused() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let place = empty_directory();
    let at = |name: &str| place.path().join(name);
    base_backup(&sandbox, &at("with"), &[]);
    base_backup(&sandbox, &at("without"), &["--no-manifest"]);
    base_backup(&sandbox, &at("missing"), &["-X", "none"]);
    let kept = sandbox.sql("SELECT pg_relation_filepath('kept')");
    sandbox.set("BACKUP_DIR", path(&sandbox, "other"));
    let import = |name: &str, status| {
        let source = at(name);
        sandbox.expect_status(&["backup-postgresql", "import", source.to_str().unwrap()], status)
    };

    let text = import("missing", 6);
    assert!(text.contains("the WAL that makes it consistent is not whole in it"), "{text}");

    // The damage: a byte of a row of a table.
    flip(&at("with").join(&kept), 8000);
    let text = import("with", 6);
    assert!(
        text.contains(&format!("the CRC-32C of '{kept}' is not the one in its backup_manifest")),
        "{text}"
    );
    fs::remove_file(at("with").join(&kept)).unwrap();
    assert!(import("with", 6).contains("is in its backup_manifest, and not in it"));
    assert!(sandbox.backup_names("").is_empty());

    flip(&at("without").join(&kept), 8000);
    let text = import("without", 4);
    assert!(text.contains(&format!("block 0 of {kept}")), "{text}");
    assert_eq!(sandbox.backup_names("data_").len(), 1);
}

/// Copies a data directory between `pg_backup_start()` and `pg_backup_stop()`, as any program may.
fn copy_by_hand(sandbox: &Sandbox, into: &Path, meanwhile: impl FnOnce()) {
    let login = format!("host=/var/run/postgresql port={} user=postgres dbname=dbuser", sandbox.port());
    let mut session = postgres::Client::connect(&login, postgres::NoTls).unwrap();
    session.batch_execute("SELECT pg_backup_start('by hand', true)").unwrap();
    run(Command::new("cp").arg("-a").arg(sandbox.data()).arg(into));
    meanwhile();
    let row = session.query_one("SELECT labelfile FROM pg_backup_stop(false)", &[]).unwrap();
    let label: String = row.get(0);
    run(Command::new("cp").arg("-a").arg(sandbox.data().join("pg_wal")).arg(into));
    fs::write(into.join("backup_label"), label).unwrap();
    run(Command::new("chown").arg("-R").arg("postgres").arg(into));
}

#[test]
fn a_page_that_was_torn_while_it_was_copied_is_no_damage_if_the_wal_has_it_whole() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    for statement in
        ["CREATE TABLE torn AS SELECT 1 AS i", "CREATE TABLE still AS SELECT 1 AS i", "CHECKPOINT"]
    {
        sandbox.sql(statement);
    }
    let (torn, still) = (
        sandbox.sql("SELECT pg_relation_filepath('torn')"),
        sandbox.sql("SELECT pg_relation_filepath('still')"),
    );
    let place = empty_directory();
    let copy = place.path().join("copy");
    copy_by_hand(&sandbox, &copy, || drop(sandbox.sql("INSERT INTO torn VALUES (2)")));
    let import =
        |status| sandbox.expect_status(&["backup-postgresql", "import", copy.to_str().unwrap()], status);

    // The damage: a byte in the middle of a page that was written during the backup, then of one that was not.
    flip(&copy.join(&torn), 4000);
    import(0);
    let name = sandbox.backup_names("data_").remove(0);
    flip(&copy.join(&still), 4000);
    let text = import(4);

    assert!(text.contains(&format!("block 0 of {still}")) && !text.contains(&torn), "{text}");
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    assert_eq!(sandbox.sql("SELECT sum(i) FROM torn"), "3");
}

#[test]
fn an_import_that_is_killed_leaves_nothing_listed_and_can_be_made_again() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, bundle) = with_bundle();
    // An archive that does not end yet: the import waits for the rest of it.
    let mut import = sandbox.command(&["backup-postgresql", "import", "-"]);
    let mut import = import.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    import.stdin.as_mut().unwrap().write_all(&bundle[..bundle.len() / 2]).unwrap();
    let other = sandbox.path().join("other/packs");
    crate::support::wait::wait_until("a pack is being written", || {
        fs::read_dir(&other).is_ok_and(|mut entries| entries.next().is_some())
    });

    import.kill().unwrap();
    import.wait().unwrap();

    assert!(sandbox.backup_names("").is_empty());
    sandbox.succeed(&["backup-postgresql", "import", &path(&sandbox, "bundle.tar")]);
    assert_eq!(sandbox.backup_names("data_").len(), 1);
}
