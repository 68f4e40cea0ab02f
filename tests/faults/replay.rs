//! Pages that come back from the WAL that was kept, without a backup: nothing else may change for it, neither the rows
//! that are in no WAL nor what is outside the data directory.

use super::fault::{Backup, make};
use super::judge::Server;
use super::table::find;
use super::template::{Left, template};
use crate::support::sandbox::run;
use crate::support::versions::USUAL;
use pgbox::pg::control_file::ControlFile;
use rstest::rstest;
use std::path::Path;
use std::process::Command;

#[rstest]
#[case::of_garbage("a_page_is_garbage")]
#[case::of_an_earlier_time("a_page_is_of_an_earlier_time")]
#[case::all_of_a_table("a_table_is_empty")]
#[case::half_of_a_table("a_table_is_halved")]
fn pages_are_replayed_and_unlogged_tables_keep_their_rows(#[case] name: &str) {
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.forget_backups();
    let space = sandbox.path().join("space");
    let outside = files_below(&space);
    let counter = unlogged_lsn(&sandbox.data());
    let fault = find(name);
    assert_eq!(fault.expected(Left::Clean, Backup::None), super::fault::Expect::Lossless);
    make(fault.damage, &sandbox.data());

    let told = sandbox.succeed(&["maintenance", "repair", "--yes"]);
    let after = unlogged_lsn(&sandbox.data());
    let told = told + &sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("replayed the WAL from the checkpoint"), "{told}");
    assert!(told.contains("is now in the data directory"), "{told}");
    let server = Server::of(&sandbox);
    assert_eq!(server.digest(), template.digest, "{told}");
    server.assert_amcheck_is_silent();
    assert!(after >= counter, "an unlogged GiST index would reuse {after}: {counter} before");
    assert_eq!(files_below(&space), outside, "what is outside is as it was");
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox.succeed(&["maintenance", "check", "--deep"]);
}

fn unlogged_lsn(data: &Path) -> pgbox::pg::Lsn {
    ControlFile::parse(&std::fs::read(data.join("global/pg_control")).unwrap()).unwrap().unlogged_lsn
}

fn files_below(place: &Path) -> String {
    run(Command::new("find").arg(place).args(["-printf", "%P %s %T@\\n"]))
}
