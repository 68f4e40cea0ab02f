//! Whether a server that is not ready yet comes nearer to it.
//!
//! Crash recovery may take hours, and to cut it short only makes the next one as long. But a wait must end. So only what
//! recovery itself does counts, and not what any process of the server does: a server that is up, and that we do not
//! see as ready, checkpoints and vacuums for ever.

use crate::sys::{Activity, ProcessActivity};
use std::time::Duration;

/// How much recovery reads and writes within the patience at least. One that merely asks again and again for WAL that
/// does not come reads one page each time (xlogrecovery.c, `WaitForWALToBecomeAvailable()`).
const PROGRESS_BYTES: u64 = 1 << 20;
/// How long signs count that a process may give without coming any further.
const WEAK_SIGNS_LIMIT: Duration = Duration::from_hours(1);
/// Clock ticks a second, as `/proc` counts them on Linux (`USER_HZ`).
const TICKS_A_SECOND: u64 = 100;

/// What can be seen of recovery at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// The title of the startup process, which says which segment it replays.
    title: Option<String>,
    /// What recovery has read and written.
    io_bytes: u64,
    /// Its processor time.
    cpu_ticks: u64,
    /// Whether it waits for a disk now.
    is_in_disk_wait: bool,
    /// The control file, which recovery writes as it comes along.
    control_file: Vec<u8>,
}

impl Signs {
    /// Picks what recovery does out of what the server's processes do: the startup process replays, the checkpointer
    /// and the background writer write for it. Before there is any, the postmaster makes its shared memory.
    pub(super) fn of(activity: &Activity, control_file: Vec<u8>) -> Self {
        const WRITERS: [&str; 2] = ["checkpointer", "background writer"];
        let is = |process: &ProcessActivity, name: &str| {
            process.title.split(": ").any(|part| part.starts_with(name))
        };
        let startup = activity.children.iter().find(|process| is(process, "startup"));
        let at_work: Vec<&ProcessActivity> = match startup {
            Some(_) => {
                let writes = |process: &&ProcessActivity| WRITERS.iter().any(|name| is(process, name));
                activity.children.iter().filter(writes).chain(startup).collect()
            }
            None if activity.children.is_empty() => vec![&activity.own],
            None => Vec::new(),
        };
        Self {
            title: startup.map(|process| process.title.clone()),
            io_bytes: at_work.iter().fold(0, |sum, process| sum.saturating_add(process.io_bytes)),
            cpu_ticks: at_work.iter().fold(0, |sum, process| sum.saturating_add(process.cpu_ticks)),
            is_in_disk_wait: at_work.iter().any(|process| process.is_in_disk_wait),
            control_file,
        }
    }

    /// Returns the WAL segment that is being replayed.
    pub(super) fn segment(&self) -> Option<&str> {
        let title = self.title.as_deref().filter(|title| title.contains("recovering"))?;
        title.rsplit(' ').next()
    }

    /// Says whether recovery waits for WAL from elsewhere, for which the same command is run again and again
    /// (xlogrecovery.c, `XLogFileRead()`).
    fn waits_for_wal(&self) -> bool {
        self.title.as_deref().is_some_and(|title| title.contains("waiting for"))
    }
}

/// A wait for a server to be ready. Times are counted from its begin.
#[derive(Debug)]
pub(super) struct StartWait {
    patience: Duration,
    /// What was seen when it last came further for sure.
    counted: Signs,
    last_progress: Duration,
    /// What was seen last.
    seen: Signs,
    seen_at: Duration,
    last_sign: Duration,
}

impl StartWait {
    pub(super) fn new(patience: Duration) -> Self {
        let zero = Duration::ZERO;
        let (counted, seen) = (Signs::default(), Signs::default());
        Self { patience, counted, last_progress: zero, seen, seen_at: zero, last_sign: zero }
    }

    /// Takes in what is seen now.
    pub(super) fn observe(&mut self, now: Duration, signs: Signs) {
        let grew_bytes = signs.io_bytes.saturating_sub(self.counted.io_bytes);
        let has_moved = signs.title != self.counted.title || signs.control_file != self.counted.control_file;
        let moves_bytes = grew_bytes >= PROGRESS_BYTES;
        if has_moved || (moves_bytes && !signs.waits_for_wal()) {
            self.counted = signs.clone();
            self.last_progress = now;
            self.last_sign = now;
        } else if moves_bytes || signs.is_in_disk_wait || self.computes(now, &signs) {
            if moves_bytes {
                self.counted.io_bytes = signs.io_bytes;
            }
            if now.saturating_sub(self.last_progress) < WEAK_SIGNS_LIMIT {
                self.last_sign = now;
            }
        }
        self.seen = signs;
        self.seen_at = now;
    }

