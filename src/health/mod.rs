//! Whether all is well: checks, each with a verdict, in one report.
//!
//! A check never fails: what it cannot find out is a verdict, too. All of them run, whatever the first says.
//! An issue is what a person must act on; a warning is what will become one.

mod access;
mod archiver;
mod backups;
mod collations;
mod data;
mod disks;
mod scrub;
mod server;
mod version;
mod wal_archive;

use crate::execute::Tools;
use crate::execute::decide::diagnose;
use chrono::{DateTime, Utc};
use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// All is well.
    Ok,
    /// It will need a person before long.
    Warning,
    /// It needs a person now.
    Issue,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable name, such as `disk-backups`.
    pub name: &'static str,
    /// How it came out.
    pub level: Level,
    /// What was found, with figures.
    pub summary: String,
    /// What to do about it, where it is not well.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, summary: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, summary: summary.into(), remedy: None }
    }

    fn warning(name: &'static str, summary: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, level: Level::Warning, summary: summary.into(), remedy: Some(remedy.into()) }
    }

    fn issue(name: &'static str, summary: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, level: Level::Issue, summary: summary.into(), remedy: Some(remedy.into()) }
    }
}

/// All checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When they were made.
    pub time: DateTime<Utc>,
    /// The worst verdict.
    pub level: Level,
    /// Each of them.
    pub checks: Vec<Check>,
}

/// Runs every check.
pub fn examine(tools: &Tools, now: DateTime<Utc>) -> Report {
    let mut checks = Vec::new();
    // One inspection for both: a container's health check asks every few seconds.
    let diagnosis = diagnose(tools);
    let session = server::check(tools, &diagnosis, &mut checks);
    data::check(tools, &diagnosis, &mut checks);
    version::check(tools, now, &mut checks);
    disks::check(tools.settings, &mut checks);
    if let Some(mut session) = session {
        server::check_overridden(&tools.settings.data_directory, &mut checks);
        server::check_durability(&mut session, &mut checks);
        server::check_long_queries(&mut session, &mut checks);
        collations::check(&mut session, &mut checks);
        archiver::check(&mut session, tools.settings.wal_archive, &mut checks);
        access::check(tools, &mut session, &mut checks);
    }
    backups::check(tools, now, &mut checks);
    wal_archive::check(tools, now, &mut checks);
    let level = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
    Report { time: now, level, checks }
}
