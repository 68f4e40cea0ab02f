//! Files that an inspection works out anew, or whose loss it judges, on real clusters: what it proposes must be what was
//! lost.

use crate::support::sandbox::{Sandbox, has_postgresql};
use pgbox::cluster::inspect::{Expectations, inspect};
use pgbox::pg::MajorVersion;
use pgbox::pg::control_file::ControlFile;
use pgbox::pg::relation_map::RelationMap;
use pgbox::plan::{ClusterCondition, Diagnosis, Finding, Remedy};
use rstest::rstest;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn diagnosis(sandbox: &Sandbox) -> Diagnosis {
    let expectations = Expectations {
        installed_versions: vec![MajorVersion(15)],
        server_uid: fs::metadata(sandbox.data()).unwrap().uid(),
        ..Expectations::default()
    };
    inspect(&sandbox.data(), &expectations).unwrap()
}

/// The content that a finding about a file proposes.
#[track_caller]
fn proposed(diagnosis: &Diagnosis, place: &str) -> Vec<u8> {
    let finding = diagnosis.findings.iter().find(|finding| finding.place == place);
    match finding.map(|finding| &finding.remedy) {
        Some(Remedy::WriteFile(content)) => content.bytes.clone(),
        other => panic!("{place}: {other:?}\n{}", summaries(diagnosis)),
    }
}

fn summaries(diagnosis: &Diagnosis) -> String {
    diagnosis.findings.iter().map(Finding::summary).collect::<Vec<_>>().join("\n")
}

fn finding<'a>(diagnosis: &'a Diagnosis, code: &str) -> &'a Finding {
    let found = diagnosis.findings.iter().find(|finding| finding.code == code);
    found.unwrap_or_else(|| panic!("no {code}:\n{}", summaries(diagnosis)))
}

/// A cluster killed while it has rows to replay, with some of its catalogs rewritten.
fn killed() -> Sandbox {
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("VACUUM FULL pg_class");
    sandbox.sql("REINDEX TABLE pg_proc");
    sandbox.sql("CHECKPOINT");
    sandbox.sql("CREATE TABLE more AS SELECT generate_series(1, 1000) AS id");
    sandbox.kill_server();
    fs::remove_file(sandbox.data().join("postmaster.pid")).unwrap();
    sandbox
}

/// A cluster killed with three segments to replay.
fn killed_with_much_to_replay() -> Sandbox {
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CHECKPOINT");
    for table in ["a", "b", "c"] {
        sandbox.sql(&format!("CREATE TABLE {table} AS SELECT generate_series(1, 1000) AS id"));
        sandbox.sql("SELECT pg_switch_wal()");
    }
    sandbox.sql("CREATE TABLE d AS SELECT generate_series(1, 1000) AS id");
    sandbox.kill_server();
    fs::remove_file(sandbox.data().join("postmaster.pid")).unwrap();
    sandbox
}

fn read(sandbox: &Sandbox, place: &str) -> Vec<u8> {
    fs::read(sandbox.data().join(place)).unwrap()
}

fn control_file(sandbox: &Sandbox) -> ControlFile {
    ControlFile::parse(&read(sandbox, "global/pg_control")).unwrap()
}

fn segment(sandbox: &Sandbox, position: u64) -> PathBuf {
    sandbox.data().join(format!("pg_wal/{:08X}{:08X}{:08X}", 1, 0, position >> 24))
}

/// Flips a bit of a file.
fn flip(path: &Path, offset: u64) {
    let byte = fs::read(path).unwrap().get(usize::try_from(offset).unwrap()).unwrap() ^ 4;
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&[byte]).unwrap();
}

/// The directory of the database that has the rows.
fn users_database(sandbox: &Sandbox) -> String {
    let entries = fs::read_dir(sandbox.data().join("base")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| format!("base/{name}")).find(|name| name.as_str() > "base/16383").unwrap()
}

#[rstest]
#[case::stopped(Sandbox::without_backup)]
#[case::killed(killed)]
fn a_lost_control_file_is_made_anew_from_the_wal(#[case] cluster: fn() -> Sandbox) {
    if !has_postgresql() {
        return;
    }
    let sandbox = cluster();
    let lost = control_file(&sandbox);
    let end = diagnosis(&sandbox).wal_end;
    fs::remove_file(sandbox.data().join("global/pg_control")).unwrap();

    let diagnosis = diagnosis(&sandbox);

    let rebuilt = ControlFile::parse(&proposed(&diagnosis, "global/pg_control")).unwrap();
    let (time, unlogged_lsn, crc) = (rebuilt.time, rebuilt.unlogged_lsn, rebuilt.crc);
    // Nothing tells that no transaction could be prepared, and 0 would prove that a lost pg_twophase was empty.
    let max_prepared_transactions = 1;
    assert_eq!(rebuilt, ControlFile { time, unlogged_lsn, crc, max_prepared_transactions, ..lost });
    assert_eq!(diagnosis.condition, ClusterCondition::Repairable, "{}", summaries(&diagnosis));
    assert_eq!((diagnosis.wal_end, diagnosis.identity.control_crc), (end, None));
}

