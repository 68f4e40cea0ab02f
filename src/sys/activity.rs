//! Signs of life of a process that cannot be asked.

use std::path::Path;

/// What a process and its children have done so far. Two samples that are equal mean that nothing moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Processor time of all of them, in clock ticks.
    pub cpu_ticks: u64,
    /// Bytes that they read and wrote, where that may be looked at.
    pub io_bytes: u64,
    /// Their titles; PostgreSQL writes into them what it is doing.
    pub titles: Vec<String>,
}

impl Activity {
    /// Samples a process and its children.
    pub fn sample(pid: u32) -> Self {
        let mut activity = Self::default();
        activity.add(pid);
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            activity.add(child);
        }
        activity
    }

    fn add(&mut self, pid: u32) {
        let read = |name: &str| std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name));
        // The fields after the command name: utime and stime are the 14th and 15th of the line, proc(5).
        let ticks = read("stat").unwrap_or_default();
        let fields =
            ticks.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
        let ticks = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        self.cpu_ticks = ticks.fold(self.cpu_ticks, u64::saturating_add);
        let io = read("io").unwrap_or_default();
        let counted = io.lines().filter(|line| line.starts_with("rchar") || line.starts_with("wchar"));
        let bytes = counted.filter_map(|line| line.split(' ').next_back()?.parse::<u64>().ok());
        self.io_bytes = bytes.fold(self.io_bytes, u64::saturating_add);
        self.titles.push(read("cmdline").unwrap_or_default().replace('\0', " ").trim().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_shows_activity() {
        let before = Activity::sample(std::process::id());
        let mut sum = 0_u64;
        while Activity::sample(std::process::id()).cpu_ticks == before.cpu_ticks {
            sum = (0..1_000_000).fold(sum, |sum, number| sum ^ number);
        }
        assert_ne!(before, Activity::sample(std::process::id()), "{sum}");
    }
}
