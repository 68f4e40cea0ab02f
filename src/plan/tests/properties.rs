//! What a plan makes of remedies, and the properties that every plan must have, whatever the diagnosis.

use super::*;

/// Any condition that fits the findings.
fn condition_with(findings: &[Finding], choice: u8) -> ClusterCondition {
    match choice {
        0 => ClusterCondition::Absent,
        1 => ClusterCondition::Empty,
        2 => ClusterCondition::InterruptedInitdb,
        3 => ClusterCondition::OtherMajorVersion { found: MajorVersion(14), wanted: None },
        4 => ClusterCondition::NotPostgres { examples: vec!["letter.txt".into()] },
        _ => ClusterCondition::of_findings(findings),
    }
}

fn index() -> RelationName {
    RelationName { database: "postgres".into(), schema: "public".into(), name: "an_index".into() }
}

fn content() -> FileContent {
    FileContent { description: "the identity map".into(), bytes: vec![1; 512] }
}

fn remedies() -> impl Strategy<Value = Remedy> {
    prop_oneof![
        Just(Remedy::RecreateDirectory),
        Just(Remedy::SetAsideFile),
        Just(Remedy::TakeFromArchive),
        Just(Remedy::FetchBackupWal("put it into pg_wal".into())),
        Just(Remedy::WriteFile(content())),
        Just(Remedy::RestoreConfiguration),
        Just(Remedy::LeaveOut),
        Just(Remedy::Reindex(index())),
        Just(Remedy::ReplayFrom(Lsn(0x0100_0028))),
        Just(Remedy::ResetWal),
        Just(Remedy::RecreateTemplate0),
        Just(Remedy::SetMode(0o700)),
        Just(Remedy::SetOwner(999)),
        Just(Remedy::MakeReadable),
        Just(Remedy::LinkTablespace),
        Just(Remedy::LinkWal),
        Just(Remedy::FreeSpace),
        Just(Remedy::Replace),
        Just(Remedy::RestoreOrSeeToIt("make the directory".into())),
        Just(Remedy::Nothing),
    ]
}

fn findings() -> impl Strategy<Value = Vec<Finding>> {
    let severity = prop_oneof![Just(Severity::Error), Just(Severity::Warning), Just(Severity::Notice)];
    let finding = (severity, remedies(), 0..3_u8).prop_map(|(severity, remedy, place)| Finding {
        place: format!("base/5/{place}"),
        ..finding(severity, remedy)
    });
    proptest::collection::vec(finding, 0..5)
}

fn presences() -> impl Strategy<Value = Presence> {
    let elsewhere = Presence::Elsewhere { server: "a server elsewhere".to_owned() };
    prop_oneof![Just(Presence::Free), Just(Presence::Locked { holder: None }), Just(elsewhere)]
}

fn policies() -> impl Strategy<Value = RecoveryPolicy> {
    prop_oneof![Just(RecoveryPolicy::Auto), Just(RecoveryPolicy::Repair), Just(RecoveryPolicy::Never)]
}

#[test]
fn a_repair_that_did_not_help_is_not_tried_twice() {
    let reindex = finding(Severity::Error, Remedy::Reindex(index()));
    let diagnosis = diagnosis(ClusterCondition::Repairable, vec![reindex]);
    let backups = [backup(1, 1, 3)];
    let mut circumstances = first_try(&backups);

    let first = recovery(&diagnosis, &circumstances).unwrap();
    circumstances.tried.note(&diagnosis, &first.steps);
    let second = recovery(&diagnosis, &circumstances).unwrap();

    assert!(matches!(first.steps[0].action, Action::Reindex { .. }), "{first:?}");
    assert!(matches!(sources(&second)[0], Source::Backup { .. }), "{second:?}");
}

