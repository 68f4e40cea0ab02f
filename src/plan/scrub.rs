//! Reading the repository back piece by piece: how far that is, how much of it is due, and what may be said of it. Pure.
//!
//! A round reads everything that there is once, in the order of the keys, and takes as long as a person allows it
//! (`SCRUB_INTERVAL`). What is stored meanwhile behind the place that was reached is read in this round, the rest in the
//! next.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::pg::SystemIdentifier;

/// In how many steps a round is made, if nothing keeps them from being made in time.
pub const STEPS: u32 = 14;

/// What begins the key of a pack.
pub const PACK_KEY: &str = "packs/";
/// What begins the key of a file table.
pub const TABLE_KEY: &str = "tables/";
/// What begins the key of an archived WAL file.
pub const WAL_KEY: &str = "wal/";

/// Something of the repository that is read back as a whole. In the order of their keys, which no other has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrubItem {
    /// What it is: `packs/ID`, `tables/NAME` or `wal/CLUSTER/NAME`.
    pub key: String,
    /// How much there is to read.
    pub size_bytes: u64,
}

/// How far reading back is, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// The round that is under way.
    #[serde(default)]
    pub round: Option<ScrubRound>,
    /// The last round that was finished.
    #[serde(default)]
    pub last: Option<FinishedRound>,
    /// What is not what was stored, by key, and how that was noticed.
    #[serde(default)]
    pub damaged: BTreeMap<String, String>,
    /// What could not be read, by key, and why. That says nothing about what is on the disk.
    #[serde(default)]
    pub unreadable: BTreeMap<String, String>,
}

/// A round that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubRound {
    /// When it was begun.
    pub began_at: DateTime<Utc>,
    /// The key of what was read last; empty at the beginning.
    pub position: String,
    /// How much was read.
    pub read_bytes: u64,
}

/// A round that was finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedRound {
    /// When it was begun.
    pub began_at: DateTime<Utc>,
    /// When everything had been read.
    pub finished_at: DateTime<Utc>,
    /// How much was read.
    pub read_bytes: u64,
}

/// What became of reading something back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// It is what was stored.
    Sound,
    /// It has been removed since it was listed.
    Gone,
    /// It is not what was stored.
    Damaged(String),
    /// The disk did not give it.
    Unreadable(String),
}

impl ScrubState {
    /// Returns the round under way, begun now where there is none.
    pub fn round(&mut self, now: DateTime<Utc>) -> &mut ScrubRound {
        self.round.get_or_insert_with(|| ScrubRound { began_at: now, position: String::new(), read_bytes: 0 })
    }

    /// Sets down what became of reading something back.
    pub fn take(&mut self, item: &ScrubItem, read: ReadBack, now: DateTime<Utc>) {
        let round = self.round(now);
        round.position.clone_from(&item.key);
        round.read_bytes = round.read_bytes.saturating_add(item.size_bytes);
        match read {
            ReadBack::Sound | ReadBack::Gone => {
                self.damaged.remove(&item.key);
                self.unreadable.remove(&item.key);
            }
            ReadBack::Damaged(reason) => {
                self.unreadable.remove(&item.key);
                self.damaged.insert(item.key.clone(), reason);
            }
            // What was found damaged before is not known to be sound.
            ReadBack::Unreadable(reason) => _ = self.unreadable.insert(item.key.clone(), reason),
        }
    }

    /// Ends the round under way: everything has been read.
    pub fn finish(&mut self, now: DateTime<Utc>) {
        if let Some(round) = self.round.take() {
            let ScrubRound { began_at, read_bytes, .. } = round;
            self.last = Some(FinishedRound { began_at, finished_at: now, read_bytes });
        }
    }

    /// Takes over what was found besides by who read much at once, which says nothing about the rest.
    pub fn take_found(&mut self, found: &BTreeMap<String, String>) {
        self.damaged.extend(found.iter().map(|(key, reason)| (key.clone(), reason.clone())));
        self.unreadable.retain(|key, _| !found.contains_key(key));
    }

    /// Takes over what was found by who read everything: what was found before, and is not among it, is sound or gone.
    pub fn take_all(&mut self, found: &BTreeMap<String, String>, began: DateTime<Utc>, read_bytes: u64) {
        self.damaged.clone_from(found);
        self.unreadable.clear();
        self.round = Some(ScrubRound { began_at: began, position: String::new(), read_bytes });
    }

    /// Forgets what was found of what is not there any more. `items` are in order.
    pub fn forget_all_but(&mut self, items: &[ScrubItem]) {
        let is_there = |key: &String| items.binary_search_by(|item| item.key.cmp(key)).is_ok();
        self.damaged.retain(|key, _| is_there(key));
        self.unreadable.retain(|key, _| is_there(key));
    }

    /// The names of the packs that were found damaged.
    pub fn damaged_packs(&self) -> impl Iterator<Item = &str> {
        self.damaged.keys().filter_map(|key| key.strip_prefix(PACK_KEY))
    }

    /// The names of the archived WAL files of a cluster that were found damaged.
    pub fn damaged_wal_of(&self, cluster: SystemIdentifier) -> BTreeSet<&str> {
        let prefix = format!("{WAL_KEY}{cluster}/");
        self.damaged.keys().filter_map(|key| key.strip_prefix(&prefix)).collect()
    }

    /// The names of the archived WAL files that were found damaged, whatever their cluster.
    pub fn damaged_wal(&self) -> impl Iterator<Item = &str> {
        let keys = self.damaged.keys().filter_map(|key| key.strip_prefix(WAL_KEY));
        keys.filter_map(|key| key.rsplit('/').next())
    }
}

