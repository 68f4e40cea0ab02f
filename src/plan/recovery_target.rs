//! Where a recovery is to end, and where in the WAL that is. Pure.
//!
//! The server goes by its own settings; what is decided here is whether it will get there, and what it will find. The
//! rules are those of `recoveryStopsBefore()` and `recoveryStopsAfter()` in xlogrecovery.c.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::pg::wal::WalMoment;
use crate::pg::{Lsn, TimelineId};

/// How a person names the place at which a recovery is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// The end of all WAL.
    End,
    /// A time: before the first transaction that ended after it.
    Time(DateTime<Utc>),
    /// A place in the WAL: after the first record that begins there or behind.
    Lsn(Lsn),
    /// The end of a transaction.
    Xid(u64),
    /// A restore point.
    Name(String),
}

/// Where a recovery is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryTarget {
    /// The place.
    pub point: Point,
    /// Whether what stands right there is still to be in it.
    pub is_inclusive: bool,
}

impl RecoveryTarget {
    /// The end of all WAL.
    pub const END: Self = Self { point: Point::End, is_inclusive: true };

    /// The server's settings for it. Each of the five targets is set, four to nothing: one in the cluster's own
    /// configuration would be a second target, which the server refuses.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        const NAMES: [&str; 5] = [
            "recovery_target",
            "recovery_target_time",
            "recovery_target_lsn",
            "recovery_target_xid",
            "recovery_target_name",
        ];
        let own = match &self.point {
            Point::End => None,
            Point::Time(time) => {
                Some(("recovery_target_time", time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()))
            }
            Point::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            Point::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            Point::Name(name) => Some(("recovery_target_name", name.clone())),
        };
        let own_name = own.as_ref().map(|(name, _)| *name);
        let others = NAMES.into_iter().filter(|name| Some(*name) != own_name);
        let mut settings: Vec<_> = others.map(|name| (name, String::new())).collect();
        let inclusive = if self.is_inclusive { "on" } else { "off" };
        settings.push(("recovery_target_inclusive", inclusive.to_owned()));
        // After the others: to take a target back when another is set is refused, too.
        settings.extend(own);
        settings
    }
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.point {
            Point::End => formatter.write_str("the end of the WAL"),
            Point::Time(time) => formatter.write_str(&in_words(*time)),
            Point::Lsn(lsn) => write!(formatter, "LSN {lsn}"),
            Point::Xid(xid) => write!(formatter, "transaction {xid}"),
            Point::Name(name) => write!(formatter, "the restore point '{name}'"),
        }?;
        if self.is_inclusive || self.point == Point::End {
            return Ok(());
        }
        formatter.write_str(", and without what stands right there")
    }
}

/// A time as a person reads it, to the microsecond where that matters.
pub fn in_words(time: DateTime<Utc>) -> String {
    let format = if time.timestamp_subsec_micros() == 0 {
        "%Y-%m-%d %H:%M:%S UTC"
    } else {
        "%Y-%m-%d %H:%M:%S%.6f UTC"
    };
    time.format(format).to_string()
}

/// The end of a transaction in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Where its record ends.
    pub lsn: Lsn,
    /// When.
    pub time: DateTime<Utc>,
}

/// Where a recovery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Landing {
    /// Up to where the WAL is replayed.
    pub lsn: Lsn,
    /// The end of the last record that has to be there for it.
    pub read_to: Lsn,
    /// The last transaction that is committed in it, as far as the WAL was read.
    pub last_commit: Option<Ended>,
    /// Whether there is no WAL behind it.
    pub is_at_end: bool,
}

/// What was seen of the WAL so far, on the way to a target.
#[derive(Clone, Debug)]
pub struct Search {
    target: RecoveryTarget,
    last_commit: Option<Ended>,
    /// The latest time that any record told.
    witnessed: Option<DateTime<Utc>>,
    /// The timelines that began on the way, and where their first records end.
    begun: Vec<(TimelineId, Ended)>,
}

/// Whether a record is replayed, where recovery ends at it.
enum Stop {
    Before,
    After,
}

impl Search {
    /// Begins to look for a target.
    pub fn new(target: RecoveryTarget) -> Self {
        Self { target, last_commit: None, witnessed: None, begun: Vec::new() }
    }

    /// Takes the next record; returns where recovery ends, if it ends with it.
    pub fn see(&mut self, start: Lsn, end: Lsn, moment: Option<&WalMoment>) -> Option<Landing> {
        let stop = self.stop(start, moment);
        if let Some(Stop::Before) = stop {
            return Some(self.landing(start, end));
        }
        self.note(end, moment);
        stop.map(|_| self.landing(end, end))
    }

