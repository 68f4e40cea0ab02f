//! Every rule of the supervisor, told as events and the actions that must follow.

mod backups;

use super::events::{Action, Child, Configuration, Event, Level, Order, Seen, StartFailure, View};
use super::supervisor::Supervisor;
use crate::sys::{Ended, Signal};
use std::time::{Duration, Instant};

const ALIVE: View = View { server: Seen::Alive, ..GONE };
const GONE: View = View { server: Seen::Gone, is_stopped: false, is_operated: false, has_wal_gap: false };
const LEFT_BEHIND: View = View { server: Seen::LeftBehind, ..GONE };
const STOPPED: View = View { is_stopped: true, ..GONE };
const OPERATED: View = View { is_operated: true, ..GONE };
const DONE: Ended = Ended::Status(0);

/// A supervisor and a clock that moves only when told to.
struct Scene {
    supervisor: Supervisor,
    now: Instant,
}

fn configuration() -> Configuration {
    Configuration {
        has_server: true,
        services: Vec::new(),
        has_command: false,
        stop_timeout: Duration::from_secs(8),
        backup_interval: None,
        scrub_interval: None,
    }
}

impl Scene {
    fn new(configuration: Configuration) -> Self {
        let now = Instant::now();
        Self { supervisor: Supervisor::new(configuration, now), now }
    }

    /// One whose server runs.
    fn up(configuration: Configuration) -> Self {
        let mut scene = Self::new(configuration);
        scene.event(Event::Begin);
        scene.event(Event::Ended(Child::Init, DONE));
        scene.event(Event::Looked(ALIVE));
        scene
    }

    /// What follows an event, without what is only said and what is always done besides.
    fn event(&mut self, event: Event) -> Vec<Action> {
        let actions = self.supervisor.next(event, self.now);
        actions
            .into_iter()
            .filter(|action| !matches!(action, Action::Say(..) | Action::Look | Action::StopLeftBehind))
            .collect()
    }

    fn all(&mut self, event: Event) -> Vec<Action> {
        self.supervisor.next(event, self.now)
    }

    fn after(&mut self, seconds: u64) -> Vec<Action> {
        self.now += Duration::from_secs(seconds);
        self.event(Event::Tick)
    }

    fn stop(&mut self, signal: Signal) -> Vec<Action> {
        self.event(Event::Ordered(Order::Stop(signal)))
    }
}

fn said(actions: &[Action], level: Level) -> Option<&str> {
    actions.iter().find_map(|action| match action {
        Action::Say(found, text) if *found == level => Some(text.as_str()),
        _ => None,
    })
}

fn failure(status: u8) -> StartFailure {
    StartFailure { reason: "no".to_owned(), status }
}

#[test]
fn a_start_is_postgresql_then_services_in_order_then_the_command() {
    let services = vec!["a".to_owned(), "b".to_owned()];
    let mut scene = Scene::new(Configuration { services, has_command: true, ..configuration() });

    assert_eq!(scene.event(Event::Begin), [Action::ClearStopped, Action::Start(Child::Init)]);
    assert_eq!(scene.event(Event::Ended(Child::Init, DONE)), []);
    let ready = scene.event(Event::Looked(ALIVE));
    assert_eq!(ready, [Action::Start(Child::Service(0)), Action::Start(Child::Backup)]);
    assert_eq!(scene.event(Event::Ended(Child::Service(0), DONE)), [Action::Start(Child::Service(1))]);
    assert_eq!(scene.event(Event::Ended(Child::Service(1), DONE)), [Action::Start(Child::Command)]);
}

#[test]
fn a_service_that_fails_is_told_and_the_others_go_on() {
    let services = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    let mut scene = Scene::new(Configuration { has_server: false, services, ..configuration() });
    assert_eq!(scene.event(Event::Begin), [Action::Start(Child::Service(0))]);

    let actions = scene.all(Event::Ended(Child::Service(0), Ended::Status(3)));
    assert_eq!(said(&actions, Level::Error), Some("the service 'a' ended with status 3"));
    assert!(actions.contains(&Action::Start(Child::Service(1))));

    let actions = scene.event(Event::NotStarted(Child::Service(1), failure(126)));
    assert_eq!(actions, [Action::Start(Child::Service(2))]);
}

#[test]
fn a_service_that_stays_in_the_foreground_does_not_hold_the_others_up() {
    let services = vec!["a".to_owned()];
    let mut scene =
        Scene::new(Configuration { has_server: false, services, has_command: true, ..configuration() });
    scene.event(Event::Begin);

    assert_eq!(scene.after(9), []);
    assert_eq!(scene.after(1), [Action::Start(Child::Command)]);
    // It is still there, so that a stop reaches it.
    assert!(scene.stop(Signal::TERM).contains(&Action::Signal(Child::Service(0), Signal::TERM)));
}

