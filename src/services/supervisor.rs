//! What the supervisor does when something happens, decided without doing it.
//!
//! Order of a start: PostgreSQL, the services one after another, then the command; the first backup runs beside
//! the command. A failing part is told and the next one started: a container that dies cannot be debugged.

use super::events::{Action, Child, Configuration, Event, Level, Order, Seen, StartFailure, View};
use super::keeper::Keeper;
use super::scrub::Scrub;
use super::stopping::{NOT_REACTING, STILL_STOPPING, Stop, Urgency};
use crate::sys::{Ended, Signal};
use std::time::{Duration, Instant};

/// How often the server is looked at when nothing happens: not everybody's death is told to us.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked at while a command works on it.
const OPERATED_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked at while it stops.
const STOPPING_LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A service that still runs after this time stays in the foreground; the next one is started.
const SERVICE_PATIENCE: Duration = Duration::from_secs(10);
/// When a backup that failed is tried again, unless the next one is due before.
const BACKUP_RETRY: Duration = Duration::from_mins(15);

/// How far the start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// PostgreSQL is being started.
    Server,
    /// This service is; the next one follows when it has ended, or then.
    Service(usize, Instant),
    /// All is.
    Up,
}

/// When the next backup is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backup {
    /// As soon as the server runs.
    Wanted,
    /// It is being made; the time is when it began.
    Running(Instant),
    /// Then.
    Due(Instant),
    /// Never again.
    Off,
}

/// How far the seal of a cluster is, once all is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sealing {
    /// The server has not been seen alive since the stop began: what was found stopped may have been changed.
    NotDue,
    /// It has, and will be gone.
    Due,
    /// The seal is being written.
    Running,
}

/// The supervisor's mind.
#[derive(Debug)]
pub struct Supervisor {
    configuration: Configuration,
    keeper: Option<Keeper>,
    stage: Stage,
    running_services: Vec<usize>,
    is_command_running: bool,
    backup: Backup,
    is_server_alive: bool,
    looked_at: Instant,
    scrub: Scrub,
    stop: Option<Stop>,
    /// The server had to be shut down at once because a fast shutdown took too long.
    was_cut_short: bool,
    sealing: Sealing,
    /// The command's, once it has ended.
    exit_status: Option<u8>,
}

fn say(level: Level, text: impl Into<String>) -> Action {
    Action::Say(level, text.into())
}

impl Supervisor {
    /// One that has not begun.
    pub fn new(configuration: Configuration, now: Instant) -> Self {
        Self {
            keeper: configuration.has_server.then(Keeper::starting),
            scrub: Scrub::every(configuration.scrub_interval.filter(|_| configuration.has_server), now),
            configuration,
            stage: Stage::Server,
            running_services: Vec::new(),
            is_command_running: false,
            backup: Backup::Wanted,
            is_server_alive: false,
            looked_at: now,
            stop: None,
            was_cut_short: false,
            sealing: Sealing::NotDue,
            exit_status: None,
        }
    }

    /// Decides what to do about an event.
    pub fn next(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = match event {
            Event::Begin => self.begin(now),
            Event::Ordered(order) => self.ordered(order, now),
            Event::Ended(child, how) => self.ended(child, how, now),
            Event::NotStarted(child, failure) => self.not_started(child, &failure, now),
            Event::Looked(view) => self.looked(view, now),
            Event::Tick => Vec::new(),
        };
        actions.extend(self.time_went_by(now));
        actions
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let service = match self.stage {
            Stage::Service(_, until) => Some(until),
            _ => None,
        };
        let backup = match self.backup {
            Backup::Due(at) if self.is_server_running() => Some(at),
            _ => None,
        };
        let scrub = self.scrub.deadline().filter(|_| self.may_scrub());
        let stop = self.stop.as_ref().and_then(Stop::deadline);
        let keeper = self.keeper.as_ref().and_then(Keeper::deadline).filter(|_| self.stop.is_none());
        let look = self.keeper.as_ref().map(|_| self.looked_at + self.look_interval());
        [service, backup, scrub, stop, keeper, look].into_iter().flatten().min()
    }

    fn look_interval(&self) -> Duration {
        if self.stop.is_some() {
            return STOPPING_LOOK_INTERVAL;
        }
        let is_operated = self.keeper.as_ref().is_some_and(Keeper::is_waiting_for_a_command);
        if is_operated { OPERATED_LOOK_INTERVAL } else { LOOK_INTERVAL }
    }