    fn note(&mut self, end: Lsn, moment: Option<&WalMoment>) {
        let Some(moment) = moment else { return };
        let time = match moment {
            // Its time is in whole seconds, cut off: until the next one, a server that has stopped commits nothing.
            WalMoment::Checkpoint { time, is_shutdown: true } => *time + TimeDelta::seconds(1),
            WalMoment::TransactionEnd { time, .. }
            | WalMoment::RestorePoint { time, .. }
            | WalMoment::Checkpoint { time, .. }
            | WalMoment::TimelineBegin { time, .. } => *time,
        };
        self.witnessed = self.witnessed.max(Some(time));
        match moment {
            WalMoment::TransactionEnd { is_commit: true, .. } => {
                self.last_commit = Some(Ended { lsn: end, time });
            }
            WalMoment::TimelineBegin { timeline, .. } => {
                self.begun.push((*timeline, Ended { lsn: end, time }));
            }
            _ => {}
        }
    }

    fn landing(&self, lsn: Lsn, read_to: Lsn) -> Landing {
        Landing { lsn, read_to, last_commit: self.last_commit, is_at_end: false }
    }

    fn stop(&self, start: Lsn, moment: Option<&WalMoment>) -> Option<Stop> {
        let at = if self.target.is_inclusive { Stop::After } else { Stop::Before };
        match (&self.target.point, moment) {
            (Point::Lsn(lsn), _) if start >= *lsn => Some(at),
            (Point::Time(target), Some(WalMoment::TransactionEnd { time, .. })) => {
                let is_past = if self.target.is_inclusive { time > target } else { time >= target };
                is_past.then_some(Stop::Before)
            }
            // The server compares the lower half alone.
            (Point::Xid(target), Some(WalMoment::TransactionEnd { xid, .. }))
                if *target & u64::from(u32::MAX) == u64::from(*xid) =>
            {
                Some(at)
            }
            // The server looks for a name only after it has replayed the record.
            (Point::Name(target), Some(WalMoment::RestorePoint { name, .. })) if target == name => {
                Some(Stop::After)
            }
            _ => None,
        }
    }

    /// Where recovery ends when the WAL ends at `end` and the target was not met before; `None` where all that the
    /// target asks for may not be there. `is_present` says that nothing was written behind it until now.
    pub fn at_end(&self, end: Lsn, is_present: bool) -> Option<Landing> {
        // The server tells a position at the end of a page as one behind the header of the next.
        const LONG_PAGE_HEADER_BYTES: u64 = 40;
        let is_reached = match &self.target.point {
            Point::End => true,
            Point::Time(time) => is_present || self.witnessed.is_some_and(|witnessed| *time <= witnessed),
            Point::Lsn(lsn) => {
                lsn.0 <= end.0.saturating_add(if is_present { LONG_PAGE_HEADER_BYTES } else { 0 })
            }
            Point::Xid(_) | Point::Name(_) => false,
        };
        is_reached.then(|| Landing { is_at_end: true, ..self.landing(end, end) })
    }

    /// The last transaction that was committed, as far as was seen.
    pub fn last_commit(&self) -> Option<Ended> {
        self.last_commit
    }

