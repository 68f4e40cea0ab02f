//! Timeline history files, `NNNNNNNN.history`: from which point of which timeline another one was forked.

use super::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

/// One line of a history file: the timeline, and where the next one left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where its part in the history ends.
    pub switch_point: Lsn,
}

/// Reads a history file, oldest ancestor first. `None` if a line makes no sense.
///
/// A recovery that follows a timeline and ends before that was forked leaves a line with an earlier place than the one
/// above it: no timeline's part in the history ends later than what came after it.
///
/// Source: timeline.c, `readTimeLineHistory()`, `writeTimeLineHistory()`.
pub fn parse(text: &str) -> Option<Vec<Ancestor>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read: Option<Vec<Ancestor>> = lines
        .map(|line| {
            let mut fields = line.split_whitespace();
            let timeline = TimelineId(fields.next()?.parse().ok()?);
            let switch_point = fields.next()?.parse().ok()?;
            Some(Ancestor { timeline, switch_point })
        })
        .collect();
    let mut ancestors = read?;
    let mut end = Lsn(u64::MAX);
    for ancestor in ancestors.iter_mut().rev() {
        end = end.min(ancestor.switch_point);
        ancestor.switch_point = end;
    }
    Some(ancestors)
}

/// The name of a timeline's history file.
pub fn file_name(timeline: TimelineId) -> String {
    format!("{:08X}.history", timeline.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_history_with_reasons_and_comments_is_read() {
        let text = "1\t0/3000060\tno recovery target specified\n\n# by hand\n2\t0/5000028\tbefore 2026\n";
        let first = Ancestor { timeline: TimelineId(1), switch_point: Lsn(0x0300_0060) };
        let second = Ancestor { timeline: TimelineId(2), switch_point: Lsn(0x0500_0028) };
        assert_eq!(parse(text), Some(vec![first, second]));
        assert_eq!(parse("1 nowhere"), None);
        assert_eq!(file_name(TimelineId(2)), "00000002.history");
    }

    #[test]
    fn no_part_of_a_history_ends_later_than_what_came_after_it() {
        let text = "1\t0/5000060\tno recovery target specified\n2\t0/3000028\tbefore 2026\n";
        let ends: Vec<Lsn> = parse(text).unwrap().iter().map(|ancestor| ancestor.switch_point).collect();
        assert_eq!(ends, [Lsn(0x0300_0028), Lsn(0x0300_0028)]);
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_read_without_a_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
