//! From a text to a value. An error is what the text must be, to go after "NAME must be".

use super::access::LocalAccess;
use super::secret::Secret;
use crate::plan::RecoveryPolicy;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What the text would have to be.
type Expected = String;

/// The longest name that PostgreSQL keeps whole (`NAMEDATALEN` - 1, `pg_config_manual.h`).
const NAME_SIZE_BYTES: usize = 63;

pub(super) fn whole_number(text: &str, range: RangeInclusive<u32>) -> Result<u32, Expected> {
    // `parse` takes a plus sign, which nobody means.
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| is_number && range.contains(value));
    value.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
}

pub(super) fn max_backups(text: &str) -> Result<u32, Expected> {
    whole_number(text, 1..=9999)
}

/// How many days, weeks or months.
pub(super) fn period_count(text: &str) -> Result<u32, Expected> {
    whole_number(text, 0..=9999)
}

pub(super) fn start_retries(text: &str) -> Result<u32, Expected> {
    whole_number(text, 1..=100)
}

pub(super) fn port(text: &str) -> Result<u16, Expected> {
    whole_number(text, 0..=65_535).and_then(|port| u16::try_from(port).map_err(|error| error.to_string()))
}

pub(super) fn major_version(text: &str) -> Result<u32, Expected> {
    whole_number(text, 10..=99).map_err(|_| "a major version of PostgreSQL, such as 15".to_owned())
}

/// A number with a unit: `90s`, `15m`, `6h`, `1d`.
fn time_with_unit(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_s: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let count = whole_number(number, 0..=u32::MAX).ok()?;
    Some(Duration::from_secs(u64::from(count) * unit_s))
}

/// A time up to a day: seconds, or a number with a unit.
fn short_time(text: &str, least: Duration) -> Result<Duration, Expected> {
    let day = Duration::from_hours(24);
    let seconds = || whole_number(text, 0..=u32::MAX).ok().map(|count| Duration::from_secs(count.into()));
    let value = seconds().or_else(|| time_with_unit(text)).filter(|value| (least..=day).contains(value));
    value.ok_or_else(|| format!("a time from {}s to 1d, such as 30, 30s or 2m", least.as_secs()))
}

pub(super) fn timeout(text: &str) -> Result<Duration, Expected> {
    short_time(text, Duration::from_secs(1))
}

pub(super) fn delay(text: &str) -> Result<Duration, Expected> {
    short_time(text, Duration::ZERO)
}

/// `None` is off. A bare number is refused: whether 24 means seconds or hours is a guess.
pub(super) fn interval(text: &str) -> Result<Option<Duration>, Expected> {
    if text == "off" {
        return Ok(None);
    }
    let value = time_with_unit(text).filter(|value| !value.is_zero());
    value.map(Some).ok_or_else(|| "a time with a unit, such as 90s, 15m, 6h or 1d, or off".to_owned())
}

pub(super) fn switch(text: &str) -> Result<bool, Expected> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// Bytes, or a number with a unit of 1024: `64K`, `512M`, `20G`, `1T`.
pub(super) fn size(text: &str) -> Result<u64, Expected> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((end, unit @ ('K' | 'M' | 'G' | 'T'))) => {
            let shift = match unit {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                _ => 40,
            };
            (text.get(..end).unwrap_or_default(), shift)
        }
        _ => (text, 0),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.parse::<u64>().ok().filter(|_| is_number);
    value
        .and_then(|value| value.checked_mul(1 << shift))
        .ok_or_else(|| "a size in bytes, or with a unit, such as 512M or 20G".to_owned())
}

pub(super) fn recovery(text: &str) -> Result<RecoveryPolicy, Expected> {
    RecoveryPolicy::from_name(text).ok_or_else(|| "auto, repair or never".to_owned())
}

pub(super) fn local_access(text: &str) -> Result<LocalAccess, Expected> {
    match text {
        "peer" => Ok(LocalAccess::Peer),
        "trust" => Ok(LocalAccess::Trust),
        _ => Err("peer or trust".to_owned()),
    }
}

fn has_control_character(text: &str) -> bool {
    text.chars().any(char::is_control)
}

