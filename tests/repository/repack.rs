//! Repacking: what no backup needs is given back, and what one needs is never lost on the way.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use pgbox::repository::Repository;

use super::restored::restore;
use super::server::{Server, directory, give_to_server, has_postgresql, succeed};
use super::{back_up, repository};
use crate::support::sandbox::{Sandbox, printed};
use crate::support::small_disk::SmallDisk;

/// 10 MB that no compression makes smaller.
const FILL: &str = "CREATE EXTENSION IF NOT EXISTS pgcrypto; \
                    CREATE TABLE t AS SELECT gen_random_bytes(1000) AS b FROM generate_series(1, 10000)";

fn size_of(directory: &Path) -> u64 {
    let text = succeed(Command::new("du").args(["-s", "-b"]).arg(directory));
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_pack_of_which_little_is_needed_gives_way_to_a_small_one() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    back_up(&server, &repository);
    server.execute(FILL);
    let second = back_up(&server, &repository);
    server.execute("DROP TABLE t; CREATE TABLE kept AS SELECT i FROM generate_series(1, 1000) AS i");
    let third = back_up(&server, &repository);
    drop(server);
    let before = size_of(&repository.path().join("packs"));

    let lock = repository.lock_exclusively("a test").unwrap();
    repository.remove(&lock, second.name).unwrap();
    let report = repository.sweep(&lock).unwrap();

    assert!(report.repacked_packs >= 1 && report.freed_bytes > 9_000_000, "{report:?}");
    let after = size_of(&repository.path().join("packs"));
    assert!(before - after > 9_000_000, "{before} to {after}");
    assert_eq!(restore(&repository, third.name).start().value("SELECT count(*) FROM kept"), "1000");
    assert_eq!(repository.sweep(&lock).unwrap(), pgbox::repository::SweepReport::default());
}

#[test]
fn what_is_needed_moves_away_from_a_dictionary_that_is_not() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    server.execute("CREATE TABLE t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 200000) AS i");
    let first = back_up(&server, &repository);
    // The beginning of the table, with what the rest is compressed with, is another one now.
    server.execute("UPDATE t SET m = upper(m) WHERE i <= 150000; CHECKPOINT");
    let second = back_up(&server, &repository);
    let digest = "SELECT md5(string_agg(m, ',' ORDER BY i)) FROM t";
    let expected = server.value(digest);
    drop(server);

    let lock = repository.lock_exclusively("a test").unwrap();
    repository.remove(&lock, first.name).unwrap();
    let report = repository.sweep(&lock).unwrap();

    assert!(report.repacked_packs >= 1, "{report:?}");
    assert_eq!(restore(&repository, second.name).start().value(digest), expected);
}

#[test]
fn without_room_for_a_new_pack_nothing_moves_and_nothing_is_lost() {
    if !has_postgresql() {
        return;
    }
    let Some(disk) = SmallDisk::new("40M") else { return };
    let directory = directory();
    let server = Server::new(directory.path());
    let repository = Repository::open_or_create(disk.path(), None).unwrap();
    server.execute(FILL);
    let first = back_up(&server, &repository);
    server.execute("DROP TABLE t");
    let second = back_up(&server, &repository);
    drop(server);
    let free = succeed(Command::new("df").args(["--output=avail", "-B1"]).arg(disk.path()));
    let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
    // The damage: a file of somebody else that leaves half a megabyte.
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![1; usize::try_from(free - 500_000).unwrap()]).unwrap();

    let lock = repository.lock_exclusively("a test").unwrap();
    repository.remove(&lock, first.name).unwrap();
    let report = repository.sweep(&lock).unwrap();

    assert!(report.not_repacked_because.as_ref().unwrap().contains("for a while"), "{report:?}");
    assert_eq!(report.repacked_packs, 0);
    assert_eq!(restore(&repository, second.name).start().value("SELECT 1"), "1");
    fs::remove_file(filler).unwrap();
    assert!(repository.sweep(&lock).unwrap().repacked_packs > 0);
    assert_eq!(restore(&repository, second.name).start().value("SELECT 1"), "1");
}

#[test]
fn a_cleanup_killed_at_any_point_loses_nothing_and_the_next_one_ends_it() {
    if !crate::support::sandbox::has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql(FILL);
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox.sql("DROP TABLE t");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    sandbox.succeed(&["maintenance", "stop"]);
    let template = sandbox.backups();
    let cleanup = ["backup-postgresql", "cleanup", "--max-backups", "1"];
    let mut killed = 0;
    for point in 1..20 {
        let copy = sandbox.path().join(format!("copy{point}"));
        succeed(Command::new("cp").arg("-a").arg(&template).arg(&copy));
        give_to_server(&copy);
        sandbox.set("BACKUP_DIR", copy.to_str().unwrap());
        let output = sandbox.command(&cleanup).env("PGBOX_KILL_AT_STEP_POINT", point.to_string()).output();
        let output = output.unwrap();
        let was_killed = output.status.signal() == Some(9);
        assert!(was_killed || output.status.success(), "{}", printed(&output));

        let text = sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
        assert!(text.contains("  sound"), "{text}");
        sandbox.succeed(&cleanup);
        sandbox.succeed(&["backup-postgresql", "verify", "--all"]);

        assert!(size_of(&copy.join("packs")) < 6_000_000, "point {point}");
        let names = fs::read_dir(copy.join("packs")).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.filter(|name| name.to_string_lossy().ends_with(".tmp")).count(), 0);
        fs::remove_dir_all(&copy).unwrap();
        if !was_killed {
            break;
        }
        killed = point;
    }
    // Before the new pack has its name, after, and after each that went.
    assert!(killed >= 3, "{killed}");
}