/// Returns the share of a round that must have been read by now, between 0 and 1: as much of it as of its time has gone
/// by, and one step more.
pub fn share_due(began_at: DateTime<Utc>, now: DateTime<Utc>, interval: TimeDelta) -> f64 {
    let seconds = |span: TimeDelta| span.as_seconds_f64();
    // A clock that was turned back costs speed, never the round.
    let gone = seconds(now - began_at).max(0.0) / seconds(interval).max(1e-3);
    (gone + 1.0 / f64::from(STEPS)).min(1.0)
}

/// Whether the repository is read back often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything that there was has been read.
    Fresh {
        /// When the first of it was.
        since: DateTime<Utc>,
    },
    /// Not everything has been read yet, and need not have been.
    NotYetDue {
        /// When it must have been.
        until: DateTime<Utc>,
    },
    /// Nobody ever read everything, and it is time.
    Never,
    /// It was read, too long ago.
    Overdue {
        /// When the last of it was.
        since: DateTime<Utc>,
    },
}

/// Judges whether the repository is read back often enough: a round and a half may pass without the end of one.
pub fn freshness(
    state: &ScrubState,
    oldest_backup: DateTime<Utc>,
    now: DateTime<Utc>,
    interval: TimeDelta,
) -> Freshness {
    let patience = interval + interval / 2;
    match &state.last {
        Some(last) if now - last.finished_at > patience => Freshness::Overdue { since: last.finished_at },
        Some(last) => Freshness::Fresh { since: last.began_at },
        None if now - oldest_backup > patience => Freshness::Never,
        None => Freshness::NotYetDue { until: oldest_backup + patience },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn day(number: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + number * 86_400, 0).unwrap()
    }

    fn item(key: &str) -> ScrubItem {
        ScrubItem { key: key.to_owned(), size_bytes: 10 }
    }

    #[rstest]
    #[case::at_the_beginning(0, 1.0 / 14.0)]
    #[case::after_half_the_time(7, 0.5 + 1.0 / 14.0)]
    #[case::at_the_last_step(13, 1.0)]
    #[case::after_a_long_pause(60, 1.0)]
    #[case::with_a_clock_that_was_turned_back(-9, 1.0 / 14.0)]
    fn as_much_is_due_as_of_the_time_has_gone_by(#[case] now: i64, #[case] due: f64) {
        let found = share_due(day(0), day(now), TimeDelta::days(14));
        assert!((found - due).abs() < 1e-9, "{found}");
    }

    #[test]
    fn damage_stays_until_it_is_read_and_sound_or_gone() {
        let mut state = ScrubState::default();
        state.take(&item("packs/a"), ReadBack::Damaged("cut".into()), day(0));
        state.take(&item("wal/7/x"), ReadBack::Damaged("cut".into()), day(0));
        state.take(&item("packs/a"), ReadBack::Unreadable("no answer".into()), day(1));
        assert_eq!(state.damaged_packs().collect::<Vec<_>>(), ["a"]);
        assert_eq!(state.damaged_wal().collect::<Vec<_>>(), ["x"]);
        state.take(&item("packs/a"), ReadBack::Sound, day(2));
        assert_eq!((state.damaged.len(), state.unreadable.len()), (1, 0));
        state.forget_all_but(&[item("packs/a")]);
        assert!(state.damaged.is_empty());
        assert_eq!(state.round.as_ref().unwrap().read_bytes, 40);
        state.finish(day(3));
        assert_eq!(state.last.unwrap().began_at, day(0));
    }

    #[test]
    fn what_was_read_at_once_replaces_what_was_found_before_only_where_it_was_everything() {
        let mut state = ScrubState::default();
        state.take(&item("packs/a"), ReadBack::Damaged("cut".into()), day(0));
        state.take(&item("wal/7/x"), ReadBack::Unreadable("no answer".into()), day(0));
        let found = BTreeMap::from([("wal/7/x".to_owned(), "flipped".to_owned())]);

        state.take_found(&found);
        assert_eq!((state.damaged.len(), state.unreadable.len()), (2, 0));
        assert_eq!(state.damaged_wal_of(SystemIdentifier(7)), BTreeSet::from(["x"]));
        assert!(state.damaged_wal_of(SystemIdentifier(77)).is_empty());

        state.take_all(&found, day(1), 20);
        state.finish(day(2));
        assert_eq!(state.damaged, found);
        assert_eq!(state.last.map(|last| last.read_bytes), Some(20));
    }

    #[rstest]
    #[case::new(None, 0, 5, Freshness::NotYetDue { until: day(21) })]
    #[case::never_read(None, 0, 22, Freshness::Never)]
    #[case::read(Some(20), 0, 41, Freshness::Fresh { since: day(10) })]
    #[case::read_too_long_ago(Some(20), 0, 42, Freshness::Overdue { since: day(20) })]
    fn a_round_and_a_half_may_pass(
        #[case] finished: Option<i64>,
        #[case] oldest: i64,
        #[case] now: i64,
        #[case] expected: Freshness,
    ) {
        let last =
            finished.map(|at| FinishedRound { began_at: day(at - 10), finished_at: day(at), read_bytes: 1 });
        let state = ScrubState { last, ..ScrubState::default() };
        assert_eq!(freshness(&state, day(oldest), day(now), TimeDelta::days(14)), expected);
    }
}
