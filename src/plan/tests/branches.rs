//! What becomes of a cluster that was put back to an earlier state, and of backups of another branch.

use super::*;
use crate::plan::ancestry::{Lineage, Mark};
use crate::plan::branching::{BranchWay, GoneBack, backup_ahead, may_branch};
use rstest::rstest;

fn sound() -> Diagnosis {
    diagnosis(ClusterCondition::Sound, Vec::new())
}

fn gone_back(way: BranchWay) -> GoneBack {
    GoneBack { evidence: "data_… was made of it later".to_owned(), way }
}

fn actions(plan: &Plan) -> Vec<&'static str> {
    let name = |action: &Action| match action {
        Action::BranchOff => "branch off",
        Action::Replace(_) => "replace",
        Action::Start => "start",
        Action::ResetWal => "reset the WAL",
        _ => "other",
    };
    plan.steps.iter().map(|step| name(&step.action)).collect()
}

#[rstest]
#[case::in_place(BranchWay::InPlace, RecoveryPolicy::Auto, &["branch off", "start"])]
#[case::in_place_where_only_repairs_are_allowed(BranchWay::InPlace, RecoveryPolicy::Repair, &["branch off", "start"])]
#[case::on_a_copy(BranchWay::OnCopy, RecoveryPolicy::Auto, &["replace", "start"])]
#[case::no_room_for_a_copy(BranchWay::NoRoom, RecoveryPolicy::Auto, &["start"])]
#[case::not_allowed(BranchWay::InPlace, RecoveryPolicy::Never, &["start"])]
fn a_cluster_that_was_put_back_branches_off_before_it_starts(
    #[case] way: BranchWay,
    #[case] policy: RecoveryPolicy,
    #[case] expected: &[&str],
) {
    let circumstances = Circumstances { gone_back: Some(gone_back(way)), policy, ..first_try(&[]) };

    let plan = recovery(&sound(), &circumstances).unwrap();

    assert_eq!(actions(&plan), expected);
    assert!(plan.remarks.first().is_some_and(|remark| remark.contains("put back")), "{:?}", plan.remarks);
    let set_aside = plan.steps.iter().filter(|step| step.effect == Effect::Replaces).count();
    assert_eq!(set_aside, usize::from(way == BranchWay::OnCopy));
}

#[test]
fn a_cluster_that_is_replaced_gets_a_timeline_of_its_own_anyhow() {
    let backups = [backup(1, 1, 3)];
    let circumstances =
        Circumstances { gone_back: Some(gone_back(BranchWay::InPlace)), ..first_try(&backups) };
    assert_eq!(actions(&recovery(&damaged(), &circumstances).unwrap()), ["replace", "start"]);
}

#[test]
fn a_backup_is_ahead_of_the_cluster_only_on_its_own_timeline() {
    let end = Lsn(4 * u64::from(SEGMENT_SIZE_BYTES));
    let mut of_another = backup(1, 1, 9);
    of_another.system_identifier = Some(SystemIdentifier(2));
    let backups = [of_another, backup(2, 2, 9), backup(3, 1, 4)];
    assert_eq!(backup_ahead(&backups, &sound(), end), None);
    let ahead = backup(4, 1, 5);
    assert_eq!(backup_ahead(std::slice::from_ref(&ahead), &sound(), end), Some(&ahead));
}

#[test]
fn a_standby_never_branches_off() {
    assert!(may_branch(&sound()));
    assert!(!may_branch(&Diagnosis { standby: Some("standby.signal is in it"), ..sound() }));
}

#[test]
fn only_backups_of_the_past_are_taken_and_the_others_are_named() {
    let (own, other) = (backup(9, 1, 3), backup(1, 1, 5));
    let backups = [other.clone(), own.clone()];
    let compared = vec![(own.name, Comparison::Same), (other.name, Comparison::Differs)];
    let circumstances = Circumstances { compared, ..first_try(&backups) };

    let plan = recovery(&damaged(), &circumstances).unwrap();

    let taken: Vec<_> = sources(&plan);
    assert!(
        matches!(taken.as_slice(), [Source::Backup { name, .. }, Source::Salvage] if *name == own.name),
        "{taken:?}"
    );
    let offer = format!("backup-postgresql restore {}", other.name);
    assert!(plan.remarks.iter().any(|remark| remark.contains(&offer)), "{:?}", plan.remarks);
}

#[rstest]
#[case::nothing_shows_it(None, false, true)]
#[case::it_is_of_another_branch(Some(Comparison::Differs), false, false)]
#[case::it_is_its_own_by_its_list_and_of_another_branch(Some(Comparison::Differs), true, true)]
fn without_a_backup_of_the_past_nothing_is_guessed(
    #[case] found: Option<Comparison>,
    #[case] is_listed: bool,
    #[case] is_refused: bool,
) {
    let other = backup(1, 1, 5);
    let backups = [other.clone()];
    let compared = found.map(|found| (other.name, found)).into_iter().collect();
    let circumstances = Circumstances { compared, ..first_try(&backups) };

    let mut diagnosis = damaged();
    if is_listed {
        let system_identifier = other.system_identifier;
        diagnosis.lineage = Lineage { system_identifier, backups: Mark::of(&other).into_iter().collect() };
    }

    match recovery(&diagnosis, &circumstances) {
        Err(refusal) => {
            assert!(is_refused, "{refusal:?}");
            assert!(refusal.hint.contains(&format!("restore {}", other.name)), "{refusal:?}");
        }
        // What it has itself is saved; no empty cluster hides the rows of the other branch.
        Ok(plan) => assert!(!is_refused && sources(&plan) == [Source::Salvage], "{plan:?}"),
    }
}

#[test]
fn a_cluster_of_which_nothing_is_known_is_not_given_the_backup_of_any() {
    let mut other = backup(1, 1, 5);
    other.system_identifier = Some(SystemIdentifier(2));
    let backups = [other, backup(2, 1, 3)];
    let mut unknown = damaged();
    unknown.identity.system_identifier = None;

    let refusal = decide(&unknown, &backups).unwrap_err();

    assert!(refusal.reason.contains("backups of several"), "{refusal:?}");
    assert!(backups.iter().all(|backup| refusal.reason.contains(&backup.name.to_string())), "{refusal:?}");
}
