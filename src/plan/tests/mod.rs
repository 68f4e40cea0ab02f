//! Which backups, WAL and sources a plan chooses; what it makes of remedies is in `properties`.

mod branches;
mod properties;
mod refused;

use super::ancestry::Comparison;
use super::archive::ArchiveView;
use super::recovery::{Action, Circumstances, Effect, FormerFailure, Plan, Replay, Source, Tried, recovery};
use super::restore::restore;
use super::selection::{NoLatest, archived_replay, latest, newest_first, surviving_replay, unreadable};
use super::*;
use crate::pg::control_file::ClusterState;
use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{BlockNumber, Lsn, MajorVersion, SystemIdentifier, TimelineId};
use crate::plan::diagnosis::ClusterIdentity;
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

const SEGMENT_SIZE_BYTES: u32 = 16 << 20;
const CLUSTER: SystemIdentifier = SystemIdentifier(7_000_000_000_000_000_001);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn segment(timeline: u32, number: u64) -> WalFileName {
    let lsn = Lsn(number * u64::from(SEGMENT_SIZE_BYTES));
    WalFileName::containing(lsn, TimelineId(timeline), SEGMENT_SIZE_BYTES).unwrap()
}

/// A good backup of segment `stop - 1`, that many minutes old, which ends where segment `stop` begins.
fn backup(minutes: i64, timeline: u32, stop: u64) -> BackupSummary {
    let created_at = now() - TimeDelta::minutes(minutes);
    let name = BackupName::new(BackupKind::Backup, created_at);
    BackupSummary {
        created_at,
        system_identifier: Some(CLUSTER),
        major_version: Some(MajorVersion(15)),
        timeline: Some(TimelineId(timeline)),
        stop_lsn: Some(Lsn(stop * u64::from(SEGMENT_SIZE_BYTES))),
        wal_segment_size_bytes: Some(SEGMENT_SIZE_BYTES),
        ..BackupSummary::unknown(name, BackupFormat::Chunked)
    }
}

fn identity(timeline: u32) -> ClusterIdentity {
    ClusterIdentity {
        major_version: Some(MajorVersion(15)),
        system_identifier: Some(CLUSTER),
        timeline: Some(TimelineId(timeline)),
        ..ClusterIdentity::default()
    }
}

fn finding(severity: Severity, remedy: Remedy) -> Finding {
    Finding::new("a-code", severity, "global/2671", "it is not there").with_remedy(remedy)
}

fn diagnosis(condition: ClusterCondition, findings: Vec<Finding>) -> Diagnosis {
    let blank = Diagnosis::blank("/data", condition, Presence::Free);
    Diagnosis { identity: identity(1), findings, ..blank }
}

fn damaged() -> Diagnosis {
    diagnosis(ClusterCondition::Damaged, vec![finding(Severity::Error, Remedy::Replace)])
}

/// With these backups, everything allowed and nothing tried.
fn first_try(backups: &[BackupSummary]) -> Circumstances<'_> {
    let policy = RecoveryPolicy::Auto;
    // All of them are of the past, as far as their WAL is concerned.
    let compared = backups.iter().map(|backup| (backup.name, Comparison::Same)).collect();
    let tried = Tried::default();
    Circumstances {
        backups,
        archives: &[],
        compared,
        gone_back: None,
        repository: None,
        policy,
        may_begin_anew: false,
        tried,
        now: now(),
    }
}

fn decide(diagnosis: &Diagnosis, backups: &[BackupSummary]) -> Result<Plan, recovery::Refusal> {
    recovery(diagnosis, &first_try(backups))
}

fn sources(plan: &Plan) -> Vec<Source> {
    let of_step = |action: &Action| match action {
        Action::Replace(replacement) => Some(replacement.sources.clone()),
        _ => None,
    };
    plan.steps.iter().find_map(|step| of_step(&step.action)).unwrap_or_default()
}