    fn is_server_running(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::is_running)
    }

    fn is_init_running(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::is_starting)
    }

    fn begin(&mut self, now: Instant) -> Vec<Action> {
        match self.keeper {
            Some(_) => vec![Action::ClearStopped, Action::Start(Child::Init)],
            None => self.start_service(0, now),
        }
    }

    /// Starts the service at that place, or the command when there is none.
    fn start_service(&mut self, index: usize, now: Instant) -> Vec<Action> {
        if index < self.configuration.services.len() {
            self.stage = Stage::Service(index, now + SERVICE_PATIENCE);
            self.running_services.push(index);
            return vec![Action::Start(Child::Service(index))];
        }
        self.stage = Stage::Up;
        if !self.configuration.has_command {
            return Vec::new();
        }
        self.is_command_running = true;
        vec![Action::Start(Child::Command)]
    }

    /// Goes on with the start when PostgreSQL has come up, or failed to.
    fn server_is_settled(&mut self, now: Instant) -> Vec<Action> {
        if self.stage == Stage::Server && self.stop.is_none() {
            return self.start_service(0, now);
        }
        Vec::new()
    }

    fn ended(&mut self, child: Child, how: Ended, now: Instant) -> Vec<Action> {
        match child {
            Child::Init => {
                let mut actions = self.keep(|keeper| keeper.init_ended(how, now));
                if self.stop.is_some() {
                    // Whatever it left behind has to stop too.
                    self.is_server_alive = true;
                    actions = vec![Action::Look];
                } else if how != Ended::Status(0) {
                    actions.extend(self.server_is_settled(now));
                }
                actions
            }
            Child::Server => self.keep(|keeper| keeper.server_ended(how)),
            Child::Service(index) => self.service_ended(index, how, now),
            Child::Command => {
                let status = u8::try_from(how.exit_status()).unwrap_or(u8::MAX);
                self.command_ended(&format!("the command ended with {how}"), status, now)
            }
            Child::Backup => self.backup_ended(how, now),
            Child::Scrub => {
                let actions = self.scrub.ended(Ok(how), now);
                // That it ends is what it was told.
                if self.stop.is_some() { Vec::new() } else { actions }
            }
            Child::Seal => self.sealing_is_over(),
        }
    }

    fn not_started(&mut self, child: Child, failure: &StartFailure, now: Instant) -> Vec<Action> {
        let StartFailure { reason, status } = failure;
        match child {
            Child::Init => {
                let mut actions = self.keep(|keeper| keeper.init_not_started(reason, now));
                actions.extend(self.server_is_settled(now));
                actions
            }
            Child::Server => Vec::new(),
            Child::Service(index) => {
                let mut actions =
                    vec![say(Level::Error, format!("could not start {}: {reason}", self.name(index)))];
                actions.extend(self.service_is_over(index, now));
                actions
            }
            Child::Command => {
                let mut actions = vec![say(Level::Error, format!("could not start the command: {reason}"))];
                actions.extend(self.command_ended("the command did not start", *status, now));
                actions
            }
            Child::Backup => {
                self.schedule_backup(now, BACKUP_RETRY);
                vec![say(Level::Warning, format!("could not start a backup: {reason}"))]
            }
            Child::Scrub => self.scrub.ended(Err(reason), now),
            Child::Seal => self.sealing_is_over(),
        }
    }

    fn keep(&mut self, decide: impl FnOnce(&mut Keeper) -> Vec<Action>) -> Vec<Action> {
        let actions = self.keeper.as_mut().map(decide).unwrap_or_default();
        if self.stop.is_some() {
            // What would start it again does not count any more.
            return actions.into_iter().filter(|action| *action == Action::Look).collect();
        }
        actions
    }

    fn name(&self, index: usize) -> String {
        let name = self.configuration.services.get(index).map_or("?", String::as_str);
        format!("the service '{name}'")
    }

    fn service_ended(&mut self, index: usize, how: Ended, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if how != Ended::Status(0) && self.stop.is_none() {
            actions.push(say(Level::Error, format!("{} ended with {how}", self.name(index))));
        }
        actions.extend(self.service_is_over(index, now));
        actions
    }

    fn service_is_over(&mut self, index: usize, now: Instant) -> Vec<Action> {
        self.running_services.retain(|running| *running != index);
        match self.stage {
            Stage::Service(current, _) if current == index && self.stop.is_none() => {
                self.start_service(index + 1, now)
            }
            _ => Vec::new(),
        }
    }

    fn command_ended(&mut self, what: &str, status: u8, now: Instant) -> Vec<Action> {
        self.is_command_running = false;
        self.exit_status = Some(status);
        if self.stop.is_some() {
            return Vec::new();
        }
        self.begin_stop(Stop::unhurried(self.configuration.stop_timeout, now));
        let mut actions = vec![say(Level::Info, what)];
        actions.extend(self.signal_all(Signal::TERM));
        actions
    }

    fn ordered(&mut self, order: Order, now: Instant) -> Vec<Action> {
        match order {
            Order::Stop(signal) => self.stop_ordered(signal, now),
            Order::Forward(signal) if self.is_command_running => vec![Action::Signal(Child::Command, signal)],
            Order::Forward(_) => Vec::new(),
            _ if self.stop.is_some() => Vec::new(),
            Order::Reload if self.is_server_running() => {
                vec![say(Level::Info, "told PostgreSQL to reload"), Action::SignalServer(Signal::HUP)]
            }
            Order::Reload | Order::Retry => self.keep(Keeper::try_now),
        }
    }

    fn stop_ordered(&mut self, signal: Signal, now: Instant) -> Vec<Action> {
        let timeout = self.configuration.stop_timeout;
        let mut actions = Vec::new();
        match &mut self.stop {
            None => {
                let mut stop = Stop::within(timeout, now);
                if signal == Signal::QUIT {
                    stop.escalate(now);
                }
                self.begin_stop(stop);
                actions.push(say(Level::Info, "was told to stop"));
            }
            Some(stop) if !stop.is_ordered() && signal != Signal::QUIT => stop.hurry(timeout, now),
            Some(stop) => stop.escalate(now),
        }
        actions.extend(self.signal_all(signal));
        actions
    }

    fn begin_stop(&mut self, stop: Stop) {
        self.stop = Some(stop);
        // Until it has been looked at: what was seen last may be out of date.
        self.is_server_alive = self.keeper.is_some();
    }

    /// Tells all to end: the command as we were told, the server to shut down fast, the others with SIGTERM.
    fn signal_all(&self, signal: Signal) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_command_running {
            actions.push(Action::Signal(Child::Command, signal));
        }
        actions.extend(self.signal_others(Signal::TERM));
        if self.keeper.is_some() {
            actions.extend([Action::SignalServer(Signal::INT), Action::Look]);
        }
        actions
    }

    fn signal_others(&self, signal: Signal) -> Vec<Action> {
        let services = self.running_services.iter().map(|index| Child::Service(*index));
        let init = self.is_init_running().then_some(Child::Init);
        let backup = matches!(self.backup, Backup::Running(_)).then_some(Child::Backup);
        let scrub = self.scrub.is_running().then_some(Child::Scrub);
        let seal = (self.sealing == Sealing::Running).then_some(Child::Seal);
        init.into_iter()
            .chain(backup)
            .chain(scrub)
            .chain(seal)
            .chain(services)
            .map(|child| Action::Signal(child, signal))
            .collect()
    }

    fn looked(&mut self, view: View, now: Instant) -> Vec<Action> {
        self.looked_at = now;
        self.is_server_alive = view.server != Seen::Gone;
        if let Some(stop) = &self.stop {
            // Told again each time: it may be one that came up only now. The server heeds the first alone.
            let signal = if stop.urgency() == Urgency::Fast { Signal::INT } else { Signal::QUIT };
            let seal = self.seal_when_stopped(view.server);
            return if self.is_server_alive { vec![Action::SignalServer(signal)] } else { seal };
        }
        let was_running = self.is_server_running();
        let mut actions = self.keep(|keeper| keeper.looked(view, now));
        if self.is_server_running() && !was_running && view.has_wal_gap {
            self.want_backup();
        }
        if !self.is_init_running() {
            actions.extend(self.server_is_settled(now));
        }
        actions
    }

    /// Has the cluster sealed as soon as its server, which was seen to stop, is gone.
    ///
    /// By a child: this process may be root, and whatever touches the cluster runs as the server's user.
    fn seal_when_stopped(&mut self, server: Seen) -> Vec<Action> {
        match (server, self.sealing) {
            (Seen::Alive, Sealing::NotDue) => self.sealing = Sealing::Due,
            (Seen::Gone, Sealing::Due) if !self.was_cut_short => {
                self.sealing = Sealing::Running;
                return vec![Action::Start(Child::Seal)];
            }
            _ => {}
        }
        Vec::new()
    }

    /// Whether it came to a seal or not, nothing depends on it.
    fn sealing_is_over(&mut self) -> Vec<Action> {
        self.sealing = Sealing::NotDue;
        Vec::new()
    }

    /// Has a backup made at once, because a repair left a hole in the archive that only a backup closes. It is tried once
    /// for each start, and again when a backup is due.
    fn want_backup(&mut self) {
        if !matches!(self.backup, Backup::Running(_)) {
            self.backup = Backup::Wanted;
        }
    }

    fn backup_ended(&mut self, how: Ended, now: Instant) -> Vec<Action> {
        if how == Ended::Status(0) || self.stop.is_some() {
            self.schedule_backup(now, Duration::MAX);
            return Vec::new();
        }
        self.schedule_backup(now, BACKUP_RETRY);
        vec![say(Level::Warning, format!("the backup ended with {how}"))]
    }

    /// Sets when the next backup is due: an interval after the last one began, or sooner.
    fn schedule_backup(&mut self, now: Instant, at_most: Duration) {
        let began = if let Backup::Running(began) = self.backup { began } else { now };
        self.backup = match self.configuration.backup_interval {
            Some(interval) => Backup::Due((began + interval).max(now).min(now + at_most.min(interval))),
            None => Backup::Off,
        };
    }

    fn time_went_by(&mut self, now: Instant) -> Vec<Action> {
        if self.stop.is_some() {
            return self.go_on_stopping(now);
        }
        let mut actions = self.keep(|keeper| keeper.tick(now));
        if let Stage::Service(index, until) = self.stage
            && now >= until
        {
            actions.push(say(Level::Info, format!("{} stays in the foreground", self.name(index))));
            actions.extend(self.start_service(index + 1, now));
        }
        let is_due = match self.backup {
            Backup::Wanted => true,
            Backup::Due(at) => now >= at,
            Backup::Running(_) | Backup::Off => false,
        };
        if is_due && self.is_server_running() {
            self.backup = Backup::Running(now);
            actions.extend(self.scrub.make_way());
            actions.push(Action::Start(Child::Backup));
        } else if self.may_scrub() {
            actions.extend(self.scrub.start_if_due(now));
        }
        actions.extend(self.look_if_due(now));
        actions
    }

    /// Nothing else is to be slower for it.
    fn may_scrub(&self) -> bool {
        self.stop.is_none()
            && self.stage == Stage::Up
            && !matches!(self.backup, Backup::Running(_) | Backup::Wanted)
    }

    fn look_if_due(&mut self, now: Instant) -> Option<Action> {
        if self.keeper.is_none() || now < self.looked_at + self.look_interval() {
            return None;
        }
        self.looked_at = now;
        Some(Action::Look)
    }

    fn go_on_stopping(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = match self.stop.as_mut().and_then(|stop| stop.tick(now)) {
            _ if self.is_all_stopped() => {
                let status = self.exit_status.unwrap_or(u8::from(self.was_cut_short));
                return vec![say(Level::Info, "stopped"), Action::Exit(status)];
            }
            Some(Urgency::Immediate) => self.cut_short(STILL_STOPPING, Action::SignalServer(Signal::QUIT)),
            Some(Urgency::Kill) => {
                let command = self.is_command_running.then_some(Action::Signal(Child::Command, Signal::KILL));
                let server = self.cut_short(NOT_REACTING, Action::KillServer);
                self.signal_others(Signal::KILL).into_iter().chain(command).chain(server).collect()
            }
            Some(Urgency::Abandon) => {
                let text = "could not stop everything in time, and ended all the same";
                return vec![say(Level::Error, text), Action::Exit(self.exit_status.unwrap_or(1))];
            }
            _ => Vec::new(),
        };
        actions.extend(self.look_if_due(now));
        actions
    }

    /// Ends a server that is still there in another way than cleanly.
    fn cut_short(&mut self, what: &str, how: Action) -> Vec<Action> {
        if !self.is_server_alive {
            return Vec::new();
        }
        self.was_cut_short = true;
        vec![say(Level::Warning, format!("{what}; the next start replays its WAL")), how]
    }

    fn is_all_stopped(&self) -> bool {
        !self.is_command_running
            && !self.is_init_running()
            && !matches!(self.backup, Backup::Running(_))
            && !self.scrub.is_running()
            && self.running_services.is_empty()
            && self.sealing != Sealing::Running
            && !self.is_server_alive
    }
}