pub(super) fn one_line(text: &str) -> Result<String, Expected> {
    if has_control_character(text) {
        return Err("one line of text".to_owned());
    }
    Ok(text.to_owned())
}

/// Takes the directory of the WAL out of arguments for initdb: a repair makes a cluster with the same arguments, which must
/// not have its WAL there. As for initdb, the last one counts.
pub(super) fn apart_from_waldir(arguments: Vec<String>) -> (Vec<String>, Option<String>) {
    let (mut others, mut directory) = (Vec::new(), None);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if matches!(argument.as_str(), "-X" | "--waldir") {
            directory = arguments.next();
        } else if let Some(value) = argument.strip_prefix("--waldir=") {
            directory = Some(value.to_owned());
        } else if let Some(value) = argument.strip_prefix("-X") {
            directory = Some(value.to_owned());
        } else {
            others.push(argument);
        }
    }
    (others, directory)
}

/// The name of a database.
pub(super) fn name(text: &str) -> Result<String, Expected> {
    // A longer name would be cut by the server without an error, and then not be found again.
    if text.is_empty() || text.len() > NAME_SIZE_BYTES || has_control_character(text) {
        return Err(format!("one line of 1 to {NAME_SIZE_BYTES} bytes"));
    }
    Ok(text.to_owned())
}

/// The name of a role: the server reserves those that begin with `pg_` (acl.c, `IsReservedName()`).
pub(super) fn role_name(text: &str) -> Result<String, Expected> {
    if text.starts_with("pg_") {
        return Err("a name that does not begin with pg_, which PostgreSQL keeps for itself".to_owned());
    }
    name(text)
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside parsers that can fail")]
pub(super) fn secret(text: &str) -> Result<Secret, Expected> {
    Ok(Secret::new(text))
}

pub(super) fn arguments(text: &str) -> Result<Vec<String>, Expected> {
    shell_words::split(text).map_err(|_| "arguments with balanced quotes".to_owned())
}

pub(super) fn service_names(text: &str) -> Result<Vec<String>, Expected> {
    let names = text.split([',', ' ', '\t', '\n', '\r']).filter(|name| !name.is_empty());
    let names: Vec<String> = names.map(str::to_owned).collect();
    if names.iter().any(|name| name.contains('/') || has_control_character(name)) {
        return Err("names of services with commas or spaces between".to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        for (text, seconds) in [("30", 30), ("30s", 30), ("2m", 120), ("1h", 3600), ("1d", 86_400)] {
            assert_eq!(timeout(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0", "0s", "s", "-1", "+1", "1.5s", "2d", "1w", "1 h", "ten", "99999999999s", "1é"]
        {
            assert!(timeout(text).is_err(), "{text}");
        }
        assert_eq!(delay("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_backup_interval_needs_a_unit_or_is_off() {
        assert_eq!(interval("off"), Ok(None));
        for (text, seconds) in [("90s", 90), ("15m", 900), ("6h", 21_600), ("1d", 86_400), ("30d", 2_592_000)]
        {
            assert_eq!(interval(text), Ok(Some(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "24", "0s", "Off", "-1h", "h"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_that_the_server_would_cut_or_refuse_are_refused() {
        assert_eq!(role_name("näme \"quoted\" $1"), Ok("näme \"quoted\" $1".to_owned()));
        assert!(role_name("pg_mine").is_err());
        assert!(name(&"x".repeat(63)).is_ok());
        assert!(name(&"x".repeat(64)).is_err());
        assert!(name("two\nlines").is_err());
    }

    #[test]
    fn service_names_are_split_at_commas_and_spaces() {
        assert_eq!(
            service_names("mongodb, redis  web"),
            Ok(vec!["mongodb".into(), "redis".into(), "web".into()])
        );
        assert_eq!(service_names(""), Ok(vec![]));
        assert!(service_names("../etc").is_err());
    }

    #[test]
    fn arguments_are_split_as_a_shell_would() {
        let expected = vec!["--locale".to_owned(), "a b".to_owned(), "-k".to_owned()];
        assert_eq!(arguments("--locale 'a b'  -k"), Ok(expected));
        assert!(arguments("'open").is_err());
    }
}