#[test]
fn a_backup_that_a_verification_found_damaged_is_never_restored_by_itself_nor_hidden_by_an_empty_cluster() {
    let name = |day: &str| format!("data_202601{day}_120000").parse::<BackupName>().unwrap();
    let mut newest = BackupSummary::unknown(name("02"), BackupFormat::Chunked);
    let older = BackupSummary::unknown(name("01"), BackupFormat::Chunked);
    let damage = vec![Damage::new(DamageCode::ChunkDamaged, "its content is not what was stored")];
    let observed = Observed { damage, ..Observed::default() };
    let Judgement::Reached(verdict) = judge(observed, newest.created_at) else { panic!("undecided") };
    newest.verification = Verification::Done(verdict.clone());

    assert!(!newest.is_good());
    assert_eq!(latest(&[newest.clone(), older.clone()], None).map(|backup| backup.name), Ok(older.name));
    assert_eq!(latest(std::slice::from_ref(&newest), None), Err(NoLatest::None));
    let (_, reason) = unreadable(&newest).unwrap();
    assert_eq!(reason, "its content is not what was stored");

    let sound = VerificationVerdict { damage: Vec::new(), ..verdict };
    newest.verification = Verification::Done(sound);
    assert_eq!(latest(&[older, newest.clone()], None), Ok(&newest));
}

/// A plain copy of the cluster that says it is newer than everything.
fn plain_copy() -> BackupSummary {
    BackupSummary { format: BackupFormat::ScriptCopy, ..backup(0, 1, 9) }
}

#[test]
fn a_plain_copy_comes_after_every_backup_and_is_never_the_latest() {
    let (copy, good) = (plain_copy(), backup(9, 1, 3));
    let damaged_page = DamagedPage {
        file: "base/1/1".into(),
        relation: None,
        block: BlockNumber(0),
        problem: String::new(),
    };
    let with_damage = BackupSummary { damaged_pages: vec![damaged_page], ..backup(5, 1, 4) };
    let backups = [copy.clone(), good.clone(), with_damage.clone()];

    let plan = decide(&damaged(), &backups).unwrap();

    let names: Vec<_> = sources(&plan)
        .iter()
        .filter_map(|source| match source {
            Source::Backup { name, .. } => Some(*name),
            _ => None,
        })
        .collect();
    assert_eq!(names, [good.name, with_damage.name, copy.name]);
    assert_eq!(latest(&backups, Some(CLUSTER)).map(|backup| backup.name), Ok(good.name));
    assert_eq!(latest(std::slice::from_ref(&copy), Some(CLUSTER)), Err(NoLatest::None));
}

#[test]
fn the_latest_is_of_the_present_cluster_or_of_the_only_one() {
    let own = backup(9, 1, 3);
    let other = BackupSummary { system_identifier: Some(SystemIdentifier(1)), ..backup(1, 1, 9) };
    let both = [other.clone(), own.clone()];

    assert_eq!(latest(&both, Some(CLUSTER)), Ok(&own));
    assert_eq!(latest(std::slice::from_ref(&other), Some(CLUSTER)), Err(NoLatest::OfOthers));
    assert_eq!(latest(&both, None), Err(NoLatest::OfSeveral(vec![SystemIdentifier(1), CLUSTER])));
    assert_eq!(latest(std::slice::from_ref(&other), None), Ok(&other));
}

#[test]
fn whoever_has_wal_on_a_disk_of_its_own_is_told_that_a_replacement_moves_it() {
    let with_link = |diagnosis| Diagnosis { wal_directory: Some("/waldisk/pg_wal".into()), ..diagnosis };
    let backups = [backup(1, 1, 3)];
    let restored = |diagnosis: &Diagnosis| {
        restore(&backups[0], diagnosis, MajorVersion(15), &first_try(&backups)).unwrap()
    };
    let tells = |plan: &Plan| plan.remarks.iter().any(|remark| remark.contains("link to '/waldisk/pg_wal'"));

    assert!(tells(&decide(&with_link(damaged()), &backups).unwrap()));
    assert!(!tells(&decide(&damaged(), &backups).unwrap()));
    let sound = || diagnosis(ClusterCondition::Sound, Vec::new());
    assert!(!tells(&decide(&with_link(sound()), &backups).unwrap()));
    assert!(tells(&restored(&with_link(sound()))));
    assert!(!tells(&restored(&sound())));
}

#[test]
fn a_sound_cluster_is_simply_started() {
    let plan = decide(&diagnosis(ClusterCondition::Sound, Vec::new()), &[backup(1, 1, 3)]).unwrap();
    assert!(matches!(plan.steps.as_slice(), [step] if step.action == Action::Start));
}

