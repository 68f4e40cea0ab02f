//! Restoring to a moment that a person named.
//!
//! The WAL on the way is read before anything is touched, by the rules by which the server ends recovery: that it gets
//! there, where it will end and what will be in it are known when the plan is shown. The alternative, to let the server
//! try and to put the data back if it fails, would cost the downtime of a restore for each wrong guess.

mod elsewhere;
mod outline;
mod scene;
mod search;
mod wal;

pub use elsewhere::{Elsewhere, check_elsewhere, check_place, restore_elsewhere};
pub use outline::outline;

use super::Tools;
use super::decide::{decide_restore_to, diagnose};
use super::ensure::Ensured;
use super::restore::{Deciding, replace_present};
use super::staging::ensure_room;
use crate::error::{Failure, Kind};
use crate::plan::delta::SPARE_BYTES;
use crate::plan::point_in_time::{TimelineChoice, Way};
use crate::plan::recovery::Plan;
use crate::plan::recovery_target::{Ended, RecoveryTarget};
use crate::plan::restore_outline::LostFrom;
use crate::plan::{BackupSummary, Diagnosis};
use chrono::{DateTime, Utc};
use scene::Scene;

/// What a person asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The backup to begin from; `None` is the newest good one from which the target can be reached.
    pub backup: Option<BackupSummary>,
    /// Where to end.
    pub target: RecoveryTarget,
    /// The timeline to follow; `None` is that of the present cluster, unless the target is on another, too.
    pub timeline: Option<TimelineChoice>,
    /// Whether it goes into another directory than that of the present cluster.
    pub is_elsewhere: bool,
}

/// How a moment is reached, and from where.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The way.
    pub way: Way,
    /// The backup that it begins from.
    pub backup: BackupSummary,
    /// The last transaction of the present cluster, as far as is known.
    pub present_commit: Option<Ended>,
    /// From where on nothing of what the cluster has committed is in it; `None`: all of it is.
    pub lost_from: Option<LostFrom>,
}

impl Prepared {
    /// What it takes on the disk: the backup's files, the WAL that is laid out, and what recovery writes.
    pub fn needed_bytes(&self) -> u64 {
        self.backup.size_bytes.saturating_add(self.way.wal_bytes()).saturating_add(SPARE_BYTES)
    }
}

/// Finds the way to a moment. Changes nothing.
///
/// # Errors
/// [`Kind::Refused`] where it cannot be reached, with what can be.
pub fn prepare(tools: &Tools, request: &Request, now: DateTime<Utc>) -> anyhow::Result<Prepared> {
    prepare_after(tools, request, &diagnose(tools)?, now)
}

fn prepare_after(
    tools: &Tools,
    request: &Request,
    diagnosis: &Diagnosis,
    now: DateTime<Utc>,
) -> anyhow::Result<Prepared> {
    let scene = Scene::look(tools, request.backup.as_ref(), diagnosis)?;
    tools.progress.begin("reading the WAL", None);
    let prepared = search::find(&scene, request, now);
    tools.progress.end();
    prepared
}

/// Decides how to put it in the place of the present data.
pub fn plan(tools: &Tools, prepared: &Prepared, now: DateTime<Utc>) -> anyhow::Result<Plan> {
    decide_restore_to(tools, &prepared.backup, &prepared.way, &diagnose(tools)?, now)
}

/// Restores to a moment, in the place of the present data, as [`super::restore::restore`] does.
///
/// # Errors
/// As there. A server that ends recovery before the target is one of those failures.
pub fn restore_to(
    tools: &Tools,
    request: &Request,
    prepared: &Prepared,
    now: DateTime<Utc>,
) -> anyhow::Result<Ensured> {
    let Prepared { way, backup, .. } = prepared;
    let decide = |diagnosis: &Diagnosis| decide_restore_to(tools, backup, way, diagnosis, now);
    // What was committed until the server stopped belongs to the end; all other places stay where they are.
    let conclude = |plan: Plan, _: &Diagnosis| {
        if !way.landing.is_at_end {
            return Ok(plan);
        }
        let diagnosis = diagnose(tools)?;
        let Prepared { way, backup, .. } = prepare_after(tools, request, &diagnosis, now)?;
        decide_restore_to(tools, &backup, &way, &diagnosis, now)
    };
    let settle = |plan: Plan, _: &Diagnosis| {
        let purpose = format!("restore {} to {}", backup.name, way.target);
        ensure_room(&tools.settings.data_directory, prepared.needed_bytes(), &purpose)?;
        Ok(plan)
    };
    replace_present(tools, &Deciding { decide: &decide, settle: &settle, conclude: &conclude })
}

/// What cannot be done, and what can.
pub(super) fn refused(reason: impl std::fmt::Display, hint: &str) -> anyhow::Error {
    let message = format!("cannot go on: {reason}");
    Failure::new(Kind::Refused, message).hint(format!("{hint}. Nothing was changed.")).into()
}
