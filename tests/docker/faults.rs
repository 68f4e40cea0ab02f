//! Every single fault of the table on a volume, and `docker run`: a server that serves, without anybody's help.
//!
//! It takes longer than all other tests together, so that it runs only with `PGBOX_TEST_ALL=1`. The same faults are made
//! without containers in every run.

use crate::faults::fault::{Backup, Expect, Fault, make};
use crate::faults::table;
use crate::faults::template::{Left, Template, template};
use crate::support::docker::Volumes;
use crate::support::extent::is_all_wanted;
use crate::support::sandbox::run;
use crate::support::versions::USUAL;
use rstest::rstest;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

/// The table is worked through by several tests at a time.
const PARTS: usize = 4;

#[rstest]
fn a_container_on_a_damaged_volume_ends_with_a_server_that_serves(#[values(0, 1, 2, 3)] part: usize) {
    if !is_all_wanted() {
        eprintln!("SKIPPED: every fault in a container is tried with PGBOX_TEST_ALL=1");
        return;
    }
    if Volumes::new().is_none() {
        return;
    }
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let mine = table::all().skip(part).step_by(PARTS);
    // What is refused is for a person to see to: the table says which, and why.
    let mine = mine.filter(|(_, fault)| fault.expected(Left::Clean, Backup::None) != Expect::Refused);
    let serves = |fault: &Fault| catch_unwind(AssertUnwindSafe(|| assert_serves(&template, fault))).is_ok();
    let failed: Vec<_> = mine.filter(|(_, fault)| !serves(fault)).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "no server after: {failed:#?}");
}

fn assert_serves(template: &Template, fault: &Fault) {
    let volumes = Volumes::new().unwrap();
    fill(&volumes, template);
    make(fault.damage, &volumes.data_directory());
    relink(&volumes, "/var/lib/postgresql-data/space");

    let container = volumes.start();

    container.wait_until_ready();
}

/// Puts a copy of the cluster on the volume, as the image's server would have left it.
fn fill(volumes: &Volumes, template: &Template) {
    let copy = template.copy();
    let data = volumes.data_directory();
    let noted = copy.data().join(".pgbox/repository");
    if noted.exists() {
        // Its backups are not on the volume, and never were, as far as the container knows.
        std::fs::remove_file(noted).unwrap();
    }
    let volume = data.parent().unwrap();
    run(Command::new("mkdir").arg("-p").arg(volume));
    run(Command::new("cp").arg("-a").arg(copy.data()).arg(&data));
    for beside in ["relations", "old_accounts", "space"] {
        run(Command::new("cp").arg("-a").arg(copy.path().join(beside)).arg(volume));
    }
    let user = volumes.shell("echo $(id -u postgres):$(id -g postgres)");
    run(Command::new("chown").args(["-R", user.trim()]).arg(&data).arg(volume.join("space")));
    relink(volumes, volume.join("space").to_str().unwrap());
}

/// Leads the tablespace to a directory: where it is here while damage is made, and where it will be in the container.
fn relink(volumes: &Volumes, target: &str) {
    let links = "for link in pg_tblspc/*; do
        [ ! -L \"$link\" ] || { ln -sfnT \"$1\" \"$link\"; chown -h --reference=. \"$link\"; }
    done";
    run(Command::new("sh").args(["-euc", links, "-", target]).current_dir(volumes.data_directory()));
}

#[test]
fn the_image_cannot_be_killed_at_a_step_by_a_variable() {
    // The binary that is shipped has no step points, whatever the tests are built with.
    let Some(volumes) = Volumes::new() else { return };

    let container = volumes.start_with(&["--env=PGBOX_KILL_AT_STEP_POINT=1"], &[]);

    container.wait_until_ready();
}