#[test]
fn the_newest_good_backup_of_the_cluster_is_restored_and_the_others_stand_by() {
    let mut of_another = backup(1, 1, 9);
    of_another.system_identifier = Some(SystemIdentifier(2));
    let mut with_damage = backup(2, 1, 8);
    with_damage.damaged_pages.push(DamagedPage {
        file: "base/1/1".into(),
        block: BlockNumber(0),
        relation: None,
        problem: "checksum".to_owned(),
    });
    let (newer, older) = (backup(3, 1, 5), backup(4, 1, 3));

    let backups = [of_another, with_damage.clone(), older.clone(), newer.clone()];
    let plan = decide(&damaged(), &backups).unwrap();

    let all = sources(&plan);
    let names: Vec<_> = all
        .iter()
        .filter_map(|source| match source {
            Source::Backup { name, .. } => Some(*name),
            _ => None,
        })
        .collect();
    assert_eq!(names, [newer.name, older.name, with_damage.name]);
    // An empty cluster does not stand by, with backups there.
    assert_eq!(all.last(), Some(&Source::Salvage));
}

#[test]
fn backups_that_cannot_be_read_are_no_reason_for_an_empty_cluster() {
    let mut unreadable = backup(1, 1, 3);
    unreadable.condition = Condition::Unreadable { reason: "its table is damaged".into() };

    let refusal = decide(&damaged(), std::slice::from_ref(&unreadable)).unwrap_err();
    assert!(refusal.reason.contains("its table is damaged"), "{refusal:?}");

    let plan = decide(&damaged(), &[unreadable.clone(), backup(9, 1, 3)]).unwrap();
    let name = unreadable.name.to_string();
    assert!(plan.remarks.iter().any(|remark| remark.contains(&name)), "{:?}", plan.remarks);
}

#[test]
fn backups_of_a_branch_that_was_left_come_after_those_of_the_own_history() {
    // Timeline 2 left timeline 1 at the end of segment 2; the newest backup of timeline 1 is of later.
    let mut present = identity(2);
    present.ancestors =
        vec![Ancestor { timeline: TimelineId(1), switch_point: Lsn(3 * u64::from(SEGMENT_SIZE_BYTES)) }];
    let (left, ancestor, own) = (backup(1, 1, 9), backup(9, 1, 3), backup(5, 2, 6));

    let backups = [left.clone(), ancestor.clone(), own.clone()];
    let order: Vec<_> = newest_first(&backups, Some(&present)).iter().map(|backup| backup.name).collect();

    assert_eq!(order, [own.name, ancestor.name, left.name]);
}

/// What is replayed after a backup of timeline 1 whose last segment is number 2.
fn replayed(segments: &[WalFileName], present: &ClusterIdentity) -> Replay {
    surviving_replay(&backup(1, 1, 3), segments, present)
}

fn replay(segments: Vec<WalFileName>, reaches_the_end: bool) -> Replay {
    Replay { segments, reaches_the_end, ..Replay::default() }
}

#[test]
fn wal_is_replayed_as_far_as_it_is_without_a_gap() {
    let whole = [segment(1, 2), segment(1, 3), segment(1, 4)];
    let with_gap = [segment(1, 2), segment(1, 3), segment(1, 5)];

    assert_eq!(replayed(&whole, &identity(1)), replay(vec![segment(1, 3), segment(1, 4)], true));
    assert_eq!(replayed(&with_gap, &identity(1)), replay(vec![segment(1, 3)], false));
    assert_eq!(replayed(&[segment(1, 2)], &identity(1)), replay(vec![], true));
    assert_eq!(replayed(&[segment(1, 4)], &identity(1)), replay(vec![], false));
    assert_eq!(replayed(&[segment(2, 3)], &identity(2)), Replay::default());
    assert_eq!(replayed(&[], &identity(1)), Replay::default());
}

#[test]
fn wal_is_replayed_across_the_timelines_that_led_to_the_present() {
    // Timeline 2 left timeline 1 in the middle of segment 4.
    let mut present = identity(2);
    let switch_point = Lsn(4 * u64::from(SEGMENT_SIZE_BYTES) + 400);
    present.ancestors = vec![Ancestor { timeline: TimelineId(1), switch_point }];
    let there = [segment(1, 2), segment(1, 3), segment(1, 4), segment(2, 4), segment(2, 5)];

    let expected = Replay {
        segments: vec![segment(1, 3), segment(2, 4), segment(2, 5)],
        timeline: Some(TimelineId(2)),
        reaches_the_end: true,
        target: None,
    };
    assert_eq!(replayed(&there, &present), expected);

    // A backup of after the fork, on the branch that was left, leads nowhere.
    let left = surviving_replay(&backup(1, 1, 9), &there, &present);
    assert_eq!(left, Replay::default());
}

