//! What is refused unless nothing is lost by it.

use super::*;

fn asks_for_a_whole_backup() -> Diagnosis {
    let remedy = Remedy::RestoreOrSeeToIt("make the directory, and run this again".into());
    diagnosis(ClusterCondition::Damaged, vec![finding(Severity::Error, remedy)])
}

#[test]
fn what_only_a_whole_backup_brings_back_is_restored_from_such_a_backup_alone() {
    let mut present = asks_for_a_whole_backup();
    present.wal_segments = vec![segment(1, 3), segment(1, 4)];
    let backups = [backup(1, 1, 9), backup(2, 1, 3)];

    let plan = decide(&present, &backups).unwrap();

    let sources = sources(&plan);
    let [Source::Backup { name, replay }] = sources.as_slice() else { panic!("{sources:?}") };
    assert_eq!(*name, backups[1].name);
    assert!(replay.reaches_the_end);
}

#[test]
fn without_a_whole_backup_it_is_refused_in_its_own_words_whatever_is_allowed() {
    for policy in RecoveryPolicy::ALL {
        for backups in [vec![], vec![backup(1, 1, 3)]] {
            let circumstances = Circumstances { policy, ..first_try(&backups) };
            let refusal = recovery(&asks_for_a_whole_backup(), &circumstances).unwrap_err();
            assert_eq!(refusal.hint, "make the directory, and run this again. Nothing was changed.");
        }
    }
}

#[test]
fn a_whole_backup_is_not_restored_where_only_repairs_are_allowed() {
    let mut present = asks_for_a_whole_backup();
    present.wal_segments = vec![segment(1, 3)];
    let backups = [backup(1, 1, 3)];
    let circumstances = Circumstances { policy: RecoveryPolicy::Repair, ..first_try(&backups) };

    let refusal = recovery(&present, &circumstances).unwrap_err();

    assert!(refusal.hint.contains("RECOVERY=auto"), "{}", refusal.hint);
}
