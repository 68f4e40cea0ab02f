//! When the repository is read back: beside all else, and never beside a backup.

use super::events::{Action, Child, Level};
use crate::plan::scrub::STEPS;
use crate::sys::{Ended, Signal};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Then.
    Due(Instant),
    /// It is being read.
    Running,
    /// It is being read, and was told to end for a backup.
    MakingWay,
    /// Never.
    Off,
}

/// The job that reads the repository back.
#[derive(Debug)]
pub(super) struct Scrub {
    state: State,
    pause: Duration,
}

impl Scrub {
    /// One that is due at once, and so often that a round takes `interval`; `None` is never.
    pub(super) fn every(interval: Option<Duration>, now: Instant) -> Self {
        let state = interval.map_or(State::Off, |_| State::Due(now));
        Self { state, pause: interval.unwrap_or_default() / STEPS }
    }

    /// When it wants to be started.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Due(at) => Some(at),
            _ => None,
        }
    }

    /// Whether its child lives.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running | State::MakingWay)
    }

    /// Starts it if it is due. Not to be called while a backup is made.
    pub(super) fn start_if_due(&mut self, now: Instant) -> Option<Action> {
        let is_due = self.deadline().is_some_and(|at| now >= at);
        is_due.then(|| {
            self.state = State::Running;
            Action::Start(Child::Scrub)
        })
    }

    /// Lets a backup have the disk. It goes on where it was afterwards.
    pub(super) fn make_way(&mut self) -> Option<Action> {
        (self.state == State::Running).then(|| {
            self.state = State::MakingWay;
            Action::Signal(Child::Scrub, Signal::TERM)
        })
    }

    /// It ended, or could not be started for the reason that is given.
    pub(super) fn ended(&mut self, how: Result<Ended, &str>, now: Instant) -> Vec<Action> {
        if std::mem::replace(&mut self.state, State::Due(now + self.pause)) == State::MakingWay {
            self.state = State::Due(now);
            return Vec::new();
        }
        let text = match how {
            Ok(Ended::Status(0)) => return Vec::new(),
            Ok(how) => format!("reading the backups back ended with {how}"),
            Err(reason) => format!("could not start reading the backups back: {reason}"),
        };
        vec![Action::Say(Level::Warning, text)]
    }
}
