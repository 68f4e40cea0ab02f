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

/// What keeps a server from starting with a history file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line does not begin with the number of a timeline.
    #[error("line {0} does not begin with the number of a timeline")]
    Timeline(usize),
    /// A line has no place in the WAL.
    #[error("line {0} names no place in the WAL")]
    SwitchPoint(usize),
    /// The numbers do not ascend to that of the timeline itself.
    #[error(
        "line {0} names timeline {1}, which is not later than the one before it, or not earlier than its own"
    )]
    Order(usize, u32),
}

/// Checks the history file of a timeline as the server does, which is stricter than a reader need be in one thing and
/// laxer in all others: numbers ascend.
///
/// # Errors
/// [`HistoryError`], for what ends the server with a FATAL (timeline.c, `readTimeLineHistory()`).
pub fn check(text: &str, timeline: TimelineId) -> Result<(), HistoryError> {
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let (found, rest) = leading_number(line).ok_or(HistoryError::Timeline(number))?;
        let has_switch_point = rest.trim_start().split_once('/').is_some_and(|(high, low)| {
            let is_hexadecimal = |byte: u8| byte.is_ascii_hexdigit();
            !high.is_empty()
                && high.bytes().all(is_hexadecimal)
                && low.bytes().next().is_some_and(is_hexadecimal)
        });
        if !has_switch_point {
            return Err(HistoryError::SwitchPoint(number));
        }
        if found <= last || found >= timeline.0 {
            return Err(HistoryError::Order(number, found));
        }
        last = found;
    }
    Ok(())
}

/// Takes the digits off the front of a line.
fn leading_number(line: &str) -> Option<(u32, &str)> {
    let end = line.find(|character: char| !character.is_ascii_digit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
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

    #[test]
    fn what_the_server_takes_is_sound_and_what_it_refuses_is_not() {
        for sound in ["", "# a comment\n", "1\t0/3000060\tno recovery\n2\t0/5000028\tx\n", " 1 A/B"] {
            assert_eq!(check(sound, TimelineId(3)), Ok(()), "{sound}");
        }
        for refused in [
            "@@@ not a history",
            "1",
            "1\tnowhere",
            "2\t0/3000060\n1\t0/4000060",
            "1\t0/1\n1\t0/2",
            "3\t0/1",
            "\0\0\0\0",
        ] {
            assert!(check(refused, TimelineId(3)).is_err(), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn a_check_of_arbitrary_text_does_not_panic(text in ".*") {
            let _ = check(&text, TimelineId(3));
        }

        #[test]
        fn arbitrary_text_is_read_without_a_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