#[test]
fn the_command_runs_even_if_the_database_cannot_be_started() {
    let mut scene = Scene::new(Configuration { has_command: true, ..configuration() });
    scene.event(Event::Begin);

    assert_eq!(scene.event(Event::Ended(Child::Init, Ended::Status(1))), [Action::Start(Child::Command)]);
    assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
}

#[test]
fn a_stop_tells_the_command_the_server_and_the_services_and_ends_with_the_commands_status() {
    let services = vec!["a".to_owned()];
    let mut scene = Scene::up(Configuration { services, has_command: true, ..configuration() });
    scene.after(10);
    scene.event(Event::Ended(Child::Backup, DONE));

    let expected = [
        Action::Signal(Child::Command, Signal::INT),
        Action::Signal(Child::Service(0), Signal::TERM),
        Action::SignalServer(Signal::INT),
    ];
    assert_eq!(scene.stop(Signal::INT), expected);
    assert_eq!(scene.event(Event::Ended(Child::Command, Ended::Signal(15))), []);
    assert_eq!(scene.event(Event::Ended(Child::Service(0), DONE)), []);
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Exit(143)]);
}

#[test]
fn a_clean_stop_without_a_command_ends_with_0() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    assert_eq!(scene.stop(Signal::TERM), [Action::SignalServer(Signal::INT)]);
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Exit(0)]);
}

#[test]
fn a_server_that_was_seen_to_stop_is_sealed_whatever_becomes_of_the_seal() {
    for end in [Event::Ended(Child::Seal, Ended::Status(1)), Event::NotStarted(Child::Seal, failure(126))] {
        let mut scene = Scene::up(configuration());
        scene.event(Event::Ended(Child::Backup, DONE));
        scene.stop(Signal::TERM);
        scene.event(Event::Looked(ALIVE));

        assert_eq!(scene.event(Event::Looked(GONE)), [Action::Start(Child::Seal)]);
        assert_eq!(scene.event(Event::Looked(GONE)), []);
        assert_eq!(scene.event(end), [Action::Exit(0)]);
    }
}

#[test]
fn a_server_that_had_to_be_shut_down_at_once_is_not_sealed() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    scene.stop(Signal::TERM);
    scene.event(Event::Looked(ALIVE));
    scene.after(6);

    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Exit(1)]);
}

#[test]
fn nothing_ends_before_the_server_has_been_looked_at() {
    // `init-postgresql` has just ended, and the look at its server is still to come.
    let mut scene = Scene::new(configuration());
    scene.event(Event::Begin);
    scene.event(Event::Ended(Child::Init, DONE));

    assert_eq!(scene.stop(Signal::TERM), [Action::SignalServer(Signal::INT)]);
    assert_eq!(scene.event(Event::Looked(ALIVE)), [Action::SignalServer(Signal::INT)]);
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Start(Child::Seal)]);
    assert_eq!(scene.event(Event::Ended(Child::Seal, DONE)), [Action::Exit(0)]);
}

#[test]
fn a_stop_that_takes_long_becomes_immediate_before_the_time_is_over_and_kills_what_is_left_after_it() {
    let mut scene = Scene::up(Configuration { has_command: true, ..configuration() });
    scene.event(Event::Ended(Child::Backup, DONE));
    scene.stop(Signal::TERM);
    scene.event(Event::Looked(ALIVE));

    assert_eq!(scene.after(5), []);
    assert_eq!(scene.after(1), [Action::SignalServer(Signal::QUIT)]);
    let killed = scene.after(2);
    assert!(killed.contains(&Action::Signal(Child::Command, Signal::KILL)), "{killed:?}");
    assert!(killed.contains(&Action::KillServer), "{killed:?}");
    assert_eq!(scene.event(Event::Looked(ALIVE)), [Action::SignalServer(Signal::QUIT)]);
    scene.event(Event::Ended(Child::Command, Ended::Signal(9)));
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Exit(137)]);
}

#[test]
fn a_stop_that_had_to_be_cut_short_does_not_end_with_0() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    scene.stop(Signal::TERM);
    scene.after(6);
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Exit(1)]);
}

#[test]
fn a_stop_ends_at_last_even_if_something_does_not() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    scene.stop(Signal::TERM);
    assert!(scene.after(18).contains(&Action::Exit(1)));
}

#[test]
fn a_second_stop_shuts_the_server_down_at_once() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    scene.stop(Signal::TERM);
    assert!(scene.stop(Signal::TERM).contains(&Action::SignalServer(Signal::QUIT)));
}

