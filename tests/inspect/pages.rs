//! Damage to data pages that a server would stumble over, or serve without a word.

use super::{PAGE_BYTES, check, finding, findings, open, path_of, place_of, read_page, write_page};
use crate::support::sandbox::{Sandbox, has_postgresql};
use serde_json::json;
use std::os::unix::fs::FileExt;

/// A cleanly stopped cluster with the table `rows` (id, text) of 20,000 rows, and the files of the table, its
/// primary key and its visibility map.
struct Rows {
    sandbox: Sandbox,
    table: String,
    index: String,
    map: String,
}

impl Rows {
    fn running() -> Self {
        let sandbox = Sandbox::without_backup();
        sandbox.succeed(&["maintenance", "start", "--no-backup"]);
        sandbox.sql(
            "CREATE TABLE rows (id int PRIMARY KEY, text text);
             INSERT INTO rows SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
        );
        sandbox.sql("VACUUM rows");
        sandbox.sql("CHECKPOINT");
        let table = place_of(&sandbox, "rows");
        let index = place_of(&sandbox, "rows_pkey");
        let map = format!("{table}_vm");
        Self { sandbox, table, index, map }
    }

    fn stopped() -> Self {
        let rows = Self::running();
        rows.stop();
        rows
    }

    fn stop(&self) {
        self.sandbox.succeed(&["maintenance", "stop"]);
    }

    /// Flips one bit in the middle of a page.
    fn flip_bit(&self, place: &str, block: u64) {
        let mut page = read_page(&self.sandbox, place, block);
        page[5000] ^= 0x20;
        write_page(&self.sandbox, place, block, &page);
    }
}

#[test]
fn a_flipped_bit_in_a_table_is_found_with_its_block_and_relation() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::stopped();
    rows.flip_bit(&rows.table, 7);

    let found = finding(&findings(&rows.sandbox), "page-checksum", &rows.table);

    assert_eq!(found["severity"], "error");
    assert_eq!(found["blocks"], json!([7]));
    assert_eq!(found["relation"], json!({"database": "dbuser", "schema": "public", "name": "rows"}));
    // The WAL since initdb is still there, and the page was first written whole.
    assert!(found["remedy"]["replay-from"].is_string(), "{found:#}");
}

#[test]
fn a_flipped_bit_in_an_index_needs_a_reindex_and_in_a_map_nothing_but_its_removal() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::stopped();
    rows.flip_bit(&rows.index, 3);
    rows.flip_bit(&rows.map, 0);

    let findings = findings(&rows.sandbox);

    let index = finding(&findings, "page-checksum", &rows.index);
    assert_eq!(index["remedy"]["reindex"]["name"], "rows_pkey");
    let map = finding(&findings, "page-checksum", &rows.map);
    assert_eq!((&map["severity"], &map["remedy"]), (&json!("warning"), &json!("set-aside-file")));
    let is_asked = findings.iter().any(|finding| finding["code"] == "index-entry-without-row");
    assert!(!is_asked, "an index that is bad is not asked: {findings:#?}");
}

#[test]
fn two_pages_that_changed_places_are_found() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::stopped();
    let (third, ninth) = (read_page(&rows.sandbox, &rows.table, 3), read_page(&rows.sandbox, &rows.table, 9));
    write_page(&rows.sandbox, &rows.table, 3, &ninth);
    write_page(&rows.sandbox, &rows.table, 9, &third);

    let found = finding(&findings(&rows.sandbox), "page-checksum", &rows.table);

    assert_eq!(found["blocks"], json!([3, 9]));
}

#[test]
fn a_page_that_is_zero_but_for_a_part_is_found() {
    if !has_postgresql() {
        return;
    }
    // pg_checksums skips such a page.
    let rows = Rows::stopped();
    let mut page = vec![0; 8192];
    page[8000] = 1;
    write_page(&rows.sandbox, &rows.table, 2, &page);

    let found = finding(&findings(&rows.sandbox), "page-not-zero", &rows.table);

    assert_eq!(found["blocks"], json!([2]));
}

#[test]
fn a_page_of_zeros_is_found_by_the_wal_that_wrote_it() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::stopped();
    write_page(&rows.sandbox, &rows.table, 5, &[0; 8192]);

    let found = finding(&findings(&rows.sandbox), "page-stale", &rows.table);

    assert_eq!(found["blocks"], json!([5]));
}

#[test]
fn rows_that_vanished_are_found_by_their_index_entries_without_any_wal() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::running();
    // The WAL that wrote the rows goes; what is left says nothing of them.
    for setting in ["wal_keep_size = 0", "min_wal_size = '32MB'", "max_wal_size = '32MB'"] {
        rows.sandbox.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    rows.sandbox.sql("SELECT pg_reload_conf()");
    for _ in 0..4 {
        rows.sandbox.sql("SELECT pg_switch_wal()");
        rows.sandbox.sql("CHECKPOINT");
    }
    rows.stop();
    write_page(&rows.sandbox, &rows.table, 5, &[0; 8192]);

    let found = finding(&findings(&rows.sandbox), "index-entry-without-row", &rows.table);

    assert_eq!(found["blocks"], json!([5]));
    assert_eq!(found["relation"]["name"], "rows");
    assert_eq!(found["remedy"], "replace");
    assert!(found["evidence"].as_str().unwrap().contains("of 20,000 entries of rows_pkey"), "{found:#}");
}

