//! Verification: whatever is damaged in a repository is found and named, and not restored from.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pgbox::plan::{BackupName, BackupSummary};
use pgbox::repository::{CHUNK_SIZE_BYTES, ChunkId, ChunkStream, EntryContent, Repository};
use serde_json::Value;

use crate::support::extent;
use crate::support::sandbox::{Sandbox, has_postgresql, printed};

/// Changes one byte, and says what it was.
fn exchange(path: &Path, offset: u64, change: impl Fn(u8) -> u8) -> u8 {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[change(byte[0])], offset).unwrap();
    byte[0]
}

pub(super) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn largest_pack(sandbox: &Sandbox) -> PathBuf {
    let packs = files_below(&sandbox.backups().join("packs"));
    packs.into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap()
}

pub(super) fn newest(sandbox: &Sandbox) -> String {
    sandbox.backup_names("data_").first().unwrap().clone()
}

/// The state that the list gives for a backup: `None` where it was never verified.
fn verification(sandbox: &Sandbox, name: &str) -> Option<Value> {
    let output = sandbox.output(&["backup-postgresql", "list", "--json"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let backup = list.as_array().unwrap().iter().find(|backup| backup["name"] == name).unwrap();
    backup.get("verification").cloned()
}

fn damage_count(sandbox: &Sandbox, name: &str) -> usize {
    verification(sandbox, name).unwrap()["damage"].as_array().unwrap().len()
}

#[test]
fn a_sound_backup_is_found_sound_and_the_list_and_health_say_so() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = newest(&sandbox);
    assert_eq!(verification(&sandbox, &name), None);

    let text = sandbox.succeed(&["backup-postgresql", "verify", "latest"]);

    assert!(text.contains(&format!("{name}  sound")), "{text}");
    assert_eq!(damage_count(&sandbox, &name), 0);
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("  sound 2"));
    let health = printed(&sandbox.output(&["maintenance", "health"]));
    assert!(health.contains(&format!("{name} was found sound 0 h ago")), "{health}");
}

#[test]
fn any_flipped_byte_of_a_repository_is_found_and_what_it_damages_is_not_restored() {
    if !has_postgresql() {
        return;
    }
    flip_bytes(&Sandbox::with_backup());
}

/// Flips bytes of every kind of file in a repository with one backup of 100 rows.
pub(super) fn flip_bytes(sandbox: &Sandbox) {
    let name = newest(sandbox);
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    // The damage: one bit of one byte at a time, in every kind of file, the same ones in each run.
    let places = if extent::is_all_wanted() { 60 } else { 4 };
    // The place that reading back has reached is part of no backup: without it, everything is read again.
    let is_part =
        |file: &&PathBuf| !["lock", "scrub.lock", "scrub.json"].iter().any(|name| file.ends_with(name));
    for file in files_below(&sandbox.backups()).iter().filter(is_part) {
        for place in 0..places {
            let size = fs::metadata(file).unwrap().len();
            let (offset, bit) = ((size - 1) * place / (places - 1), place % 8);
            // The line break at the end of a text may be another one.
            let offset = if offset == size - 1 && is_text(file) { offset - 1 } else { offset };
            let former = exchange(file, offset, |byte| byte ^ 1 << bit);
            let what = format!("bit {bit} of byte {offset} of {}", file.display());

            let output = sandbox.output(&["backup-postgresql", "verify", "--all"]);

            let text = printed(&output);
            if file.ends_with("verification.json") {
                // The verdict is reached anew, and is another text then.
                assert_eq!(output.status.code(), Some(0), "{what}:\n{text}");
                assert!(text.contains("could not be used"), "{what}:\n{text}");
                continue;
            }
            assert_eq!(output.status.code(), Some(4), "{what}:\n{text}");
            if text.contains("DAMAGED") {
                let refused = sandbox.output(&["backup-postgresql", "restore", &name, "--yes"]);
                assert_eq!(refused.status.code(), Some(6), "{what}:\n{}", printed(&refused));
                assert!(
                    !sandbox.output(&["backup-postgresql", "restore", "latest", "--yes"]).status.success()
                );
            }
            exchange(file, offset, |_| former);
        }
    }

    let text = sandbox.succeed(&["backup-postgresql", "verify", "--all"]);

    assert!(text.contains(&format!("{name}  sound")), "{text}");
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

fn is_text(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "json")
}

#[test]
fn lost_files_of_a_repository_are_damage() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = newest(&sandbox);
    let lost = [sandbox.backups().join(&name).join("files.zst"), largest_pack(&sandbox)];
    for file in lost {
        let kept = file.with_extension("kept");
        fs::rename(&file, &kept).unwrap();

        let text = sandbox.expect_status(&["backup-postgresql", "verify", &name], 4);

        assert!(text.contains(&format!("{name}  DAMAGED")), "{text}");
        fs::rename(&kept, &file).unwrap();
    }
    let text = sandbox.succeed(&["backup-postgresql", "verify", &name]);
    assert!(text.contains("is sound again; the former verdict is taken back"), "{text}");
}

#[test]
fn what_may_not_be_read_is_no_damage_and_leaves_the_verdict() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = newest(&sandbox);
    sandbox.succeed(&["backup-postgresql", "verify", &name]);
    let before = verification(&sandbox, &name);
    for file in [largest_pack(&sandbox), sandbox.backups().join(&name).join("files.zst")] {
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0);

        let text = sandbox.expect_status(&["backup-postgresql", "verify", &name], 1);

        assert!(text.contains("Permission denied") && !text.contains("amaged"), "{text}");
        mode(0o600);
        assert_eq!(verification(&sandbox, &name), before);
    }
}