#[test]
fn a_stop_during_the_start_is_for_init_postgresql_and_for_what_it_leaves_behind() {
    let mut scene = Scene::new(Configuration { has_command: true, ..configuration() });
    scene.event(Event::Begin);

    let expected = [Action::Signal(Child::Init, Signal::TERM), Action::SignalServer(Signal::INT)];
    assert_eq!(scene.stop(Signal::TERM), expected);
    assert_eq!(scene.event(Event::Looked(GONE)), []);
    assert_eq!(scene.event(Event::Ended(Child::Init, Ended::Signal(15))), []);
    assert_eq!(scene.event(Event::Looked(ALIVE)), [Action::SignalServer(Signal::INT)]);
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Start(Child::Seal)]);
    assert_eq!(scene.event(Event::Ended(Child::Seal, DONE)), [Action::Exit(0)]);
}

#[test]
fn a_stop_ends_a_running_backup_too() {
    let mut scene = Scene::up(configuration());
    assert!(scene.stop(Signal::TERM).contains(&Action::Signal(Child::Backup, Signal::TERM)));
    assert_eq!(scene.event(Event::Looked(GONE)), []);
    assert_eq!(scene.event(Event::Ended(Child::Backup, Ended::Signal(15))), [Action::Exit(0)]);
}

#[test]
fn when_the_command_ends_the_server_is_stopped_fast_and_without_a_clock() {
    let mut scene = Scene::up(Configuration { has_command: true, ..configuration() });
    scene.event(Event::Ended(Child::Backup, DONE));

    assert_eq!(
        scene.event(Event::Ended(Child::Command, Ended::Status(7))),
        [Action::SignalServer(Signal::INT)]
    );
    scene.event(Event::Looked(ALIVE));
    assert_eq!(scene.after(30), []);
    // Now somebody with a clock asks: the first time is no second time.
    assert_eq!(scene.stop(Signal::TERM), [Action::SignalServer(Signal::INT)]);
    assert_eq!(scene.after(6), [Action::SignalServer(Signal::QUIT)]);
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Exit(7)]);
}

#[test]
fn a_command_that_cannot_be_started_ends_all_with_127() {
    let mut scene = Scene::new(Configuration { has_server: false, has_command: true, ..configuration() });
    scene.event(Event::Begin);
    assert_eq!(scene.event(Event::NotStarted(Child::Command, failure(127))), [Action::Exit(127)]);
}

#[test]
fn a_server_that_died_is_started_again_after_a_pause() {
    let mut scene = Scene::up(configuration());

    assert_eq!(scene.all(Event::Ended(Child::Server, Ended::Signal(9))), [Action::Look]);
    let actions = scene.all(Event::Looked(GONE));
    let expected = "PostgreSQL ended with signal 9 without being asked to; it is started again in 1 s";
    assert_eq!(said(&actions, Level::Warning), Some(expected));
    assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
}

#[test]
fn pauses_grow_and_at_the_fifth_failure_a_person_is_called_but_it_is_still_tried() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Looked(GONE));
    for pause in [1, 2, 4] {
        assert_eq!(scene.after(pause - 1), []);
        assert_eq!(scene.after(1), [Action::Start(Child::Init)], "{pause}");
        scene.event(Event::Ended(Child::Init, Ended::Status(1)));
    }
    scene.after(8);
    let actions = scene.all(Event::Ended(Child::Init, Ended::Status(1)));
    assert!(said(&actions, Level::Error).unwrap().contains("a person has to look"));
    assert_eq!(scene.after(299), []);
    assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
}

#[test]
fn a_server_that_is_killed_again_and_again_is_back_within_seconds_each_time_and_a_person_is_called() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    let mut calls = 0;
    for pause in [1, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4] {
        let actions = scene.all(Event::Looked(GONE));
        calls += usize::from(said(&actions, Level::Error).is_some());
        assert_eq!(scene.after(pause - 1), []);
        assert_eq!(scene.after(1), [Action::Start(Child::Init)], "{pause}");
        scene.event(Event::Ended(Child::Init, DONE));
        scene.event(Event::Looked(ALIVE));
    }
    assert_eq!(calls, 2);
}

#[test]
fn a_directory_that_another_uses_calls_nobody_and_is_tried_at_least_every_minute() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Looked(GONE));
    for pause in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        assert_eq!(scene.after(pause - 1), []);
        assert_eq!(scene.after(1), [Action::Start(Child::Init)], "{pause}");
        let actions = scene.all(Event::Ended(Child::Init, Ended::Status(5)));
        assert!(said(&actions, Level::Warning).unwrap().contains("status 5"));
    }
}

#[test]
fn what_trying_again_does_not_change_calls_a_person_at_once() {
    for status in [2, 6, 127] {
        let mut scene = Scene::new(configuration());
        scene.event(Event::Begin);
        let actions = scene.all(Event::Ended(Child::Init, Ended::Status(status)));
        assert!(said(&actions, Level::Error).is_some(), "{status}");
        assert_eq!(scene.after(60), []);
    }
}

