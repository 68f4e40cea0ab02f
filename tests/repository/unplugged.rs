//! A repository whose disk is unplugged between any two steps: the command ends by itself and says so, the server serves
//! on, and when the disk is back nothing that was there is harmed and the next run goes on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgbox::plan::BackupSummary;
use pgbox::repository::Repository;

use super::delta::{Tight, assert_at_backup, assert_at_end, changed, restore_of};
use super::killed::{
    Stored, add_rows, assert_all_read, assert_is_much, has_left_overs, points_of_create, renew,
    with_much_to_clean_up,
};
use crate::archive::archive_now;
use crate::support::extent::is_wanted;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{has_step_points, pause_at, points};
use crate::support::unpluggable_disk::UnpluggableDisk;

const CREATE: [&str; 2] = ["backup-postgresql", "create"];
const CLEANUP: [&str; 2] = ["backup-postgresql", "cleanup"];
const INIT: [&str; 2] = ["init-postgresql", "--no-backup"];
const VERIFY: [&str; 3] = ["backup-postgresql", "verify", "--all"];

/// A sandbox whose backups are on a disk that can be unplugged.
struct Scene {
    // It has to be gone before the sandbox's directory is removed.
    disk: UnpluggableDisk,
    sandbox: Sandbox,
}

impl Scene {
    fn of(mut sandbox: Sandbox) -> Option<Self> {
        let disk = UnpluggableDisk::new(&sandbox.backups(), &sandbox.path().join("disk"))?;
        sandbox.set("BACKUP_DIR", disk.path().display().to_string());
        sandbox.set("MAX_BACKUPS", "100");
        // What is read back before a backup is more each time, and the points are counted.
        sandbox.set("SCRUB_INTERVAL", "off");
        Some(Self { disk, sandbox })
    }

    /// A stopped cluster and a backup of it.
    fn new() -> Option<Self> {
        if !has_postgresql() || !has_step_points() {
            return None;
        }
        Self::of(Sandbox::with_backup())
    }

    /// Runs a command, with the disk unplugged at one of its points. What it printed is looked at.
    fn unplug_at(&mut self, number: usize, arguments: &[&str]) -> (Output, String) {
        let Self { disk, sandbox } = self;
        let (output, ()) = pause_at(sandbox, number, arguments, || disk.unplug());
        let text = printed(&output);
        assert!(output.status.code().is_some() && !text.contains("panicked"), "point {number}: {text}");
        if !output.status.success() {
            assert_eq!(output.status.code(), Some(1), "point {number}: {text}");
            assert!(text.contains(&self.disk.path().display().to_string()), "point {number}: {text}");
            assert!(text.contains("its file system is gone"), "point {number}: {text}");
        }
        (output, text)
    }

    /// Everything that is listed, all of which can be read.
    fn read_all(&self) -> Vec<BackupSummary> {
        assert_all_read(&Repository::open(self.disk.backing(), None).unwrap().unwrap())
    }
}

