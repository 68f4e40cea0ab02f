//! Libraries that the server is to load at its start, as its configuration has them.

use crate::support::sandbox::{Sandbox, has_postgresql};
use rstest::rstest;
use std::fs;

fn set_libraries(sandbox: &Sandbox, value: &str) {
    let path = sandbox.data().join("postgresql.auto.conf");
    fs::write(path, format!("shared_preload_libraries = '{value}'\n")).unwrap();
}

#[rstest]
#[case::plain("pg_stat_statements, auto_explain")]
#[case::each_in_quotes("\"pg_stat_statements\",\"auto_explain\"")]
#[case::a_path("$libdir/auto_explain")]
#[case::a_list_that_the_server_cannot_take_apart_and_passes_over("pg_stat_statements,,none")]
fn a_list_that_the_server_takes_is_no_reason_not_to_start(#[case] value: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    set_libraries(&sandbox, value);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!told.contains("library-missing"), "{told}");
}

#[rstest]
#[case::a_list_in_one_pair_of_quotes("\"pg_stat_statements,auto_explain\"", "take the double quotes out")]
#[case::one_that_is_not_there(
    "auto_explain, \"no such\"",
    "install the package that has the library 'no such'"
)]
fn a_library_that_is_not_there_is_refused_by_name(#[case] value: &str, #[case] hint: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    set_libraries(&sandbox, value);

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);

    assert!(told.contains("shared_preload_libraries names '") && told.contains(hint), "{told}");
}