#[test]
fn a_table_cut_short_is_found_by_its_index_entries() {
    if !has_postgresql() {
        return;
    }
    for blocks in [60, 0] {
        let rows = Rows::stopped();
        open(&rows.sandbox, &rows.table).set_len(blocks * PAGE_BYTES).unwrap();

        let found = finding(&findings(&rows.sandbox), "index-entry-without-row", &rows.table);

        assert_eq!(found["blocks"][0], json!(blocks));
        assert!(found["remedy"]["replay-from"].is_string(), "{found:#}");
    }
}

#[test]
fn an_old_page_put_back_is_found() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::running();
    let old = read_page(&rows.sandbox, &rows.table, 4);
    let old_index = std::fs::read(path_of(&rows.sandbox, &rows.index)).unwrap();
    rows.sandbox.sql("UPDATE rows SET text = 'new' WHERE id BETWEEN 400 AND 700");
    rows.stop();
    write_page(&rows.sandbox, &rows.table, 4, &old);
    assert_ne!(old_index, std::fs::read(path_of(&rows.sandbox, &rows.index)).unwrap());

    let found = finding(&findings(&rows.sandbox), "page-stale", &rows.table);

    assert_eq!(found["blocks"], json!([4]));
    assert!(found["remedy"]["replay-from"].is_string(), "{found:#}");
}

#[test]
fn a_lost_end_of_the_wal_is_found_before_the_start_by_the_pages_that_are_newer() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::running();
    rows.sandbox.sql("ALTER SYSTEM SET shared_buffers = '1MB'");
    rows.sandbox.succeed(&["maintenance", "restart"]);
    // A small cache makes the server write pages before any checkpoint does.
    rows.sandbox.sql("SELECT pg_switch_wal()");
    let first_lost = rows.sandbox.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    for round in 0..6 {
        rows.sandbox.sql(&format!("UPDATE rows SET text = 'round {round}'"));
    }
    rows.sandbox.kill_server();
    let wal = std::fs::read_dir(rows.sandbox.data().join("pg_wal")).unwrap();
    for segment in wal.map(Result::unwrap) {
        if segment.file_name().to_str().unwrap() > first_lost.as_str()
            && segment.file_type().unwrap().is_file()
        {
            std::fs::remove_file(segment.path()).unwrap();
        }
    }

    for options in [&[][..], &["--deep"]] {
        let (status, diagnosis) = check(&rows.sandbox, options);

        let found = finding(diagnosis["findings"].as_array().unwrap(), "page-beyond-wal", &rows.table);
        assert_eq!(status, 1);
        assert_eq!((&found["severity"], &found["remedy"]), (&json!("error"), &json!("replace")), "{found:#}");
    }
}

#[test]
fn after_a_crash_a_page_that_replay_writes_anew_is_no_damage() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::running();
    rows.sandbox.sql("UPDATE rows SET text = 'new' WHERE id = 1");
    rows.sandbox.kill_server();
    rows.flip_bit(&rows.table, 0);
    rows.flip_bit(&rows.table, 1);

    let findings = findings(&rows.sandbox);

    let healed = finding(&findings, "page-healed-by-replay", &rows.table);
    assert_eq!((&healed["severity"], &healed["blocks"]), (&json!("notice"), &json!([0])));
    let bad = finding(&findings, "page-checksum", &rows.table);
    assert_eq!((&bad["severity"], &bad["blocks"]), (&json!("error"), &json!([1])));
}

#[test]
fn beside_a_running_server_a_bad_page_on_the_disk_is_an_error() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::running();
    rows.flip_bit(&rows.table, 7);

    let found = finding(&findings(&rows.sandbox), "page-checksum", &rows.table);

    assert_eq!((&found["severity"], &found["remedy"]), (&json!("error"), &json!("replace")));
}

#[test]
fn a_bad_page_of_an_unlogged_table_is_lost_after_a_clean_stop_and_no_matter_after_a_crash() {
    if !has_postgresql() {
        return;
    }
    let rows = Rows::running();
    rows.sandbox
        .sql("CREATE UNLOGGED TABLE loose (id int); INSERT INTO loose SELECT generate_series(1, 5000)");
    rows.sandbox.sql("CHECKPOINT");
    let loose = place_of(&rows.sandbox, "loose");
    rows.stop();
    let mut byte = [0];
    open(&rows.sandbox, &loose).read_exact_at(&mut byte, 9000).unwrap();
    rows.flip_bit(&loose, 1);
    let found = finding(&findings(&rows.sandbox), "page-checksum", &loose);
    assert_eq!((&found["severity"], &found["remedy"]), (&json!("error"), &json!("replace")));

    rows.sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    rows.sandbox.kill_server();

    let findings = findings(&rows.sandbox);
    let healed = findings.iter().filter(|finding| finding["place"] == loose.as_str());
    assert!(healed.clone().all(|finding| finding["severity"] == "notice"), "{findings:#?}");
}