#[test]
fn at_any_step_of_a_create_the_server_serves_on_and_the_next_one_is_whole() {
    let Some(mut scene) = Scene::new() else { return };
    scene.sandbox.succeed(&INIT);
    scene.sandbox.sql("CREATE TABLE later (round int, text text)");
    add_rows(&scene.sandbox, 0);
    let count = points_of_create(&scene.sandbox).len();
    let postmaster = scene.sandbox.postmaster();
    for number in 1..=count {
        let before = scene.read_all().len();
        add_rows(&scene.sandbox, number);

        let (output, text) = scene.unplug_at(number, &CREATE);

        let is_last = number == count;
        assert!(!output.status.success(), "point {number}: {text}");
        assert_eq!(text.contains("backed up"), is_last, "point {number}: {text}");
        assert_eq!(scene.sandbox.sql("SELECT count(DISTINCT round) FROM later"), (number + 1).to_string());
        scene.disk.plug_in();
        assert_eq!(scene.read_all().len(), before + usize::from(is_last), "point {number}");
        if !is_last {
            scene.sandbox.succeed(&CREATE);
            assert_eq!(scene.read_all().len(), before + 1);
        }
    }
    assert_eq!(scene.sandbox.postmaster(), postmaster);
    assert_eq!(scene.sandbox.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    add_rows(&scene.sandbox, count + 1);
    scene.sandbox.succeed(&CREATE);
    assert!(!has_left_overs(scene.disk.backing()));
    scene.sandbox.succeed(&VERIFY);
}

#[test]
fn without_the_disk_every_command_says_so_and_the_server_is_told_of_all_the_same() {
    let Some(mut scene) = Scene::new() else { return };
    scene.sandbox.succeed(&INIT);
    scene.disk.unplug();
    let restore = ["backup-postgresql", "restore", "latest", "--yes"];
    let list = ["backup-postgresql", "list"];
    for command in [CREATE.as_slice(), &CLEANUP, &VERIFY, &restore, &list] {
        let told = scene.sandbox.expect_status(command, 1);
        assert!(told.contains("its file system is gone"), "{command:?}: {told}");
        assert!(told.contains("disk/repository.json'"), "{command:?}: {told}");
    }

    let status = scene.sandbox.succeed(&["maintenance", "status"]);
    let health = scene.sandbox.expect_status(&["maintenance", "health"], 1);

    assert!(status.contains("runs (process") && status.contains("could not open the backups in"), "{status}");
    assert!(health.contains("backup-age    ISSUE") && health.contains("mount it again"), "{health}");
    assert_eq!(scene.sandbox.sql("SELECT count(*) FROM kept"), "100");
    // It starts again, too: what needs no backup does not wait for them.
    scene.sandbox.succeed(&["maintenance", "restart"]);
    assert_eq!(scene.sandbox.sql("SELECT count(*) FROM kept"), "100");
    scene.disk.plug_in();
    scene.sandbox.sql("INSERT INTO kept VALUES (101)");
    scene.sandbox.succeed(&CREATE);
    scene.sandbox.succeed(&VERIFY);
}

#[test]
fn at_any_step_of_a_cleanup_no_backup_that_is_listed_has_lost_anything() {
    let Some(mut scene) = Scene::new() else { return };
    let template = with_much_to_clean_up(Stored::Plain);
    let renew = |disk: &UnpluggableDisk| renew(disk.backing(), &template.backups());
    scene.sandbox.set("PGDATA", template.data().display().to_string());
    scene.sandbox.set("MAX_BACKUPS", "1");
    renew(&scene.disk);
    let names = points(&scene.sandbox, &CLEANUP);
    assert_is_much(&names);
    for number in (1..=names.len()).filter(|number| is_wanted(*number, 3)) {
        renew(&scene.disk);
        let newest = scene.read_all().first().unwrap().name;

        let (output, text) = scene.unplug_at(number, &CLEANUP);

        assert!(!output.status.success() || number == names.len(), "point {number}: {text}");
        scene.disk.plug_in();
        assert_eq!(scene.read_all().first().unwrap().name, newest, "point {number}: {text}");
        scene.sandbox.succeed(&CLEANUP);
        assert_eq!(scene.read_all().len(), 1, "point {number}");
        assert!(!has_left_overs(scene.disk.backing()));
        scene.sandbox.succeed(&VERIFY);
    }
}

#[test]
fn at_any_step_of_a_verification_nothing_is_called_damaged() {
    let Some(mut scene) = Scene::new() else { return };
    scene.sandbox.succeed(&INIT);
    archive_now(&scene.sandbox);
    let prove = ["backup-postgresql", "verify", "--prove", "latest"];
    for (command, one_in) in [(VERIFY.as_slice(), 1), (&prove, 3)] {
        let count = points(&scene.sandbox, command).len();
        for number in (1..=count).filter(|number| is_wanted(*number, one_in)) {
            let (output, text) = scene.unplug_at(number, command);

            assert!(!output.status.success(), "point {number}: {text}");
            assert!(
                !text.contains("is damaged") && !text.contains("could not be proven"),
                "{number}: {text}"
            );
            scene.disk.plug_in();
            let list = scene.sandbox.succeed(&["backup-postgresql", "list"]);
            assert!(!list.contains("DAMAGED") && !list.contains("NOT PROVEN"), "{list}");
        }
        scene.sandbox.succeed(command);
    }
}

#[test]
fn a_backup_to_the_empty_directory_where_the_disk_is_not_mounted_says_what_is_missing() {
    let Some(mut scene) = Scene::new() else { return };
    scene.sandbox.succeed(&INIT);
    scene.sandbox.sql("INSERT INTO kept VALUES (101)");
    assert!(!scene.sandbox.succeed(&CREATE).contains("another repository"));
    let noted = std::fs::read_to_string(scene.sandbox.data().join(".pgbox/repository")).unwrap();
    scene.disk.leave_unmounted();

    let told = scene.sandbox.succeed(&CREATE);

    assert!(told.contains(&format!("to another repository until now ({noted})")), "{told}");
    assert!(told.contains("mount it there"), "{told}");
    scene.disk.plug_in();
    scene.sandbox.sql("INSERT INTO kept VALUES (102)");
    let told = scene.sandbox.succeed(&CREATE);
    assert!(told.contains("another repository until now"), "{told}");
    scene.sandbox.sql("INSERT INTO kept VALUES (103)");
    assert!(!scene.sandbox.succeed(&CREATE).contains("another repository"));
    scene.sandbox.succeed(&VERIFY);
}

/// A running server with rows that its backup does not have, made again for each step.
fn with_later_rows(template: &Sandbox) -> Option<Scene> {
    let scene = Scene::of(Sandbox::copy_of(template.path(), &std::env::temp_dir()))?;
    scene.sandbox.succeed(&INIT);
    scene.sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150); CHECKPOINT");
    Some(scene)
}