#[test]
fn archived_wal_continues_a_backup_on_the_branch_that_was_archived_last_even_if_nothing_else_is_left() {
    let switch_point = Lsn(4 * u64::from(SEGMENT_SIZE_BYTES) + 400);
    let history = vec![Ancestor { timeline: TimelineId(1), switch_point }];
    let view = ArchiveView {
        segments: vec![segment(1, 3), segment(1, 4), segment(1, 5), segment(2, 4)],
        histories: vec![(TimelineId(2), history)],
        latest: Some(TimelineId(2)),
    };
    let nothing = ClusterIdentity::default();

    let replay = archived_replay(&backup(1, 1, 3), &[], &nothing, &view);
    assert_eq!(replay.segments, [segment(1, 3), segment(2, 4)]);
    assert_eq!((replay.timeline, replay.reaches_the_end), (Some(TimelineId(2)), false));

    // Of a backup that the branch does not come from, only its own timeline is known.
    let later = archived_replay(&backup(1, 1, 5), &[], &nothing, &view);
    assert_eq!((later.segments, later.timeline), (vec![segment(1, 5)], None));
}

#[test]
fn archived_and_surviving_wal_are_one_chain_and_what_survives_shows_that_it_ends() {
    let view = ArchiveView { segments: vec![segment(1, 3), segment(1, 4)], ..ArchiveView::default() };
    let surviving = [segment(1, 4), segment(1, 5)];

    let replay = archived_replay(&backup(1, 1, 3), &surviving, &identity(1), &view);

    assert_eq!(replay.segments, [segment(1, 3), segment(1, 4), segment(1, 5)]);
    assert!(replay.reaches_the_end);
}

#[test]
fn wal_that_ends_before_the_last_checkpoint_does_not_reach_the_end() {
    let mut present = identity(1);
    present.redo = Some(Lsn(7 * u64::from(SEGMENT_SIZE_BYTES) + 40));
    let replay = surviving_replay(&backup(1, 1, 3), &[segment(1, 2), segment(1, 3)], &present);
    assert!(!replay.reaches_the_end);
}

#[test]
fn what_cannot_be_read_or_belongs_to_another_never_leads_to_a_replacement() {
    for remedy in [Remedy::MakeReadable, Remedy::LinkTablespace, Remedy::LinkWal, Remedy::SetOwner(999)] {
        let findings = vec![finding(Severity::Error, Remedy::Replace), finding(Severity::Error, remedy)];
        let decided = decide(&diagnosis(ClusterCondition::Damaged, findings), &[backup(1, 1, 3)]);
        let replaces = decided.is_ok_and(|plan| !sources(&plan).is_empty());
        assert!(!replaces);
    }
}

#[test]
fn a_restore_by_name_sets_aside_what_is_there_and_replays_nothing() {
    let taken = backup(1, 1, 3);
    let circumstances = first_try(&[]);
    let mut present = diagnosis(ClusterCondition::Sound, Vec::new());
    present.wal_segments = vec![segment(1, 2), segment(1, 3)];

    let plan = restore(&taken, &present, MajorVersion(15), &circumstances).unwrap();

    assert_eq!(sources(&plan), [Source::Backup { name: taken.name, replay: Replay::default() }]);
    assert!(is_set_aside_first(&plan));
    assert!(restore(&taken, &present, MajorVersion(16), &circumstances).is_err());
}

fn wrong_status(remedy: Remedy) -> Finding {
    let evidence = "it holds something else than when the server stopped";
    Finding::new("seal-content-changed", Severity::Error, "pg_xact/0000", evidence).with_remedy(remedy)
}

#[test]
fn with_a_wrong_status_of_transactions_nothing_is_salvaged() {
    let damaged = diagnosis(ClusterCondition::Damaged, vec![wrong_status(Remedy::Replace)]);

    let refusal = decide(&damaged, &[]).unwrap_err();
    assert!(refusal.reason.contains("would show wrong rows"), "{}", refusal.reason);

    let all = sources(&decide(&damaged, &[backup(5, 1, 9)]).unwrap());
    assert!(matches!(all.as_slice(), [Source::Backup { .. }]), "{all:?}");
}