#[test]
fn a_damaged_backup_gives_way_to_an_older_one_until_a_new_backup_has_stored_it_anew() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let first = newest(&sandbox);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 300000) AS i");
    sandbox.succeed(&["backup-postgresql", "create"]);
    let second = newest(&sandbox);
    let pack = largest_pack(&sandbox);
    exchange(&pack, fs::metadata(&pack).unwrap().len() / 2, |byte| byte ^ 0x10);

    let text = sandbox.expect_status(&["backup-postgresql", "verify", &second], 4);

    let id = pack.file_stem().unwrap().to_string_lossy().into_owned();
    assert!(text.contains(&id) && text.contains("it is part of base/"), "{text}");
    assert!(text.contains(".public.t)"), "{text}");
    let text = sandbox.succeed(&["backup-postgresql", "restore", "latest", "--dry-run"]);
    assert!(text.contains(&format!("restore {first}")), "{text}");
    let text = sandbox.expect_status(&["backup-postgresql", "restore", &second, "--yes"], 6);
    assert!(text.contains(&format!("{first} is good: restore that one")), "{text}");
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains(&format!("damaged: {second}")), "{health}");

    // Nothing changed; what makes it store anything is that the chunks are not relied on.
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let text = sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    assert!(text.contains(&format!("{second} is sound again")), "{text}");
    assert_eq!(damage_count(&sandbox, &newest(&sandbox)), 0);
    // Little of the damaged pack was needed still, and that moved.
    assert!(!pack.exists());
    sandbox.succeed(&["backup-postgresql", "restore", &second, "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*), max(length(md5)) FROM t"), "300000|32");
}

#[test]
fn a_backup_beside_the_verified_one_gets_the_verdict_that_it_shares() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let first = newest(&sandbox);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE t AS SELECT 1");
    sandbox.succeed(&["backup-postgresql", "create"]);
    let second = newest(&sandbox);
    let pack = largest_pack(&sandbox);
    exchange(&pack, fs::metadata(&pack).unwrap().len() / 2, |byte| byte ^ 0x10);

    sandbox.expect_status(&["backup-postgresql", "verify", &second], 4);

    let damaged: Vec<usize> = [&first, &second].iter().map(|name| damage_count(&sandbox, name)).collect();
    assert_eq!(damaged, [1, 1]);
}

#[test]
fn a_verification_that_is_killed_leaves_the_old_verdict_or_the_new_one() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = newest(&sandbox);
    for (number, is_kept) in [("1", false), ("2", true)] {
        let mut command = sandbox.command(&["backup-postgresql", "verify", &name]);
        let output = command.env("PGBOX_KILL_AT_STEP_POINT", number).output().unwrap();

        assert_eq!(output.status.code(), None, "{}", printed(&output));
        assert_eq!(verification(&sandbox, &name).is_some(), is_kept);
    }
    sandbox.succeed(&["backup-postgresql", "verify", &name]);
}

#[test]
fn backups_are_verified_while_others_read_and_not_while_somebody_writes() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let repository = Repository::open(&sandbox.backups(), None).unwrap().unwrap();

    let shared = repository.lock_shared("a mount").unwrap();
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    drop(shared);
    let exclusive = repository.lock_exclusively("a test").unwrap();
    let text = sandbox.expect_status(&["backup-postgresql", "verify", "--all"], 5);

    assert!(text.contains("a test"), "{text}");
    drop(exclusive);
}

/// Makes a backup of the same content but for one change to the chunks of its files.
fn forge(sandbox: &Sandbox, change: impl Fn(&str, &mut EntryContent, ChunkId) -> bool) -> String {
    let repository = Repository::open(&sandbox.backups(), None).unwrap().unwrap();
    let name: BackupName = newest(sandbox).parse().unwrap();
    let reader = repository.reader(name).unwrap();
    let writer = repository.begin(name).unwrap();
    let zeros = writer.store_chunk(&ChunkStream::default(), &vec![0; CHUNK_SIZE_BYTES]).unwrap();
    let mut entries = reader.entries().to_vec();
    entries.retain_mut(|entry| {
        let path = entry.path.to_string();
        change(&path, &mut entry.content, zeros)
    });
    let summary: BackupSummary = reader.summary().clone();
    writer.finish(reader.header().clone(), entries, summary).unwrap().name.to_string()
}

fn is_segment(path: &str) -> bool {
    path.strip_prefix("pg_wal/").is_some_and(|name| name.len() == 24)
}

#[test]
fn a_backup_without_the_wal_that_makes_it_consistent_is_damaged() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let lost = forge(&sandbox, |path, _, _| !is_segment(path));
    let broken = forge(&sandbox, |path, content, zeros| {
        if let (true, EntryContent::File { chunks, .. }) = (is_segment(path), content) {
            // Every chunk whole, and of another file: only the records tell.
            *chunks = vec![zeros; chunks.len()].into();
        }
        true
    });
    give_to_server(&sandbox);

    let text = sandbox.expect_status(&["backup-postgresql", "verify", &lost], 4);
    assert!(text.contains("is not in the backup, which needs it to become consistent"), "{text}");
    let text = sandbox.expect_status(&["backup-postgresql", "verify", &broken], 4);
    assert!(text.contains("its WAL does not lead from"), "{text}");
}

/// What the test wrote as root.
fn give_to_server(sandbox: &Sandbox) {
    super::server::give_to_server(&sandbox.backups());
}
