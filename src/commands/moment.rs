//! A time as a person writes it on the command line.

use chrono::{DateTime, Local, LocalResult, NaiveDateTime, TimeZone, Utc};

/// A time, and whether the zone had to be assumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// The time.
    pub(super) time: DateTime<Utc>,
    /// What is to be said where no zone was written: what was assumed.
    pub(super) assumed: Option<String>,
}

const WITH_OFFSET: [&str; 2] = ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"];
const WITHOUT_OFFSET: [&str; 3] = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"];

/// Reads RFC 3339, or a date and a time with or without a zone; without one it is of the local zone.
pub(super) fn parse(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    let known = |time: DateTime<Utc>| Ok(Moment { time, assumed: None });
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return known(time.to_utc());
    }
    let naive = |text: &str| {
        WITHOUT_OFFSET.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
    };
    let universal = text.strip_suffix('Z').or_else(|| text.strip_suffix("UTC"));
    if let Some(time) = universal.and_then(|rest| naive(rest.trim_end())) {
        return known(time.and_utc());
    }
    // PostgreSQL prints an offset right behind the time, people put a space between.
    let joined = text.replace(" +", "+").replace(" -", "-");
    let with_offset = |format: &str| DateTime::parse_from_str(&joined, format).ok();
    if let Some(time) = WITH_OFFSET.iter().find_map(|format| with_offset(format)) {
        return known(time.to_utc());
    }
    let local = naive(text).ok_or_else(|| {
        "it must be a time such as '2026-11-21 15:00:00', '2026-11-21 15:00:00+01' or 2026-11-21T15:00:00Z".to_owned()
    })?;
    match Local.from_local_datetime(&local) {
        LocalResult::Single(time) => Ok(Moment {
            time: time.to_utc(),
            assumed: Some(format!("{text} has no zone, and is taken for local time (UTC{})", time.offset())),
        }),
        LocalResult::Ambiguous(first, second) => Err(format!(
            "the clock was set back then: say {text}{} or {text}{}",
            first.offset(),
            second.offset()
        )),
        LocalResult::None => Err("the clock was set forward over it; give an offset such as +00".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_with_a_zone_is_read_in_every_usual_form() {
        let expected = DateTime::from_timestamp(1_795_273_200, 250_000_000).unwrap();
        for text in [
            "2026-11-21T15:00:00.25Z",
            "2026-11-21T16:00:00.25+01:00",
            "2026-11-21 15:00:00.25+00",
            "2026-11-21 16:00:00.25 +01:00",
            "2026-11-21 10:00:00.25-0500",
            "2026-11-21 15:00:00.25 UTC",
            " 2026-11-21 15:00:00.25Z ",
        ] {
            assert_eq!(parse(text), Ok(Moment { time: expected, assumed: None }), "{text}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_local_and_that_is_said() {
        for text in ["2026-11-21 15:00:00", "2026-11-21T15:00:00", "2026-11-21 15:00"] {
            let moment = parse(text).unwrap();
            assert_eq!(moment.time.with_timezone(&Local).format("%H:%M:%S").to_string(), "15:00:00");
            assert!(moment.assumed.unwrap().starts_with(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "15:00",
            "2026-13-21 15:00:00",
            "2026-11-21 25:00:00",
            "2026-11-21 15:00:00 CET",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