#[test]
fn a_file_that_two_findings_ask_to_set_aside_is_set_aside_once() {
    let finding = |code| {
        let finding = Finding::new(code, Severity::Warning, "base/5/16389_vm", "it is wrong");
        finding.with_remedy(Remedy::SetAsideFile)
    };
    let findings = vec![finding("seal-content-changed"), finding("page-checksum")];

    let plan = decide(&diagnosis(ClusterCondition::Repairable, findings), &[]).unwrap();

    let is_set_aside = |step: &&recovery::Step| matches!(step.action, Action::SetAsideFile { .. });
    assert_eq!(plan.steps.iter().filter(is_set_aside).count(), 1, "{:?}", plan.steps);
}

#[test]
fn a_proven_status_of_transactions_is_written_before_anything_is_replaced() {
    let content = FileContent { description: "worked out from the WAL".to_owned(), bytes: vec![1] };
    let findings = vec![finding(Severity::Error, Remedy::Replace), wrong_status(Remedy::WriteFile(content))];

    let plan = decide(&diagnosis(ClusterCondition::Damaged, findings), &[]).unwrap();

    let actions: Vec<&Action> = plan.steps.iter().map(|step| &step.action).collect();
    assert!(matches!(actions.as_slice(), [Action::WriteFile { .. }, Action::LookAgain]), "{actions:?}");
}

#[test]
fn the_pid_file_of_a_dead_server_is_removed_and_the_server_started_without_another_look() {
    let stale = Finding::new("pid-file-stale", Severity::Warning, "postmaster.pid", "of a dead server")
        .with_remedy(Remedy::SetAsideFile);
    let condition = ClusterCondition::of_findings(std::slice::from_ref(&stale));
    let other = finding(Severity::Error, Remedy::RecreateDirectory);

    let plan = decide(&diagnosis(condition.clone(), vec![stale.clone()]), &[]).unwrap();
    let beside_another = decide(&diagnosis(condition, vec![other, stale]), &[]).unwrap();

    let actions: Vec<&Action> = plan.steps.iter().map(|step| &step.action).collect();
    assert!(matches!(actions.as_slice(), [Action::SetAsideFile { .. }, Action::Start]), "{actions:?}");
    assert!(beside_another.steps.iter().any(|step| step.action == Action::LookAgain), "{beside_another:?}");
}

/// Whether each step that replaces something names where it is kept.
fn is_set_aside_first(plan: &Plan) -> bool {
    plan.steps.iter().all(|step| match &step.action {
        Action::Replace(replacement) => replacement.aside.is_some() == (step.effect == Effect::Replaces),
        _ => step.effect != Effect::Replaces,
    })
}

#[test]
fn a_line_of_the_configuration_is_left_out_only_where_more_is_allowed_and_never_costs_the_cluster() {
    let refused = finding(Severity::Warning, Remedy::LeaveOut);
    let condition = ClusterCondition::of_findings(std::slice::from_ref(&refused));
    let diagnosis = diagnosis(condition, vec![refused]);
    let backups = [backup(5, 1, 4)];
    let decide =
        |policy, tried: Tried| recovery(&diagnosis, &Circumstances { policy, tried, ..first_try(&backups) });
    let failure = FormerFailure { words: "no".into(), place: None };
    let tried = Tried { start: true, failure: Some(failure), ..Tried::default() };

    for tried in [Tried::default(), tried] {
        let plan = decide(RecoveryPolicy::Auto, tried).unwrap();
        assert_eq!(plan.steps.iter().map(|step| &step.action).collect::<Vec<_>>(), [&Action::Start]);
        assert!(plan.remarks.iter().any(|remark| remark.starts_with("not in force: ")), "{:?}", plan.remarks);
    }
    for policy in [RecoveryPolicy::Repair, RecoveryPolicy::Never] {
        assert!(decide(policy, Tried::default()).is_err());
    }
}

#[test]
fn a_configuration_that_was_restored_and_is_broken_still_costs_no_cluster() {
    let broken = Finding::new("configuration-broken", Severity::Warning, "pg_hba.conf", "no such type")
        .with_remedy(Remedy::RestoreConfiguration);
    let repairs = vec![(broken.code, broken.place.clone())];
    let diagnosis = diagnosis(ClusterCondition::Repairable, vec![broken]);
    let tried = Tried { repairs, start: true, failure: None };
    let backups = [backup(5, 1, 4)];

    let plan = recovery(&diagnosis, &Circumstances { tried, ..first_try(&backups) }).unwrap();

    assert!(plan.steps.iter().all(|step| !matches!(step.action, Action::Replace(_))), "{plan:?}");
}