    /// Says whether recovery had a processor for half of the time since it was last seen, as where it forgets a hundred
    /// thousand files of one transaction.
    fn computes(&self, now: Duration, signs: &Signs) -> bool {
        let ticks = signs.cpu_ticks.saturating_sub(self.seen.cpu_ticks);
        let elapsed_ms = u64::try_from(now.saturating_sub(self.seen_at).as_millis()).unwrap_or(u64::MAX);
        ticks > 0 && ticks.saturating_mul(2000) >= elapsed_ms.saturating_mul(TICKS_A_SECOND)
    }

    /// Returns the segment that is replayed now, where that is another than when it was last asked for.
    pub(super) fn new_segment<'a>(&self, signs: &'a Signs) -> Option<&'a str> {
        signs.segment().filter(|segment| self.seen.segment() != Some(segment))
    }

    /// Says whether the patience is over.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_sign) >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn process(title: &str, cpu_ticks: u64, io_bytes: u64) -> ProcessActivity {
        ProcessActivity { title: title.to_owned(), cpu_ticks, io_bytes, is_in_disk_wait: false }
    }

    /// How long the wait goes on, within three hours, where `look` says what is seen at each second.
    fn ends_after(look: impl Fn(u64) -> Vec<ProcessActivity>) -> Option<u64> {
        let mut wait = StartWait::new(PATIENCE);
        for second in 1..3 * 3600 {
            let now = Duration::from_secs(second);
            let activity = Activity {
                own: process("postgres -D /data", second * 90, second << 20),
                children: look(second),
            };
            wait.observe(now, Signs::of(&activity, Vec::new()));
            if wait.is_over(now) {
                return Some(second);
            }
        }
        None
    }

    #[rstest]
    #[case::next_segments(|second| format!("postgres: startup recovering {:024X}", second / 20), 0, 0)]
    #[case::one_large_segment(|_| "postgres: startup recovering 000000010000000000000001".to_owned(), 0, 1 << 20)]
    #[case::with_a_cluster_name(|_| "postgres: main: startup recovering 00000001".to_owned(), 0, 1 << 20)]
    fn recovery_that_goes_on_is_waited_for(
        #[case] title: fn(u64) -> String,
        #[case] ticks: u64,
        #[case] bytes: u64,
    ) {
        let look = |second| vec![process(&title(second), ticks * second, bytes * second)];

        assert_eq!(ends_after(look), None);
    }

    #[rstest]
    #[case::a_server_that_is_up(vec![("postgres: checkpointer", 90, 9 << 20), ("postgres: autovacuum launcher", 90, 9 << 20)], 30)]
    #[case::one_that_asks_for_wal_that_does_not_come(vec![("postgres: startup recovering 00000001", 1, 8192)], 31)]
    #[case::others_at_work(vec![("postgres: startup recovering 00000001", 0, 0), ("postgres: archiver", 90, 9 << 20)], 31)]
    #[case::a_loop(vec![("postgres: startup recovering 00000001", 99, 0)], 3630)]
    #[case::a_command_that_is_tried_for_ever(vec![("postgres: startup waiting for 00000001", 1, 9 << 20)], 3630)]
    fn what_is_no_recovery_is_not_waited_for_without_end(
        #[case] processes: Vec<(&str, u64, u64)>,
        #[case] expected: u64,
    ) {
        let look = |second| {
            processes
                .iter()
                .map(|(title, ticks, bytes)| process(title, ticks * second, bytes * second))
                .collect()
        };

        assert_eq!(ends_after(look), Some(expected));
    }

    #[test]
    fn the_end_of_recovery_is_the_checkpointers() {
        let look = |second| {
            vec![
                process("postgres: startup recovering 01", 0, 0),
                process("postgres: checkpointer ", 0, second << 20),
            ]
        };

        assert_eq!(ends_after(look), None);
    }
}