#[test]
fn at_any_step_of_a_restore_the_former_or_the_restored_cluster_serves() {
    if Scene::new().is_none() {
        return;
    }
    let template = Sandbox::with_backup();
    let name = template.backup_names("data_").remove(0);
    let restore = ["backup-postgresql", "restore", &name, "--yes", "--full"];
    let names = points(&with_later_rows(&template).unwrap().sandbox, &restore);
    let built = names.iter().position(|name| name == "built in staging").unwrap();
    for number in (1..=names.len()).filter(|number| is_wanted(*number, 5)) {
        let mut scene = with_later_rows(&template).unwrap();

        let (output, text) = scene.unplug_at(number, &restore);

        let rows = scene.sandbox.sql("SELECT count(*) FROM kept");
        let is_done = number > built;
        assert_eq!(output.status.success(), is_done, "point {number}: {text}");
        assert_eq!(rows, if is_done { "100" } else { "150" }, "point {number}: {text}");
        assert!(is_done || text.contains("the data directory is as it was"), "point {number}: {text}");
        scene.disk.plug_in();
        scene.sandbox.succeed(&CREATE);
        scene.sandbox.succeed(&["maintenance", "check"]);
        scene.read_all();
    }
}

/// A cluster that lost its catalogs, with rows that only its backup, the archive and its own WAL have together.
fn damaged(template: &Sandbox) -> Option<Scene> {
    let scene = Scene::of(Sandbox::copy_of(template.path(), &std::env::temp_dir()))?;
    let script = "rm -rf base/1 base/4 base/5 base/1[0-9]*";
    run(Command::new("sh").args(["-c", script]).current_dir(scene.sandbox.data()));
    Some(scene)
}

#[test]
fn at_any_step_of_a_recovery_nothing_worse_than_the_backup_is_taken() {
    if Scene::new().is_none() {
        return;
    }
    // One segment is in the archive alone, so that a recovery without it would lose what comes after.
    let template = Sandbox::with_backup();
    template.succeed(&INIT);
    template.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    let segment = archive_now(&template);
    template.sql("INSERT INTO kept VALUES (1000)");
    template.kill_server();
    template.remove_remains();
    std::fs::remove_file(template.data().join("pg_wal").join(segment)).unwrap();
    let names = points(&damaged(&template).unwrap().sandbox, &INIT);
    let built = names.iter().position(|name| name == "built in staging").unwrap();
    for number in (1..=names.len()).filter(|number| is_wanted(*number, 6)) {
        let mut scene = damaged(&template).unwrap();

        let (output, text) = scene.unplug_at(number, &INIT);

        assert_eq!(output.status.success(), number > built, "point {number}: {text}");
        scene.disk.plug_in();
        scene.sandbox.succeed(&INIT);
        assert_eq!(
            scene.sandbox.sql("SELECT count(*), max(id) FROM kept"),
            "151|1000",
            "point {number}: {text}"
        );
    }
}

