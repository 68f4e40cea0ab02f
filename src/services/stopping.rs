//! How a stop goes on: a fast shutdown, an immediate one when time is short, and only then an end for those who
//! do not listen. PostgreSQL is killed only where it did not even react to an immediate shutdown, which loses nothing
//! either.

use std::time::{Duration, Instant};

/// How long before the end of the time that is granted PostgreSQL is shut down at once.
const ESCALATION_LEAD: Duration = Duration::from_secs(2);
/// The time for a stop that nobody waits for with a clock: the command ended by itself.
const UNHURRIED: Duration = Duration::from_mins(1);
/// How long an immediate shutdown may take: the server kills its own children after 5 s (postmaster.c).
const IMMEDIATE_SHUTDOWN: Duration = Duration::from_secs(10);

/// What is said of a server that is ended in another way than cleanly.
pub(super) const STILL_STOPPING: &str = "shut PostgreSQL down at once, because it was still stopping";
pub(super) const NOT_REACTING: &str = "killed what was left of PostgreSQL, because it reacted to no shutdown";

/// How far a stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// A fast shutdown.
    Fast,
    /// An immediate one.
    Immediate,
    /// Whatever is left is killed.
    Kill,
    /// Nothing is waited for any more.
    Abandon,
}

/// A stop that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    urgency: Urgency,
    is_ordered: bool,
    immediate_at: Instant,
    kill_at: Instant,
    abandon_at: Instant,
}

impl Stop {
    /// A stop that somebody with a clock asked for.
    pub(super) fn within(time: Duration, now: Instant) -> Self {
        // With little time, half of it is for the fast shutdown.
        let lead = ESCALATION_LEAD.min(time / 2);
        Self {
            urgency: Urgency::Fast,
            is_ordered: true,
            immediate_at: now + time.saturating_sub(lead),
            kill_at: now + time,
            abandon_at: now + time + IMMEDIATE_SHUTDOWN,
        }
    }

    /// A stop that nobody waits for.
    pub(super) fn unhurried(least: Duration, now: Instant) -> Self {
        Self { is_ordered: false, ..Self::within(least.max(UNHURRIED), now) }
    }

    /// Whether somebody asked for it.
    pub(super) fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    /// The same stop, to be over within a time from now.
    pub(super) fn hurry(&mut self, time: Duration, now: Instant) {
        let sooner = Self::within(time, now);
        self.is_ordered = true;
        self.immediate_at = self.immediate_at.min(sooner.immediate_at);
        self.kill_at = self.kill_at.min(sooner.kill_at);
        self.abandon_at = self.abandon_at.min(sooner.abandon_at);
    }

    /// Goes on to the immediate shutdown now.
    pub(super) fn escalate(&mut self, now: Instant) {
        self.immediate_at = self.immediate_at.min(now);
        self.kill_at = self.kill_at.min(now + ESCALATION_LEAD);
        self.abandon_at = self.abandon_at.min(now + IMMEDIATE_SHUTDOWN);
    }

    /// How far it is.
    pub(super) fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// Lets time go by. Returns the new urgency, if it grew.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Urgency> {
        let due = [
            (self.abandon_at, Urgency::Abandon),
            (self.kill_at, Urgency::Kill),
            (self.immediate_at, Urgency::Immediate),
        ];
        let (_, urgency) = due.into_iter().find(|(at, _)| now >= *at)?;
        if urgency <= self.urgency {
            return None;
        }
        self.urgency = urgency;
        Some(urgency)
    }

    /// When it grows more urgent.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.urgency {
            Urgency::Fast => Some(self.immediate_at),
            Urgency::Immediate => Some(self.kill_at),
            Urgency::Kill => Some(self.abandon_at),
            Urgency::Abandon => None,
        }
    }
}
