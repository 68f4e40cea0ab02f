//! What is lost and can be made anew in place: nothing is replaced for it, and no row is loaded anew.

use super::fault::{Backup, Expect, Found, judge_recovery, make};
use super::table::find;
use super::template::{Left, template};
use crate::support::versions::USUAL;
use rstest::rstest;

#[rstest]
fn what_can_be_made_anew_is_repaired_in_place(
    #[values(
        "pg_logical_is_lost",
        "the_directory_of_template0_is_lost",
        "the_wal_directory_is_lost",
        "all_empty_directories_are_lost"
    )]
    name: &str,
) {
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.forget_backups();
    let fault = find(name);
    assert_eq!(fault.expected(Left::Clean, Backup::None), Expect::Lossless);
    make(fault.damage, &sandbox.data());

    let plan = sandbox.succeed(&["maintenance", "repair", "--dry-run"]);

    let replaces = ["[replaces]", "salvage", "set the present cluster aside"];
    assert!(!replaces.iter().any(|word| plan.contains(word)), "{plan}");
    judge_recovery(&sandbox, &template, Found::AtTheStart, Expect::Lossless);
}