#[test]
fn a_segment_that_could_not_be_archived_or_fetched_is_neither_lost_nor_called_damaged() {
    let Some(mut scene) = Scene::new() else { return };
    scene.sandbox.succeed(&INIT);
    let name = archive_now(&scene.sandbox);
    let cluster = scene.sandbox.sql("SELECT system_identifier FROM pg_control_system()");
    scene.sandbox.succeed(&["maintenance", "stop"]);
    let segment = scene.sandbox.data().join("pg_wal").join(&name);
    let target = scene.sandbox.path().join("fetched");
    let option = |option: &str, value: &Path| format!("--{option}={}", value.display());
    let backups = option("backup-directory", scene.disk.path());
    let data = option("data-directory", &scene.sandbox.data());
    let cluster = format!("--system-identifier={cluster}");
    // The process that does the work, and not the one that watches it.
    let archive = ["archive-wal", "--watched", &data, &backups, segment.to_str().unwrap()];
    let fetch = ["fetch-wal", "--watched", &backups, &cluster, &name, target.to_str().unwrap()];
    let archived = |scene: &Scene| -> Option<PathBuf> {
        let mut find = Command::new("find");
        let found = run(find.arg(scene.disk.backing().join("wal")).args(["-name", &format!("{name}-*.zst")]));
        found.lines().next().map(PathBuf::from)
    };
    let stored = std::fs::read(archived(&scene).unwrap()).unwrap();
    for number in 1..=2 {
        std::fs::remove_file(archived(&scene).unwrap()).unwrap();

        let (output, text) = scene.unplug_at(number, &archive);

        assert_eq!(output.status.code(), Some(1), "point {number}: {text}");
        scene.disk.plug_in();
        scene.sandbox.succeed(&archive);
        assert!(std::fs::read(archived(&scene).unwrap()).unwrap() == stored);
    }

    let (output, ()) = pause_at(&scene.sandbox, 1, &fetch, || scene.disk.unplug());

    let text = printed(&output);
    assert_eq!(output.status.code(), Some(200), "{text}");
    assert!(text.contains("its file system is gone") && !text.contains("is damaged"), "{text}");
    assert!(!target.exists(), "nothing half-read is left");
    let without = scene.sandbox.output(&fetch);
    assert_eq!(without.status.code(), Some(200), "{}", printed(&without));
    scene.disk.plug_in();
    scene.sandbox.succeed(&fetch);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&segment).unwrap());
}

#[test]
fn at_any_step_of_a_restore_in_place_the_disk_brings_one_state_or_the_other_back_whole() {
    if Scene::new().is_none() {
        return;
    }
    let restore = restore_of(&changed().name);
    let Some(Tight { sandbox, _disk: disk }) = Tight::changed() else { return };
    let counted = Scene::of(sandbox).unwrap();
    let names = points(&counted.sandbox, &restore);
    drop((counted, disk));
    // From there on the journal is written, and the files are changed.
    let turned = names.iter().position(|name| name == "what differs can be read").unwrap();
    let done = names.iter().position(|name| name == "all changed").unwrap();
    for (index, name) in names.iter().enumerate().filter(|(index, _)| is_wanted(*index, 4)) {
        let Some(Tight { sandbox, _disk }) = Tight::changed() else { return };
        let mut scene = Scene::of(sandbox).unwrap();

        let (output, text) = scene.unplug_at(index + 1, &restore);

        // Without room beside, the repository alone has both states until the files are all changed.
        let is_between = output.status.code() == Some(1) && index >= turned;
        eprintln!("unplugged at point {} of {}: {name}", index + 1, names.len());
        assert!(index < done || output.status.success(), "{text}");
        if is_between {
            assert!(text.contains("both are whole in the repository"), "{text}");
            let told = scene.sandbox.expect_status(&INIT, 1);
            assert!(told.contains("its file system is gone"), "{told}");
        } else {
            assert!(output.status.success() || text.contains("the data directory is as it was"), "{text}");
            scene.sandbox.succeed(&INIT);
        }
        if output.status.success() {
            assert_at_backup(&scene.sandbox);
        }
        scene.disk.plug_in();
        scene.sandbox.succeed(&INIT);
        if index < turned {
            assert_at_end(&scene.sandbox);
        } else {
            assert_at_backup(&scene.sandbox);
        }
        drop(scene);
    }
}
