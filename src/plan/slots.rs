//! Replication slots that a cluster has and the one in its place will not: what is lost with each, and what follows. Pure.
//!
//! No backup has slots (basebackup.c, `excludeDirContents`): what a slot keeps for its consumer is the WAL and the rows of
//! one moment, which a restored cluster does not have. So each is named, before and after, for whoever reads from it.

use super::diagnosis::Diagnosis;
use super::recovery::{Action, Plan, Source};
use serde::Serialize;

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What a logical one decodes with, and in which database; `None` for a physical one.
    pub logical: Option<LogicalSlot>,
}

/// What a logical replication slot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogicalSlot {
    /// Its output plugin.
    pub plugin: String,
    /// Its database, by name where that is known.
    pub database: String,
}

impl Slot {
    fn title(&self) -> String {
        match &self.logical {
            Some(LogicalSlot { plugin, database }) => {
                format!("replication slot '{}' ({plugin}, database '{database}')", self.name)
            }
            None => format!("replication slot '{}' (physical)", self.name),
        }
    }

    fn advice(&self) -> &'static str {
        if self.logical.is_some() {
            "its consumer must create it again and copy its tables again, since changes up to then are not sent"
        } else {
            "its standby or receiver must create it again, and a standby must be made again from this server"
        }
    }

    /// Says what will be lost, before it is.
    fn in_plan(&self) -> String {
        format!("{} will not be in the restored cluster: {}", self.title(), self.advice())
    }

    /// Says what was lost.
    pub fn in_outcome(&self) -> String {
        format!("left out {}: {}", self.title(), self.advice())
    }
}

/// Whether a cluster from a source has the slots of the one that it replaces. A copy of it has.
pub fn keeps_slots(source: &Source) -> bool {
    matches!(source, Source::Replayed { .. } | Source::Branched)
}

impl Plan {
    /// The same plan, with each slot named that the cluster will not have any more.
    #[must_use]
    pub(in crate::plan) fn naming_lost_slots(mut self, diagnosis: &Diagnosis) -> Self {
        let loses = |action: &Action| match action {
            Action::Replace(replacement) => {
                replacement.sources.first().is_some_and(|source| !keeps_slots(source))
            }
            Action::ReplaceInPlace(_) => true,
            _ => false,
        };
        if self.steps.iter().any(|step| loses(&step.action)) {
            self.remarks.extend(diagnosis.slots.iter().map(Slot::in_plan));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_with_what_its_consumer_must_do() {
        let logical = LogicalSlot { plugin: "pgoutput".into(), database: "shop".into() };
        let slot = Slot { name: "cdc".into(), logical: Some(logical) };
        assert_eq!(
            slot.in_plan(),
            "replication slot 'cdc' (pgoutput, database 'shop') will not be in the restored cluster: its consumer must \
             create it again and copy its tables again, since changes up to then are not sent"
        );
        let physical = Slot { name: "second".into(), logical: None };
        assert!(
            physical.in_outcome().starts_with("left out replication slot 'second' (physical): its standby")
        );
    }
}