#[test]
fn a_person_can_have_it_tried_at_once() {
    for order in [Order::Retry, Order::Reload] {
        let mut scene = Scene::new(configuration());
        scene.event(Event::Begin);
        scene.event(Event::Ended(Child::Init, Ended::Status(6)));
        assert_eq!(scene.event(Event::Ordered(order)), [Action::Start(Child::Init)]);
        // Already at it.
        assert_eq!(scene.event(Event::Ordered(order)), []);
    }
}

#[test]
fn a_server_that_lived_long_has_its_failures_forgotten() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));
    for _ in 0..6 {
        scene.now += Duration::from_mins(10);
        scene.event(Event::Looked(ALIVE));
        scene.event(Event::Looked(GONE));
        assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
        scene.event(Event::Ended(Child::Init, DONE));
        scene.event(Event::Looked(ALIVE));
    }
}

#[test]
fn a_server_that_a_person_stopped_stays_stopped_until_it_is_started() {
    let mut scene = Scene::up(configuration());

    assert_eq!(
        said(&scene.all(Event::Looked(STOPPED)), Level::Info),
        Some("left PostgreSQL stopped, as `maintenance stop` asked for")
    );
    assert_eq!(scene.after(3600), []);
    assert_eq!(said(&scene.all(Event::Looked(STOPPED)), Level::Info), None);
    assert_eq!(scene.event(Event::Ordered(Order::Retry)), []);
    // `maintenance start`
    scene.event(Event::Looked(ALIVE));
    scene.event(Event::Looked(GONE));
    assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
}

#[test]
fn a_server_under_a_restore_is_left_to_it_and_looked_at_again() {
    let mut scene = Scene::up(configuration());
    scene.event(Event::Ended(Child::Backup, DONE));

    assert_eq!(scene.event(Event::Looked(OPERATED)), []);
    scene.now += Duration::from_secs(1);
    assert_eq!(scene.all(Event::Tick), [Action::Look]);
    assert_eq!(scene.event(Event::Looked(OPERATED)), []);
    // It ended without a server.
    scene.event(Event::Looked(GONE));
    assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
}

#[test]
fn a_restart_by_a_command_is_no_failure() {
    let mut scene = Scene::up(configuration());
    for _ in 0..9 {
        scene.event(Event::Looked(OPERATED));
        assert_eq!(said(&scene.all(Event::Looked(ALIVE)), Level::Error), None);
    }
    scene.event(Event::Looked(GONE));
    assert_eq!(scene.after(1), [Action::Start(Child::Init)]);
}

#[test]
fn the_server_is_looked_at_every_few_seconds_because_its_end_may_not_be_told() {
    let mut scene = Scene::up(configuration());
    scene.now += Duration::from_secs(5);
    assert!(scene.all(Event::Tick).contains(&Action::Look));
    assert!(scene.supervisor.deadline().unwrap() > scene.now);
}

#[test]
fn hangup_reloads_a_running_server_and_user_2_is_the_commands() {
    let mut scene = Scene::up(Configuration { has_command: true, ..configuration() });
    assert_eq!(scene.event(Event::Ordered(Order::Reload)), [Action::SignalServer(Signal::HUP)]);
    let forwarded = scene.event(Event::Ordered(Order::Forward(Signal::USR2)));
    assert_eq!(forwarded, [Action::Signal(Child::Command, Signal::USR2)]);
}

#[test]
fn without_a_server_or_a_command_it_waits_to_be_stopped() {
    let mut scene = Scene::new(Configuration { has_server: false, ..configuration() });
    assert_eq!(scene.event(Event::Begin), []);
    assert_eq!(scene.supervisor.deadline(), None);
    assert_eq!(scene.stop(Signal::TERM), [Action::Exit(0)]);
}

#[test]
fn a_server_that_a_killed_init_postgresql_left_behind_is_stopped() {
    let mut scene = Scene::new(configuration());
    scene.event(Event::Begin);
    scene.event(Event::Ended(Child::Init, Ended::Signal(9)));
    scene.now += Duration::from_secs(1);
    let again = [Action::StopLeftBehind, Action::Start(Child::Init)];
    assert!(scene.all(Event::Tick).starts_with(&again));

    scene.stop(Signal::TERM);
    scene.event(Event::Ended(Child::Init, Ended::Signal(15)));
    assert_eq!(scene.event(Event::Looked(LEFT_BEHIND)), [Action::SignalServer(Signal::INT)]);
    assert_eq!(scene.event(Event::Looked(GONE)), [Action::Exit(0)]);
}