#[test]
fn a_template0_that_could_not_be_made_anew_needs_more_than_that() {
    let lost = finding(Severity::Error, Remedy::RecreateTemplate0);
    let diagnosis = diagnosis(ClusterCondition::Repairable, vec![lost]);
    let backups = [backup(1, 1, 3)];
    let mut circumstances = first_try(&backups);

    let first = recovery(&diagnosis, &circumstances).unwrap();
    circumstances.tried.note(&diagnosis, &first.steps);
    let second = recovery(&diagnosis, &circumstances).unwrap();

    assert_eq!(first.steps[0].action, Action::RecreateTemplate0);
    assert!(matches!(sources(&second)[0], Source::Backup { .. }), "{second:?}");
}

/// A lost table about which the WAL since this LSN has nothing.
fn untouched_since(lsn: u64) -> Diagnosis {
    let lost = Finding { untouched_since: Some(Lsn(lsn)), ..finding(Severity::Error, Remedy::Replace) };
    diagnosis(ClusterCondition::Damaged, vec![lost])
}

#[test]
fn a_relation_is_healed_alone_where_the_wal_since_the_backup_has_nothing_about_it() {
    let begun_at = |lsn: u64| BackupSummary { start_lsn: Some(Lsn(lsn)), ..backup(1, 1, 3) };
    let heals =
        |plan: &Plan| plan.steps.iter().any(|step| matches!(step.action, Action::HealFromBackup { .. }));

    let proven = decide(&untouched_since(0x0200_0028), &[begun_at(0x0200_0028)]).unwrap();
    assert!(heals(&proven) && sources(&proven).is_empty(), "{proven:?}");

    // The WAL of between the backup and what is known may have been about it.
    let unproven = decide(&untouched_since(0x0200_0028), &[begun_at(0x0200_0027)]).unwrap();
    assert!(!heals(&unproven) && !sources(&unproven).is_empty(), "{unproven:?}");

    let mut one_of_two = untouched_since(0x0200_0028);
    one_of_two
        .findings
        .push(Finding { place: "global/1262".into(), ..finding(Severity::Error, Remedy::Replace) });
    assert!(!heals(&decide(&one_of_two, &[begun_at(0x0200_0028)]).unwrap()));
}

#[test]
fn a_lost_control_file_comes_before_any_verdict_on_the_rest() {
    let control = Finding {
        place: "global/pg_control".into(),
        ..finding(Severity::Warning, Remedy::WriteFile(content()))
    };
    let lost = finding(Severity::Error, Remedy::Replace);
    let plan =
        decide(&diagnosis(ClusterCondition::Damaged, vec![lost, control]), &[backup(1, 1, 3)]).unwrap();

    let actions: Vec<&Action> = plan.steps.iter().map(|step| &step.action).collect();
    assert!(matches!(actions.as_slice(), [Action::WriteFile { .. }, Action::LookAgain]), "{actions:?}");
}

#[test]
fn what_was_left_for_a_later_round_was_not_tried() {
    // The copy is made when the small things are right; they are no try at healing the page.
    let directory =
        Finding { place: "pg_notify".into(), ..finding(Severity::Error, Remedy::RecreateDirectory) };
    let page =
        Finding { place: "base/5/16385".into(), ..finding(Severity::Error, Remedy::ReplayFrom(Lsn(64))) };
    let backups = [backup(1, 1, 3)];
    let mut circumstances = first_try(&backups);

    let both = diagnosis(ClusterCondition::Repairable, vec![directory, page.clone()]);
    let first = recovery(&both, &circumstances).unwrap();
    circumstances.tried.note(&both, &first.steps);
    let left = diagnosis(ClusterCondition::Repairable, vec![page]);
    let second = recovery(&left, &circumstances).unwrap();

    assert!(matches!(first.steps[0].action, Action::RecreateDirectory { .. }), "{first:?}");
    assert!(matches!(sources(&second)[0], Source::Replayed { .. }), "{second:?}");
}

