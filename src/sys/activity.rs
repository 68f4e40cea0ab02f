//! Signs of life of processes that cannot be asked.

use std::path::Path;

/// How deep below a process its descendants are looked for: a command of a shell of a child.
const MOST_LEVELS: usize = 4;

/// What one process and its descendants have done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessActivity {
    /// The title of the process itself; PostgreSQL writes into it what a process is doing.
    pub title: String,
    /// Processor time, in clock ticks.
    pub cpu_ticks: u64,
    /// Bytes read and written, where that may be looked at.
    pub io_bytes: u64,
    /// Whether the process itself waits for a disk now.
    pub is_in_disk_wait: bool,
}

/// What a process and its children have done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The process itself, without its children.
    pub own: ProcessActivity,
    /// Each child, with its own descendants.
    pub children: Vec<ProcessActivity>,
}

impl Activity {
    /// Samples a process and its children.
    pub fn sample(pid: u32) -> Self {
        let with_descendants = |child| {
            let mut activity = ProcessActivity::of(child);
            activity.add_descendants(child, MOST_LEVELS);
            activity
        };
        Self {
            own: ProcessActivity::of(pid),
            children: children_of(pid).into_iter().map(with_descendants).collect(),
        }
    }
}

impl ProcessActivity {
    fn of(pid: u32) -> Self {
        // The fields after the command name: the state is the third of the line, utime and stime the 14th and 15th (proc(5)).
        let stat = read(pid, "stat");
        let fields =
            stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
        let ticks = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        let io = read(pid, "io");
        let counted = io.lines().filter(|line| line.starts_with("rchar") || line.starts_with("wchar"));
        let bytes = counted.filter_map(|line| line.split(' ').next_back()?.parse::<u64>().ok());
        Self {
            title: read(pid, "cmdline").replace('\0', " ").trim().to_owned(),
            cpu_ticks: ticks.fold(0, u64::saturating_add),
            io_bytes: bytes.fold(0, u64::saturating_add),
            is_in_disk_wait: fields.first().is_some_and(|state| *state == "D"),
        }
    }

    fn add_descendants(&mut self, pid: u32, levels: usize) {
        if levels == 0 {
            return;
        }
        for child in children_of(pid) {
            let activity = Self::of(child);
            self.cpu_ticks = self.cpu_ticks.saturating_add(activity.cpu_ticks);
            self.io_bytes = self.io_bytes.saturating_add(activity.io_bytes);
            self.add_descendants(child, levels - 1);
        }
    }
}

fn read(pid: u32, name: &str) -> String {
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name)).unwrap_or_default()
}

fn children_of(pid: u32) -> Vec<u32> {
    let children = read(pid, &format!("task/{pid}/children"));
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_shows_activity() {
        let before = Activity::sample(std::process::id());
        let mut sum = 0_u64;
        while Activity::sample(std::process::id()).own.cpu_ticks == before.own.cpu_ticks {
            sum = (0..1_000_000).fold(sum, |sum, number| sum ^ number);
        }
        let after = Activity::sample(std::process::id());
        assert!(after.own.io_bytes > before.own.io_bytes, "{sum}");
    }
}
