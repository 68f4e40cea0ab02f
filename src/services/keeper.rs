//! Keeps one server running: what to do when it is gone, and how often to try. Decides only.
//!
//! A server that a person stopped stays stopped, and one that a restore or a restart has taken down is left to
//! that command. All other deaths are answered with `init-postgresql`, after pauses that grow, so that a server
//! that cannot run does not fill the log; and never with giving up for good. A server that served and was killed is
//! different from one that does not start: it is back within seconds, however often it is killed.

use super::events::{Action, Child, Level, Seen, View};
use crate::sys::Ended;
use std::time::{Duration, Instant};

/// After so many failures in a row a person has to look.
const FAILURE_LIMIT: u32 = 5;
/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No pause between tries is longer, as long as there is hope.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How often it is tried when a person has to look.
const HOPELESS_PAUSE: Duration = Duration::from_mins(5);
/// No pause after the death of a server that had served is longer: a start is known to work, and people wait.
const LONGEST_PAUSE_AFTER_DEATH: Duration = Duration::from_secs(4);
/// A server that lived so long has shown that it can.
const SETTLED_AFTER: Duration = Duration::from_mins(10);
/// Exit statuses of `init-postgresql` that trying again does not change: usage, refused, a program missing.
const HOPELESS_STATUSES: [i32; 3] = [2, 6, 127];
/// Exit status of `init-postgresql` while somebody else has the data directory: that ends by itself, as when the
/// container that is to be replaced stops, and no person is needed for it.
const BUSY_STATUS: i32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `init-postgresql` runs.
    Starting,
    /// It ended well, and the server has not been seen yet.
    Started,
    /// The server lives, since then or longer.
    Running(Instant),
    /// A person stopped it.
    Left,
    /// A command is at work.
    Operated,
    /// It is tried again then.
    Pausing(Instant),
}

/// Keeps one server running.
#[derive(Debug)]
pub struct Keeper {
    state: State,
    /// The tries in a row that did not lead to a server, the death that began them included.
    failure_count: u32,
    /// The deaths of servers that had served, none of which lived for long.
    death_count: u32,
    /// How it ended, if we are its parent and saw it.
    death: Option<Ended>,
}

fn say(level: Level, text: impl Into<String>) -> Action {
    Action::Say(level, text.into())
}

impl Keeper {
    /// One whose `init-postgresql` is being started.
    pub fn starting() -> Self {
        Self { state: State::Starting, failure_count: 0, death_count: 0, death: None }
    }

    /// Whether the server is known to live.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Whether `init-postgresql` is at work.
    pub fn is_starting(&self) -> bool {
        self.state == State::Starting
    }