#[rstest]
#[case::stopped(Sandbox::without_backup)]
#[case::killed(killed)]
fn lost_maps_and_versions_are_made_anew(#[case] cluster: fn() -> Sandbox) {
    if !has_postgresql() {
        return;
    }
    let sandbox = cluster();
    let database = users_database(&sandbox);
    let maps = ["global", "base/1", &database].map(|directory| format!("{directory}/pg_filenode.map"));
    let versions = ["PG_VERSION".to_owned(), format!("{database}/PG_VERSION")];
    let sorted = |bytes: &[u8]| {
        let mut map = RelationMap::parse(bytes).unwrap();
        map.entries.sort_unstable();
        map
    };
    let lost = maps.clone().map(|place| sorted(&read(&sandbox, &place)));
    for place in maps.iter().chain(&versions) {
        fs::remove_file(sandbox.data().join(place)).unwrap();
    }

    let diagnosis = diagnosis(&sandbox);

    assert_eq!(maps.map(|place| sorted(&proposed(&diagnosis, &place))), lost);
    assert_eq!(versions.map(|place| proposed(&diagnosis, &place)), [b"15\n", b"15\n"]);
    assert_eq!(diagnosis.condition, ClusterCondition::Repairable, "{}", summaries(&diagnosis));
}

#[test]
fn a_version_that_the_control_file_contradicts_is_put_right() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    fs::write(sandbox.data().join("PG_VERSION"), "14\n").unwrap();

    assert_eq!(proposed(&diagnosis(&sandbox), "PG_VERSION"), b"15\n");
}

#[test]
fn a_standbys_control_file_is_not_made_anew() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    fs::write(sandbox.data().join("standby.signal"), "").unwrap();
    fs::remove_file(sandbox.data().join("global/pg_control")).unwrap();

    let diagnosis = diagnosis(&sandbox);

    let finding = finding(&diagnosis, "control-file-missing");
    assert_eq!(finding.remedy, Remedy::Replace);
    assert!(finding.evidence.contains("standby"), "{}", finding.evidence);
}

#[test]
fn without_its_wal_a_cluster_that_was_stopped_needs_a_new_one_and_a_killed_one_a_backup() {
    if !has_postgresql() {
        return;
    }
    for (sandbox, remedy) in [(Sandbox::without_backup(), Remedy::ResetWal), (killed(), Remedy::Replace)] {
        for entry in fs::read_dir(sandbox.data().join("pg_wal")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::remove_file(entry.path()).unwrap();
            }
        }

        assert_eq!(finding(&diagnosis(&sandbox), "wal-segment-missing").remedy, remedy);
    }
}

#[test]
fn a_damaged_record_in_a_full_segment_is_no_end_of_the_wal() {
    if !has_postgresql() {
        return;
    }
    let sandbox = killed_with_much_to_replay();
    let redo = control_file(&sandbox).redo.0;
    assert_eq!(diagnosis(&sandbox).condition, ClusterCondition::Sound);
    flip(&segment(&sandbox, redo), (redo & 0x00FF_FFFF) + 2000);

    let diagnosis = diagnosis(&sandbox);

    assert_eq!(finding(&diagnosis, "wal-chain-broken").remedy, Remedy::Replace);
    assert_eq!(diagnosis.condition, ClusterCondition::Damaged);
}

#[test]
fn a_segment_missing_in_the_middle_is_no_end_of_the_wal() {
    if !has_postgresql() {
        return;
    }
    let sandbox = killed_with_much_to_replay();
    let redo = control_file(&sandbox).redo.0;
    fs::remove_file(segment(&sandbox, redo + (1 << 24))).unwrap();

    let diagnosis = diagnosis(&sandbox);

    assert!(finding(&diagnosis, "wal-chain-broken").evidence.contains("there is no segment"));
}

#[test]
fn an_old_control_file_of_a_clean_stop_is_known_by_the_wal_that_follows() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let old = read(&sandbox, "global/pg_control");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    sandbox.succeed(&["maintenance", "stop"]);
    let present = control_file(&sandbox);
    fs::write(sandbox.data().join("global/pg_control"), old).unwrap();

    let diagnosis = diagnosis(&sandbox);

    assert_eq!(finding(&diagnosis, "control-file-stale").place, "global/pg_control");
    let rebuilt = ControlFile::parse(&proposed(&diagnosis, "global/pg_control")).unwrap();
    assert_eq!(rebuilt.checkpoint, present.checkpoint);
}