#[test]
fn what_replay_may_put_right_is_left_to_it_until_it_failed() {
    let unsure = diagnosis(ClusterCondition::Sound, vec![finding(Severity::Warning, Remedy::Replace)]);
    let backups = [backup(1, 1, 3)];
    let mut circumstances = first_try(&backups);

    let first = recovery(&unsure, &circumstances).unwrap();
    circumstances.tried.start = true;
    let second = recovery(&unsure, &circumstances).unwrap();

    assert!(matches!(first.steps.as_slice(), [step] if step.action == Action::Start));
    assert!(matches!(sources(&second)[0], Source::Backup { .. }), "{second:?}");
}

#[test]
fn what_only_replay_can_settle_is_looked_at_again_before_anybody_is_let_in() {
    let mut crashed =
        diagnosis(ClusterCondition::Sound, vec![finding(Severity::Warning, Remedy::Reindex(index()))]);
    crashed.identity.state = Some(ClusterState::InProduction);

    let steps = decide(&crashed, &[]).unwrap().steps;

    let actions: Vec<&Action> = steps.iter().map(|step| &step.action).collect();
    assert_eq!(actions, [&Action::RecoverFirst, &Action::LookAgain]);
    // To replay is no repair of it: found again, it is repaired before anything is replaced.
    let mut tried = Tried::default();
    tried.note(&crashed, &steps);
    assert_eq!(tried, Tried::default());
    crashed.identity.state = Some(ClusterState::ShutDown);
    let plan = decide(&crashed, &[]).unwrap();
    assert!(matches!(plan.steps.as_slice(), [step] if step.action == Action::Start));
}

#[test]
fn a_mode_that_keeps_the_owner_out_is_set_right_before_any_verdict_and_once() {
    let mode = Finding::new("mode-wrong", Severity::Warning, "base/5", "0000");
    let unknown = finding(Severity::Error, Remedy::MakeReadable);
    let found = vec![unknown, mode.with_remedy(Remedy::SetMode(0o700))];
    let found = diagnosis(ClusterCondition::Damaged, found);

    let plan = decide(&found, &[]).unwrap();

    let set = Action::SetMode { place: "base/5".into(), mode: 0o700 };
    let actions: Vec<&Action> = plan.steps.iter().map(|step| &step.action).collect();
    assert_eq!(actions, [&set, &Action::LookAgain]);
    let mut tried = Tried::default();
    tried.note(&found, &plan.steps);
    let circumstances = Circumstances { tried, ..first_try(&[]) };
    assert!(recovery(&found, &circumstances).is_err());
}

#[test]
fn a_control_file_that_was_not_believed_is_not_compared_with_the_one_on_the_disk() {
    let rebuilt = ClusterIdentity { control_crc: None, ..identity(1) };
    assert_eq!(recovery::Belief::of(&rebuilt).system_identifier, None);
    let read = ClusterIdentity { control_crc: Some(5), ..identity(1) };
    assert_eq!(recovery::Belief::of(&read).system_identifier, Some(CLUSTER));
}

#[test]
fn indexes_of_one_database_are_built_anew_in_one_go_and_after_everything_else() {
    let other = RelationName { name: "another".into(), ..index() };
    let findings = vec![
        finding(Severity::Error, Remedy::Reindex(index())),
        finding(Severity::Error, Remedy::WriteFile(content())),
        finding(Severity::Warning, Remedy::RecreateDirectory),
        finding(Severity::Error, Remedy::Reindex(other.clone())),
    ];
    let plan = decide(&diagnosis(ClusterCondition::Repairable, findings), &[]).unwrap();

    let actions: Vec<&Action> = plan.steps.iter().map(|step| &step.action).collect();
    assert!(
        matches!(
            actions.as_slice(),
            [
                Action::RecreateDirectory { .. },
                Action::WriteFile { .. },
                Action::Reindex { indexes, .. },
                Action::LookAgain,
                Action::Start
            ] if *indexes == [index(), other.clone()]
        ),
        "{actions:?}"
    );
}

