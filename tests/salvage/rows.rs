//! Tables that lost their file, pages or single rows.

use super::cluster::{BEYOND_REPAIR, assert_all_but, files, in_database, sandbox, shell};
use crate::support::sandbox::has_postgresql;

#[test]
fn a_table_without_its_file_is_named_and_all_else_is_there() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    let file = files(&sandbox, &["customer"]).remove(0);
    shell(&sandbox, &format!("rm {}; {BEYOND_REPAIR}", file.display()));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "customer", &told);
    assert!(told.contains("all rows of") && told.contains("customer"), "{told}");
    assert!(told.contains("FK CONSTRAINT ordered ordered_customer_fkey"), "{told}");
}

#[test]
fn zeroed_and_garbled_pages_are_named_and_all_other_rows_are_there() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    let file = files(&sandbox, &["ordered"]).remove(0);
    let file = file.display();
    shell(
        &sandbox,
        &format!(
            "dd if=/dev/zero of={file} bs=8192 seek=3 count=1 conv=notrunc status=none
             dd if=/dev/urandom of={file} bs=8192 seek=7 count=1 conv=notrunc status=none
             {BEYOND_REPAIR}"
        ),
    );

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "ordered", &told);
    assert!(told.contains("block 3 of") && told.contains("block 7 of"), "{told}");
    // 10,000 rows of about 240 bytes: 33 in a page.
    let left: u32 = sandbox.sql("SELECT count(*) FROM ordered").parse().unwrap();
    assert!((9_900..9_960).contains(&left), "{left}: {told}");
    assert_eq!(sandbox.sql("SELECT nextval('ordered_id_seq')"), "10001");
}

#[test]
fn a_flipped_bit_is_told_and_costs_no_other_row() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    let file = files(&sandbox, &["ordered"]).remove(0);
    // In the text of a row, where only the checksum shows it.
    shell(
        &sandbox,
        &format!(
            "printf y | dd of={} bs=1 seek=$((5 * 8192 + 8000)) conv=notrunc status=none; {BEYOND_REPAIR}",
            file.display()
        ),
    );

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert!(told.contains("the checksum of block 5 of"), "{told}");
}

#[test]
fn a_long_value_that_is_lost_costs_only_itself() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let toast =
        sandbox.sql("SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'long'");
    sandbox.succeed(&["maintenance", "stop"]);
    shell(
        &sandbox,
        &format!(
            "dd if=/dev/urandom of={toast} bs=8192 seek=1 count=1 conv=notrunc status=none; {BEYOND_REPAIR}"
        ),
    );

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert!(told.contains("null stands in"), "{told}");
    let lost: u32 = sandbox.sql("SELECT count(*) FROM long WHERE value IS NULL").parse().unwrap();
    assert!((1..=6).contains(&lost), "{lost}: {told}");
}

#[test]
fn everything_that_is_not_rows_is_there_too() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    shell(&sandbox, BEYOND_REPAIR);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert_eq!(sandbox.sql("SELECT convert_from(lo_get(4711), 'UTF8')"), "a large object", "{told}");
    assert_eq!(sandbox.sql("SELECT nextval('ordered_id_seq'), nextval('customer_id_seq')"), "10001|5001");
    assert_eq!(sandbox.sql("SELECT max(doubled), (SELECT count FROM totals) FROM ordered"), "10000|10000");
    assert_eq!(sandbox.sql("SELECT has_table_privilege('reader', 'customer', 'SELECT')"), "t");
    assert_eq!(sandbox.sql("SHOW statement_timeout"), "1h");
    assert_eq!(sandbox.sql("SHOW work_mem"), "7MB", "what ALTER SYSTEM set");
    let login = sandbox.application_login("reader", "a password of its own", "dbuser");
    assert!(login.status.success(), "the password survives: {login:?}");
    let encoding =
        "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = 'other'";
    assert_eq!(in_database(&sandbox, "other", encoding), "LATIN1|C");
    assert_eq!(
        sandbox.sql("SELECT count(*) FROM pg_constraint WHERE conrelid = 'ordered'::regclass"),
        "2",
        "{told}"
    );
}
