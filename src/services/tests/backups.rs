//! When backups are made, and when the repository is read back.

use super::{
    ALIVE, Action, Child, Configuration, DONE, Duration, Ended, Event, GONE, Level, STOPPED, Scene, Signal,
    View, configuration, said,
};

#[test]
fn backups_are_made_at_the_start_and_then_every_interval_while_the_server_runs() {
    let interval = Duration::from_hours(1);
    let mut scene = Scene::up(Configuration { backup_interval: Some(interval), ..configuration() });
    scene.now += Duration::from_secs(100);
    scene.event(Event::Ended(Child::Backup, DONE));

    // An interval after it began, not after it ended.
    assert_eq!(scene.after(3499), []);
    assert_eq!(scene.after(1), [Action::Start(Child::Backup)]);
    scene.event(Event::Ended(Child::Backup, DONE));
    scene.event(Event::Looked(STOPPED));
    assert_eq!(scene.after(7200), []);
    assert_eq!(scene.event(Event::Looked(ALIVE)), [Action::Start(Child::Backup)]);
}

#[test]
fn a_backup_that_failed_is_told_and_tried_again_sooner() {
    let interval = Duration::from_hours(24);
    let mut scene = Scene::up(Configuration { backup_interval: Some(interval), ..configuration() });

    let actions = scene.all(Event::Ended(Child::Backup, Ended::Status(1)));
    assert_eq!(said(&actions, Level::Warning), Some("the backup ended with status 1"));
    assert_eq!(scene.after(15 * 60), [Action::Start(Child::Backup)]);
}

#[rstest::rstest]
#[case::of_every_day(Some(Duration::from_hours(24)))]
#[case::of_none(None)]
fn a_hole_that_a_restart_left_in_the_archive_is_closed_by_a_backup_at_once(
    #[case] backup_interval: Option<Duration>,
) {
    let with_gap = View { has_wal_gap: true, ..ALIVE };
    let mut scene = Scene::up(Configuration { backup_interval, ..configuration() });
    scene.event(Event::Ended(Child::Backup, DONE));
    // Not while it runs: then the archive was out of reach, and a backup is no likelier to reach it.
    assert_eq!(scene.event(Event::Looked(with_gap)), []);
    scene.event(Event::Looked(GONE));
    assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
    scene.event(Event::Ended(Child::Init, DONE));

    assert_eq!(scene.event(Event::Looked(with_gap)), [Action::Start(Child::Backup)]);

    scene.event(Event::Ended(Child::Backup, Ended::Status(1)));
    assert_eq!(scene.event(Event::Looked(with_gap)), [], "one that fails is not tried without a pause");
}

#[test]
fn without_an_interval_there_is_only_the_first_backup() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    assert_eq!(scene.after(1_000_000), []);
}

#[test]
fn the_repository_is_read_back_in_steps_and_never_beside_a_backup() {
    let hours = |count| Some(Duration::from_hours(count));
    let mut scene = Scene::up(Configuration {
        backup_interval: hours(24),
        scrub_interval: hours(14 * 24),
        ..configuration()
    });
    assert_eq!(scene.event(Event::Looked(ALIVE)), [], "the first backup is being made");

    assert_eq!(scene.event(Event::Ended(Child::Backup, DONE)), [Action::Start(Child::Scrub)]);
    let make_way = Action::Signal(Child::Scrub, Signal::TERM);
    assert_eq!(scene.after(24 * 3600), [make_way, Action::Start(Child::Backup)]);
    let ended = scene.all(Event::Ended(Child::Scrub, Ended::Signal(15)));
    assert_eq!(said(&ended, Level::Warning), None);

    assert_eq!(scene.event(Event::Ended(Child::Backup, DONE)), [Action::Start(Child::Scrub)], "it goes on");
    let ended = scene.all(Event::Ended(Child::Scrub, Ended::Status(4)));
    assert_eq!(said(&ended, Level::Warning), Some("reading the backups back ended with status 4"));
    assert_eq!(scene.after(24 * 3600 - 1), []);
}

#[test]
fn a_stop_ends_reading_back_and_waits_for_it() {
    let mut scene =
        Scene::up(Configuration { scrub_interval: Some(Duration::from_hours(1)), ..configuration() });
    scene.event(Event::Ended(Child::Backup, DONE));

    assert!(scene.stop(Signal::TERM).contains(&Action::Signal(Child::Scrub, Signal::TERM)));
    scene.event(Event::Looked(GONE));
    let ended = scene.all(Event::Ended(Child::Scrub, Ended::Signal(15)));
    assert_eq!(ended, [Action::Say(Level::Info, "stopped".to_owned()), Action::Exit(0)]);
}
