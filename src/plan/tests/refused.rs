//! What is refused unless nothing is lost by it.

use super::*;
use crate::plan::diagnosis::Served;

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

/// An empty directory from which a cluster may have been lost.
fn emptied(served: Option<SystemIdentifier>) -> Diagnosis {
    let blank = Diagnosis::blank("/data", ClusterCondition::Empty, Presence::Free);
    let note = ".pgbox/served".to_owned();
    Diagnosis { served: served.map(|found| Served { note, system_identifier: Some(found) }), ..blank }
}

fn of_directory(directory: Option<&str>) -> BackupSummary {
    BackupSummary { data_directory: directory.map(str::to_owned), ..backup(1, 1, 3) }
}

#[test]
fn no_empty_cluster_is_made_where_one_was_lost() {
    let here = of_directory(Some("/data"));
    let unknown = of_directory(None);
    let elsewhere = of_directory(Some("/other"));
    for (served, backups) in [
        (Some(CLUSTER), vec![]),
        (Some(CLUSTER), vec![elsewhere.clone()]),
        (None, vec![here.clone()]),
        (None, vec![elsewhere.clone(), unknown.clone()]),
    ] {
        for condition in
            [ClusterCondition::Absent, ClusterCondition::Empty, ClusterCondition::InterruptedInitdb]
        {
            let present = Diagnosis { condition, ..emptied(served) };
            let refusal = decide(&present, &backups).unwrap_err();
            assert!(refusal.hint.contains("ALLOW_EMPTY=on"), "{}", refusal.hint);
            let names_backup = refusal.hint.contains("backup-postgresql restore data_");
            assert_eq!(names_backup, !backups.is_empty(), "{}", refusal.hint);
            for policy in RecoveryPolicy::ALL {
                let circumstances = Circumstances { policy, may_begin_anew: true, ..first_try(&backups) };
                let is_begun = recovery(&present, &circumstances).is_ok();
                assert_eq!(is_begun, policy == RecoveryPolicy::Auto, "{present:?} {policy}");
            }
        }
    }
}

#[test]
fn a_backup_that_was_found_damaged_is_advised_to_nobody() {
    let (older, mut newest) = (backup(1, 1, 3), backup(2, 1, 4));
    let damage = vec![Damage::new(DamageCode::ChunkDamaged, "its content is not what was stored")];
    let observed = Observed { damage, ..Observed::default() };
    let Judgement::Reached(verdict) = judge(observed, newest.created_at) else { panic!("undecided") };
    newest.verification = Verification::Done(verdict);
    let hint = |backups: &[BackupSummary]| decide(&emptied(Some(CLUSTER)), backups).unwrap_err().hint;

    let advice = hint(&[older.clone(), newest.clone()]);
    assert!(advice.contains(&format!("backup-postgresql restore {}", older.name)), "{advice}");
    let advice = hint(std::slice::from_ref(&newest));
    assert!(advice.contains(&format!("backup-postgresql show {}", newest.name)), "{advice}");
    assert!(!advice.contains("backup-postgresql restore"), "{advice}");
}

#[test]
fn a_first_cluster_is_made_beside_the_backups_of_another_directory() {
    let plan = decide(&emptied(None), &[of_directory(Some("/other"))]).unwrap();
    assert_eq!(sources(&plan), [Source::Fresh]);
    assert!(plan.remarks.iter().any(|remark| remark.contains("backup-postgresql restore")));
}

#[test]
fn a_standby_is_never_replaced_nor_changed_otherwise_than_by_its_primary() {
    let reindex = Remedy::Reindex(RelationName {
        database: "postgres".into(),
        schema: "public".into(),
        name: "an_index".into(),
    });
    let remedies = [Remedy::Replace, reindex, Remedy::ReplayFrom(Lsn(64)), Remedy::ResetWal];
    for remedy in remedies {
        let found = vec![finding(Severity::Error, remedy)];
        let damaged = diagnosis(ClusterCondition::of_findings(&found), found);
        let standby = Diagnosis { standby: Some("standby.signal is in it"), ..damaged.clone() };

        let refusal = decide(&standby, &[backup(1, 1, 3)]).unwrap_err();

        assert!(refusal.reason.contains("standby") && refusal.hint.contains("pg_basebackup"), "{refusal:?}");
        assert!(decide(&damaged, &[backup(1, 1, 3)]).is_ok());
    }
}

#[test]
fn a_standby_that_was_killed_is_started_as_it_is_and_its_small_things_are_put_right() {
    let unsure = diagnosis(ClusterCondition::Sound, vec![finding(Severity::Warning, Remedy::Replace)]);
    let mut standby = Diagnosis { standby: Some("standby.signal is in it"), ..unsure };
    standby.identity.state = Some(ClusterState::InArchiveRecovery);
    let starts = |plan: Plan| plan.steps.last().is_some_and(|step| step.action == Action::Start);
    assert!(starts(decide(&standby, &[]).unwrap()));

    standby.findings = vec![finding(Severity::Warning, Remedy::RecreateDirectory)];
    assert!(starts(decide(&standby, &[]).unwrap()));
}

#[test]
fn a_person_who_restores_in_the_place_of_a_standby_is_told() {
    let present = Diagnosis {
        standby: Some("standby.signal is in it"),
        ..diagnosis(ClusterCondition::Sound, Vec::new())
    };
    let plan = restore(&backup(1, 1, 3), &present, MajorVersion(15), &first_try(&[])).unwrap();
    assert!(plan.remarks.iter().any(|remark| remark.contains("standby")), "{:?}", plan.remarks);
}