    /// When and where a timeline began, if that was seen.
    pub fn beginning_of(&self, timeline: TimelineId) -> Option<Ended> {
        self.begun.iter().find(|(begun, _)| *begun == timeline).map(|(_, ended)| *ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn commit(xid: u32, second: i64) -> WalMoment {
        WalMoment::TransactionEnd { xid, time: at(second), is_commit: true }
    }

    /// Records of 100 bytes from 100 on: number `n` begins at `100 n` and commits transaction `n`.
    fn land(target: RecoveryTarget, seconds: &[i64]) -> Option<Landing> {
        let mut search = Search::new(target);
        (1..).zip(seconds).find_map(|(number, second)| {
            let start = Lsn(u64::from(number) * 100);
            search.see(start, Lsn(start.0 + 100), Some(&commit(number, *second)))
        })
    }

    fn inclusive(point: Point) -> RecoveryTarget {
        RecoveryTarget { point, is_inclusive: true }
    }

    fn exclusive(point: Point) -> RecoveryTarget {
        RecoveryTarget { point, is_inclusive: false }
    }

    #[test]
    fn what_stands_right_at_the_target_is_in_it_unless_it_is_to_be_left_out() {
        let seconds = [10, 20, 30];
        let lsn_of = |target| land(target, &seconds).map(|landing| landing.lsn.0);
        assert_eq!(lsn_of(inclusive(Point::Time(at(20)))), Some(300));
        assert_eq!(lsn_of(exclusive(Point::Time(at(20)))), Some(200));
        assert_eq!(lsn_of(inclusive(Point::Xid(2))), Some(300));
        assert_eq!(lsn_of(exclusive(Point::Xid(2))), Some(200));
        assert_eq!(lsn_of(inclusive(Point::Lsn(Lsn(200)))), Some(300));
        assert_eq!(lsn_of(exclusive(Point::Lsn(Lsn(150)))), Some(200));
        assert_eq!(lsn_of(inclusive(Point::Time(at(30)))), None);
        assert_eq!(lsn_of(inclusive(Point::Xid((1 << 32) + 1))), Some(200));
    }

    #[test]
    fn the_first_restore_point_of_a_name_counts() {
        let mut search = Search::new(inclusive(Point::Name("mark".into())));
        let named = |name: &str| WalMoment::RestorePoint { name: name.into(), time: at(1) };
        assert_eq!(search.see(Lsn(100), Lsn(200), Some(&named("other"))), None);
        let landing = search.see(Lsn(200), Lsn(300), Some(&named("mark"))).unwrap();
        assert_eq!((landing.lsn, landing.read_to), (Lsn(300), Lsn(300)));
    }

    #[test]
    fn at_the_end_of_the_wal_only_what_is_known_to_be_whole_is_reached() {
        let seen = |target| {
            let mut search = Search::new(target);
            search.see(Lsn(100), Lsn(200), Some(&commit(1, 10)));
            search
        };
        let time = |second| seen(inclusive(Point::Time(at(second))));
        assert!(time(10).at_end(Lsn(200), false).is_some());
        assert!(time(11).at_end(Lsn(200), false).is_none());
        assert!(time(11).at_end(Lsn(200), true).is_some());
        assert!(seen(inclusive(Point::Lsn(Lsn(240)))).at_end(Lsn(200), true).is_some());
        assert!(seen(inclusive(Point::Lsn(Lsn(241)))).at_end(Lsn(200), true).is_none());
        assert!(seen(inclusive(Point::Lsn(Lsn(201)))).at_end(Lsn(200), false).is_none());
        assert!(seen(inclusive(Point::Xid(2))).at_end(Lsn(200), true).is_none());
        assert!(seen(RecoveryTarget::END).at_end(Lsn(200), false).is_some());
    }

    #[test]
    fn one_target_is_set_and_after_all_others_are_taken_back() {
        let settings = inclusive(Point::Time(at(0))).settings();
        assert_eq!(
            settings.last().unwrap(),
            &("recovery_target_time", "1970-01-01 00:00:00.000000+00".into())
        );
        assert_eq!(settings.iter().filter(|(_, value)| value.is_empty()).count(), 4);
        assert_eq!(RecoveryTarget::END.settings().iter().filter(|(_, value)| value.is_empty()).count(), 5);
    }

    proptest! {
        #[test]
        fn recovery_ends_before_the_first_transaction_that_ended_later(
            seconds in prop::collection::vec(0_i64..100, 1..40),
            target in 0_i64..100,
        ) {
            let landing = land(inclusive(Point::Time(at(target))), &seconds);
            let kept = seconds.iter().take_while(|second| **second <= target).count();
            match landing {
                None => prop_assert_eq!(kept, seconds.len()),
                Some(landing) => {
                    prop_assert_eq!(landing.lsn.0, (kept as u64 + 1) * 100);
                    prop_assert_eq!(landing.last_commit.is_some(), kept > 0);
                    prop_assert!(landing.last_commit.is_none_or(|last| last.time <= at(target)));
                }
            }
        }

        #[test]
        fn a_target_survives_json(xid in any::<u64>(), name in "\\PC{0,20}", is_inclusive in any::<bool>()) {
            for point in [Point::End, Point::Xid(xid), Point::Lsn(Lsn(xid)), Point::Name(name.clone())] {
                let target = RecoveryTarget { point, is_inclusive };
                let text = serde_json::to_string(&target).unwrap();
                prop_assert_eq!(serde_json::from_str::<RecoveryTarget>(&text).unwrap(), target);
            }
        }
    }
}