/// Whether a plan does something about each finding that asks for it: a step for it, or a replacement of all.
fn leaves_nothing_undone(plan: &Plan, findings: &[Finding]) -> bool {
    let is_replaced = !sources(plan).is_empty();
    let has = |sort: &dyn Fn(&Action) -> bool| plan.steps.iter().any(|step| sort(&step.action));
    let looks_again = has(&|action| *action == Action::LookAgain);
    findings.iter().filter(|finding| finding.asks_for_repair()).all(|finding| {
        let is_done = has(&|action| match (action, &finding.remedy) {
            (Action::Reindex { indexes, .. }, Remedy::Reindex(index)) => indexes.contains(index),
            (Action::RecreateDirectory { place }, Remedy::RecreateDirectory)
            | (Action::SetAsideFile { place }, Remedy::SetAsideFile)
            | (Action::TakeFromArchive { place }, Remedy::TakeFromArchive)
            | (Action::WriteFile { place, .. }, Remedy::WriteFile(_))
            | (Action::RestoreConfiguration { place }, Remedy::RestoreConfiguration)
            | (Action::SetMode { place, .. }, Remedy::SetMode(_)) => *place == finding.place,
            (Action::ResetWal, Remedy::ResetWal) | (Action::RecreateTemplate0, Remedy::RecreateTemplate0) => {
                true
            }
            _ => false,
        });
        let comes_later = matches!(finding.remedy, Remedy::ReplayFrom(_) | Remedy::Reindex(_)) && looks_again;
        is_replaced || is_done || comes_later
    })
}

proptest! {
    #[test]
    fn no_plan_loses_anything_or_goes_further_than_allowed(
        choice in 0..10_u8,
        findings in findings(),
        presence in presences(),
        policy in policies(),
        ages in proptest::collection::vec(1..10_000_i64, 0..4),
    ) {
        let backups: Vec<_> = ages.iter().map(|age| backup(*age, 1, 3)).collect();
        let condition = condition_with(&findings, choice);
        let mut diagnosis = diagnosis(condition.clone(), findings.clone());
        diagnosis.presence = presence.clone();
        let circumstances = Circumstances { policy, ..first_try(&backups) };

        let Ok(plan) = recovery(&diagnosis, &circumstances) else { return Ok(()) };

        // In use elsewhere, another version's or not PostgreSQL's: there is no plan at all.
        prop_assert_eq!(presence, Presence::Free);
        let is_foreign = matches!(
            condition,
            ClusterCondition::OtherMajorVersion { .. } | ClusterCondition::NotPostgres { .. }
        );
        prop_assert!(!is_foreign);
        // Nothing is replaced that is not kept, and nothing on account of what could not be read.
        prop_assert!(is_set_aside_first(&plan));
        let unknown = findings.iter().any(|found| {
            let needs_a_person =
                [Remedy::MakeReadable, Remedy::LinkTablespace, Remedy::LinkWal, Remedy::FreeSpace, Remedy::SetOwner(999)];
            needs_a_person.contains(&found.remedy)
        });
        prop_assert!(!unknown || sources(&plan).is_empty());
        // An empty cluster is made only where there is no other, or nothing to restore.
        let is_new = matches!(
            condition,
            ClusterCondition::Absent | ClusterCondition::Empty | ClusterCondition::InterruptedInitdb
        );
        prop_assert!(is_new || backups.is_empty() || !sources(&plan).contains(&Source::Fresh));
        // A policy is kept.
        let touches = plan.steps.iter().any(|step| !matches!(step.effect, Effect::Starts | Effect::Adds));
        prop_assert!(policy != RecoveryPolicy::Never || !touches);
        let goes_far = sources(&plan).iter().any(|source| !matches!(source, Source::Replayed { .. }));
        prop_assert!(policy == RecoveryPolicy::Auto || is_new || !goes_far);
        // Nothing that was found is forgotten, and a sound cluster is only started.
        prop_assert!(is_new || unknown || leaves_nothing_undone(&plan, &findings), "{:?}", plan);
        if condition == ClusterCondition::Sound && !unknown {
            prop_assert!(matches!(plan.steps.as_slice(), [step] if step.action == Action::Start));
        }
        // The same input gives the same plan.
        prop_assert_eq!(recovery(&diagnosis, &circumstances).unwrap(), plan);
    }
}
