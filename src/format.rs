//! Figures as a person reads them.

use chrono::{DateTime, SecondsFormat, Utc};
use std::borrow::Cow;
use std::time::Duration;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size: `512 B`, `18.3 GiB`.
pub fn bytes(size_bytes: u64) -> String {
    if size_bytes < 1024 {
        return format!("{size_bytes} B");
    }
    // In tenths of the unit, so that no precision is lost and 1023.96 KiB becomes 1.0 MiB.
    let mut tenths = u128::from(size_bytes) * 10;
    let mut unit = "B";
    for larger in UNITS {
        tenths = (tenths + 512) / 1024;
        unit = larger;
        if tenths < 10_240 {
            break;
        }
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Returns a text for people. A byte of a file's name that is no text stands in it as the character U+EF00 and the byte
/// (`sys::text_of`), which no font has, and reads `\xe9`.
pub fn printable(text: &str) -> Cow<'_, str> {
    const FIRST: char = '\u{EF80}';
    const LAST: char = '\u{EFFF}';
    if !text.contains(|character| (FIRST..=LAST).contains(&character)) {
        return Cow::Borrowed(text);
    }
    let shown = |character: char| match character {
        FIRST..=LAST => format!("\\x{:02x}", u32::from(character) & 0xFF),
        other => other.to_string(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// Whether a terminal would act on a character, or a person would not see it: a control character, a mark that turns
/// the direction of a text, one that separates lines, or one that has no width.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Returns a text of others as one line for people: [`printable`], and what [`is_unprintable`] as an escape, such as
/// `\n`, `\x1b` or `\u{202e}`.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let text = printable(text);
    if !text.contains(is_unprintable) {
        return text;
    }
    let shown = |character: char| match character {
        '\n' | '\r' | '\t' => character.escape_default().to_string(),
        '\0'..='\x1f' | '\x7f' => format!("\\x{:02x}", u32::from(character)),
        other if is_unprintable(other) => other.escape_unicode().to_string(),
        other => other.to_string(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// A number with commas: `1,204`.
pub fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and what is counted, in the plural where it has to be: `1 file`, `1,204 files`.
pub fn counted(number: impl TryInto<u64>, singular: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {singular}{plural}", count(number))
}

/// A length of time, in at most two units: `850 ms`, `12.4 s`, `3 min 20 s`, `3 d 4 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let pair = |large: u64, large_unit, small: u64, small_unit| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A speed: `450.0 MiB/s`.
pub fn rate(size_bytes: u64, time: Duration) -> String {
    let milliseconds = time.as_millis().max(1);
    let per_second = u128::from(size_bytes) * 1000 / milliseconds;
    format!("{}/s", bytes(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// A point in time: `2026-11-20T12:00:00Z`.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_no_text_reads_as_a_number() {
        assert_eq!(printable("caf\u{EFE9}.csv"), "caf\\xe9.csv");
        assert_eq!(printable("café ☃"), "café ☃");
        assert_eq!(escaped("caf\u{EFE9}\n☃\x1b[2J\u{202e}"), "caf\\xe9\\n☃\\x1b[2J\\u{202e}");
    }

    #[test]
    fn sizes_have_one_decimal_and_the_right_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (19_649_474_560, "18.3 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (size_bytes, expected) in cases {
            assert_eq!(bytes(size_bytes), expected);
        }
    }

    #[test]
    fn numbers_have_a_comma_for_each_thousand() {
        for (number, expected) in [(0_usize, "0"), (999, "999"), (1204, "1,204"), (1_000_000, "1,000,000")] {
            assert_eq!(count(number), expected);
        }
        assert_eq!((counted(1, "file"), counted(2, "file")), ("1 file".to_owned(), "2 files".to_owned()));
    }

    #[test]
    fn times_have_at_most_two_units() {
        let cases = [
            (850, "850 ms"),
            (12_440, "12.4 s"),
            (60_000, "1 min"),
            (200_000, "3 min 20 s"),
            (18_720_000, "5 h 12 min"),
            (273_600_000, "3 d 4 h"),
        ];
        for (milliseconds, expected) in cases {
            assert_eq!(duration(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn a_rate_of_no_time_at_all_is_no_division_by_zero() {
        assert_eq!(rate(1024, Duration::ZERO), "1000.0 KiB/s");
    }
}