    /// When it wants to be asked next, if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Pausing(until) => Some(until),
            _ => None,
        }
    }

    /// Whether it has to be looked at more often than usual.
    pub fn is_waiting_for_a_command(&self) -> bool {
        self.state == State::Operated
    }

    /// The server, our child, ended.
    pub fn server_ended(&mut self, how: Ended) -> Vec<Action> {
        self.death = Some(how);
        vec![Action::Look]
    }

    /// `init-postgresql` ended.
    pub fn init_ended(&mut self, how: Ended, now: Instant) -> Vec<Action> {
        if how == Ended::Status(0) {
            self.state = State::Started;
            return vec![Action::Look];
        }
        self.init_failed(&format!("init-postgresql ended with {how}"), how.exit_status(), now)
    }

    /// `init-postgresql` could not be started.
    pub fn init_not_started(&mut self, reason: &str, now: Instant) -> Vec<Action> {
        self.init_failed(&format!("could not start init-postgresql: {reason}"), 1, now)
    }

    fn init_failed(&mut self, what: &str, status: i32, now: Instant) -> Vec<Action> {
        if HOPELESS_STATUSES.contains(&status) {
            self.failure_count = self.failure_count.max(FAILURE_LIMIT - 1);
        }
        if status == BUSY_STATUS {
            self.failure_count = self.failure_count.saturating_add(1);
            return self.pause(what, now);
        }
        self.failed(what, now)
    }

    /// The server was looked at.
    pub fn looked(&mut self, view: View, now: Instant) -> Vec<Action> {
        match (self.state, view.server == Seen::Alive) {
            (State::Starting, _) | (State::Pausing(_), false) => Vec::new(),
            (State::Running(since), true) => {
                if now.saturating_duration_since(since) >= SETTLED_AFTER {
                    self.failure_count = 0;
                    self.death_count = 0;
                }
                Vec::new()
            }
            (State::Started, true) => self.runs(now),
            (_, true) => {
                let mut actions = self.runs(now);
                actions.push(say(Level::Info, "found PostgreSQL running again"));
                actions
            }
            (_, false) => self.is_gone(view, now),
        }
    }

    fn runs(&mut self, now: Instant) -> Vec<Action> {
        self.state = State::Running(now);
        self.death = None;
        Vec::new()
    }

    fn is_gone(&mut self, view: View, now: Instant) -> Vec<Action> {
        if view.is_stopped {
            let is_news = std::mem::replace(&mut self.state, State::Left) != State::Left;
            let text = "left PostgreSQL stopped, as `maintenance stop` asked for";
            return is_news.then(|| say(Level::Info, text)).into_iter().collect();
        }
        if view.is_operated {
            self.state = State::Operated;
            return Vec::new();
        }
        let what = match self.death.take() {
            Some(how) => format!("PostgreSQL ended with {how} without being asked to"),
            None => "PostgreSQL ended without being asked to".to_owned(),
        };
        if matches!(self.state, State::Running(_)) {
            return self.died(&what, now);
        }
        self.failed(&what, now)
    }

    /// A server that had served is gone.
    fn died(&mut self, what: &str, now: Instant) -> Vec<Action> {
        self.death_count = self.death_count.saturating_add(1);
        self.failure_count = 1;
        let mut actions = self.pause_for(doubled(self.death_count).min(LONGEST_PAUSE_AFTER_DEATH), what, now);
        if self.death_count.is_multiple_of(FAILURE_LIMIT) {
            let text = format!(
                "PostgreSQL was killed {} times, each time after less than {} minutes: a person has to look",
                self.death_count,
                SETTLED_AFTER.as_secs() / 60
            );
            actions.push(say(Level::Error, text));
            let hint =
                "the kernel ends the largest process when memory is short: see the limit of the container";
            actions.push(say(Level::Hint, hint));
        }
        actions
    }

    fn failed(&mut self, what: &str, now: Instant) -> Vec<Action> {
        self.failure_count = self.failure_count.saturating_add(1);
        if self.failure_count >= FAILURE_LIMIT {
            self.state = State::Pausing(now + HOPELESS_PAUSE);
            let minutes = HOPELESS_PAUSE.as_secs() / 60;
            return vec![
                say(
                    Level::Error,
                    format!("{what}; a person has to look, and the container stays up for that"),
                ),
                say(
                    Level::Hint,
                    format!(
                        "see what `init-postgresql --dry-run` says. It is tried again every {minutes} minutes, and at \
                         once on SIGUSR1 or SIGHUP."
                    ),
                ),
            ];
        }
        self.pause(what, now)
    }

    fn pause(&mut self, what: &str, now: Instant) -> Vec<Action> {
        self.pause_for(doubled(self.failure_count).min(LONGEST_PAUSE), what, now)
    }

    fn pause_for(&mut self, pause: Duration, what: &str, now: Instant) -> Vec<Action> {
        self.state = State::Pausing(now + pause);
        vec![say(Level::Warning, format!("{what}; it is started again in {} s", pause.as_secs()))]
    }

    /// Time went by.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        match self.state {
            State::Pausing(until) if now >= until => self.start(),
            _ => Vec::new(),
        }
    }

    /// A person wants it to be tried now.
    pub fn try_now(&mut self) -> Vec<Action> {
        match self.state {
            State::Pausing(_) => self.start(),
            _ => Vec::new(),
        }
    }

    fn start(&mut self) -> Vec<Action> {
        self.state = State::Starting;
        // One that was left behind has the data directory's lock, and would keep it for ever.
        vec![Action::StopLeftBehind, Action::Start(Child::Init)]
    }
}

/// The pause after so many failures: the first one, doubled with each further failure.
fn doubled(count: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(count.saturating_sub(1)))
}
