//! `backup-postgresql restore` and `undo`: a backup, or a moment after it, in the place of the present data or elsewhere.

use super::arguments::{backup_name, dry_run, is_given, subcommand, switch, yes};
use super::backing_up::{self, back_up_after_start};
use super::context::Workplace;
use super::finding::{Wanted, backup_named, find};
use super::halves::{RootHalf, ServerHalf};
use super::importing::warn_of_program;
use super::init_postgresql::tell;
use super::moment::{self, Moment};
use super::privileges::{Directories, drop_privileges, prepare_place};
use anyhow::Context;
use chrono::Utc;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use pgbox::cluster::history;
use pgbox::cluster::inspect::elsewhere::other_data_directory;
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::execute::ensure::Ensured;
use pgbox::execute::point_in_time::{
    self, Elsewhere, Prepared, Request, check_elsewhere, check_place, outline, prepare, restore_elsewhere,
    restore_to,
};
use pgbox::execute::restore::{plan_restore, restore};
use pgbox::pg::{Lsn, TimelineId};
use pgbox::plan::BackupSummary;
use pgbox::plan::delta::Wish;
use pgbox::plan::point_in_time::TimelineChoice;
use pgbox::plan::recovery::Plan;
use pgbox::plan::recovery_target::{Point, RecoveryTarget, in_words};
use pgbox::plan::restore_outline::Outline;
use pgbox::settings::Settings;
use pgbox::sys;
use pgbox::ui::Ui;
use serde::Serialize;
use std::path::{Path, PathBuf};

const ABOUT: &str = "Puts a backup, or a moment after it, in the place of the present data.

With NAME alone it is the rows of that backup's moment. With one of --to-time, --to-lsn, --to-xid, --to-name and --to-end \
the WAL that followed is replayed up to there, archived WAL and what is in pg_wal; without NAME the newest good backup \
before it is chosen. Whether the WAL leads there is read before anything is touched.

The plan is shown first. At a terminal the backup's name has to be typed; without one --yes has to be given. The \
server is stopped, the present data is kept, and if anything fails it is put back.

Where a backup is wanted as it is, and most of the present data is the same, or there is no room for a second cluster on \
its disk, the present data is stored in the repository, and then only what differs is written. Otherwise, or with --full, \
the cluster is built beside the present one, which is set aside. The plan says which and why, what is written, left and \
removed, and the room that it takes.

With --into nothing is replaced: the server goes on, and the other directory has a cluster that is recovered, cleanly \
stopped, and archives nothing.";

const UNDO: &str = "Takes the last restore or recovery back: the data that it set aside takes its place again.

What is there now is kept in turn, so that a second undo takes the first one back. Data that was set aside because \
it was damaged is damaged still, and is refused.";

/// The longest name of a restore point (`MAXFNAMELEN` - 1).
const NAME_SIZE_BYTES: usize = 63;
/// The smallest number of an ordinary transaction (`FirstNormalTransactionId`).
const FIRST_XID: u64 = 3;

/// The command line of `restore`.
pub(super) fn restore_command() -> Command {
    const TARGETS: [&str; 5] = ["to-time", "to-lsn", "to-xid", "to-name", "to-end"];
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    subcommand("restore", "Puts a backup, or a moment after it, in the place of the present data")
        .long_about(ABOUT)
        .arg(backup_name().required(false).required_unless_present_any(TARGETS))
        .arg(
            option("to-time", "TIME", "What was committed until then (without a zone: local time)")
                .value_parser(moment::parse),
        )
        .arg(
            option("to-lsn", "LSN", "Up to the first WAL record that begins there or behind")
                .value_parser(parse_lsn),
        )
        .arg(option("to-xid", "XID", "Up to the end of a transaction").value_parser(parse_xid))
        .arg(option("to-name", "NAME", "Up to what pg_create_restore_point() named").value_parser(parse_name))
        .arg(Arg::new("to-end").long("to-end").action(ArgAction::SetTrue).help("Up to the end of all WAL"))
        .group(ArgGroup::new("target").args(TARGETS))
        .arg(
            switch("exclusive", "Leave out the transaction or the record that is right at the target")
                .requires("target")
                .conflicts_with_all(["to-end", "to-name"]),
        )
        .arg(
            option(
                "timeline",
                "ID",
                "The timeline to follow: a number, latest or current [default: current]",
            )
            .value_parser(parse_timeline)
            .requires("target"),
        )
        .arg(
            option("into", "DIRECTORY", "Restore there, and leave the present data and its server alone")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(full().conflicts_with("target"))
        .arg(no_backup().conflicts_with("into"))
        .arg(yes())
        .arg(dry_run())
}

fn full() -> Arg {
    switch("full", "Write every file from the backup, beside the present data, whatever is the same")
}

fn no_backup() -> Arg {
    switch("no-backup", "Make no backup after the start")
}

fn wish(arguments: &ArgMatches) -> Wish {
    if is_given(arguments, "full") { Wish::Full } else { Wish::Best }
}

/// The command line of `undo`.
pub(super) fn undo_command() -> Command {
    subcommand("undo", "Takes the last restore or recovery back")
        .long_about(UNDO)
        .arg(full())
        .arg(no_backup())
        .arg(yes())
        .arg(dry_run())
}

fn parse_lsn(text: &str) -> Result<Lsn, String> {
    let lsn: Lsn = text.parse().map_err(|error: pgbox::pg::ParseLsnError| error.to_string())?;
    if lsn.is_valid() { Ok(lsn) } else { Err("no WAL is there".to_owned()) }
}

fn parse_xid(text: &str) -> Result<u64, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let xid = text.parse().ok().filter(|xid| is_number && *xid >= FIRST_XID);
    xid.ok_or_else(|| format!("it must be the number of a transaction, from {FIRST_XID} on"))
}

fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_SIZE_BYTES {
        return Err(format!("the name of a restore point has 1 to {NAME_SIZE_BYTES} bytes"));
    }
    Ok(text.to_owned())
}

fn parse_timeline(text: &str) -> Result<TimelineChoice, String> {
    match text {
        "current" => Ok(TimelineChoice::Present),
        "latest" => Ok(TimelineChoice::Latest),
        number => match number.parse() {
            Ok(number @ 1..) => Ok(TimelineChoice::Number(TimelineId(number))),
            _ => Err("it must be a number from 1 on, latest or current".to_owned()),
        },
    }
}

/// The target that was given, if one was.
fn target_of(arguments: &ArgMatches) -> Option<RecoveryTarget> {
    let time = arguments.get_one::<Moment>("to-time").map(|moment| Point::Time(moment.time));
    let lsn = arguments.get_one::<Lsn>("to-lsn").map(|lsn| Point::Lsn(*lsn));
    let xid = arguments.get_one::<u64>("to-xid").map(|xid| Point::Xid(*xid));
    let name = arguments.get_one::<String>("to-name").map(|name| Point::Name(name.clone()));
    let end = is_given(arguments, "to-end").then_some(Point::End);
    let point = time.or(lsn).or(xid).or(name).or(end)?;
    Some(RecoveryTarget { point, is_inclusive: !is_given(arguments, "exclusive") })
}

/// What was asked for, found and looked at.
struct Asked {
    backup: BackupSummary,
    moment: Option<(Request, Prepared)>,
}

impl Asked {
    fn prepared(&self) -> Option<&Prepared> {
        self.moment.as_ref().map(|(_, prepared)| prepared)
    }

    fn look(arguments: &ArgMatches, tools: &Tools, is_elsewhere: bool) -> anyhow::Result<Self> {
        let named = backup_named(arguments)?;
        let Some(target) = target_of(arguments) else {
            let backup = find(tools, named.unwrap_or(Wanted::Latest))?;
            return Ok(Self { backup, moment: None });
        };
        // `latest` is what is chosen anyway, as far as it can be.
        let backup = match named {
            Some(named @ Wanted::Named(_)) => Some(find(tools, named)?),
            Some(Wanted::Latest) | None => None,
        };
        let timeline = arguments.get_one::<TimelineChoice>("timeline").copied();
        let request = Request { backup, target, timeline, is_elsewhere };
        let prepared = prepare(tools, &request, Utc::now())?;
        Ok(Self { backup: prepared.backup.clone(), moment: Some((request, prepared)) })
    }
}

/// Restores, in place or into another directory.
pub(super) fn run(arguments: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    // A name that makes no sense is refused before anything is looked at.
    backup_named(arguments)?;
    tell_zone(arguments, ui);
    if let Some(into) = arguments.get_one::<PathBuf>("into") {
        return run_elsewhere(arguments, settings, into, ui);
    }
    let directories =
        if is_given(arguments, "dry-run") { Directories::LeaveAlone } else { Directories::Prepare };
    drop_privileges(settings, ui, directories)?;
    let workplace = Workplace::open(settings, ui)?;
    let tools = workplace.tools();
    restore_asked(arguments, &tools, &Asked::look(arguments, &tools, false)?, ui)
}

/// A time without a zone may not be the one that was meant.
fn tell_zone(arguments: &ArgMatches, ui: &Ui) {
    let moment = arguments.get_one::<Moment>("to-time");
    if let Some((moment, assumed)) = moment.and_then(|moment| Some((moment, moment.assumed.as_ref()?))) {
        ui.info(&format!("{assumed}: {}", in_words(moment.time)));
    }
}

/// A plan, and what it comes to.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    plan: Option<&'a Plan>,
    outline: &'a Outline,
}

fn show(plan: Option<&Plan>, outline: &Outline, ui: &Ui) -> anyhow::Result<()> {
    if ui.is_json() {
        return ui.json(&Shown { plan, outline });
    }
    if let Some(plan) = plan {
        ui.plan(plan)?;
    }
    outline.lines().iter().for_each(|line| ui.info(line));
    Ok(())
}

fn restore_asked(arguments: &ArgMatches, tools: &Tools, asked: &Asked, ui: &Ui) -> anyhow::Result<u8> {
    let now = Utc::now();
    let backup = &asked.backup;
    let plan = match asked.prepared() {
        Some(prepared) => point_in_time::plan(tools, prepared, now)?,
        None => plan_restore(tools, backup, wish(arguments), now)?,
    };
    let is_dry_run = is_given(arguments, "dry-run");
    if is_dry_run || asked.moment.is_some() && !ui.is_json() {
        show(Some(&plan), &outline(tools, backup, asked.prepared(), None)?, ui)?;
    } else if !ui.is_json() {
        ui.plan(&plan)?;
    }
    if is_dry_run {
        return Ok(0);
    }
    warn_of_program(backup, ui);
    if !is_given(arguments, "yes") {
        ui.confirm_by_typing(&backup.name.to_string())?;
    }
    let ensured = match &asked.moment {
        Some((request, prepared)) => restore_to(tools, request, prepared, now)?,
        None => restore(tools, backup, wish(arguments), now)?,
    };
    conclude(tools, asked, &ensured, !is_given(arguments, "no-backup"), ui)
}

fn conclude(tools: &Tools, asked: &Asked, ensured: &Ensured, backs_up: bool, ui: &Ui) -> anyhow::Result<u8> {
    tell(ensured, ui);
    ui.info(&format!("PostgreSQL serves on port {} (process {})", ensured.address.port, ensured.pid));
    // The newest backup must be of the history that now goes on, or the next recovery would have to leave it.
    if backs_up {
        back_up_after_start(tools, &ensured.address, ui);
    } else {
        ui.warn("made no backup of it: until the next one, a recovery falls back on a backup of the former history");
    }
    if ui.is_json() {
        let set_aside = ensured.outcome.as_ref().and_then(|outcome| outcome.set_aside);
        let way = asked.prepared().map(|prepared| &prepared.way);
        let (restored, port) = (asked.backup.name, ensured.address.port);
        ui.json(
            &serde_json::json!({ "restored": restored, "way": way, "set_aside": set_aside, "port": port }),
        )?;
    }
    Ok(0)
}

/// Restores elsewhere. As root, all but the making of the directory is done by another process, as the server's user.
fn run_elsewhere(arguments: &ArgMatches, settings: &Settings, into: &Path, ui: &Ui) -> anyhow::Result<u8> {
    let into = absolute(into)?;
    if sys::effective_identity().is_root() {
        let mut half = ServerHalf::start()?;
        if let Some(imported) = half.receive::<Option<String>>()? {
            // The other half has no terminal.
            ask_about(imported.as_deref(), arguments, ui)?;
            prepare_place(&into)?;
            half.send(&())?;
        }
        return Ok(sys::end_like(half.finish()?));
    }
    let mut make_place = |imported: Option<&str>| {
        ask_about(imported, arguments, ui)?;
        prepare_place(&into).map(|()| true)
    };
    restore_into(arguments, settings, &mut Place { directory: &into, make: &mut make_place }, ui)
}

/// The half of it that is not root.
pub(super) fn serve(
    arguments: &ArgMatches,
    settings: &Settings,
    ui: &Ui,
    root: &mut RootHalf,
) -> anyhow::Result<u8> {
    let into = absolute(arguments.get_one::<PathBuf>("into").context("find the directory")?)?;
    let mut make_place = |imported: Option<&str>| {
        root.send(&imported)?;
        Ok(root.receive::<()>()?.is_some())
    };
    restore_into(arguments, settings, &mut Place { directory: &into, make: &mut make_place }, ui)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("find '{}'", path.display()))
}

/// Where a cluster is restored beside the present one.
struct Place<'a> {
    directory: &'a Path,
    /// Makes the directory, or has it made, for a backup of this name if it was imported. `false`: that failed, and was
    /// reported.
    make: &'a mut dyn FnMut(Option<&str>) -> anyhow::Result<bool>,
}

/// Has a person type the name of an imported backup, which is a program.
fn ask_about(imported: Option<&str>, arguments: &ArgMatches, ui: &Ui) -> anyhow::Result<()> {
    match imported {
        Some(name) if !is_given(arguments, "yes") => Ok(ui.confirm_by_typing(name)?),
        _ => Ok(()),
    }
}

fn restore_into(
    arguments: &ArgMatches,
    settings: &Settings,
    place: &mut Place<'_>,
    ui: &Ui,
) -> anyhow::Result<u8> {
    let workplace = Workplace::open(settings, ui)?;
    let (tools, into) = (workplace.tools(), place.directory);
    check_place(&tools, into)?;
    let asked = Asked::look(arguments, &tools, true)?;
    let what = Elsewhere { backup: &asked.backup, prepared: asked.prepared(), into };
    check_elsewhere(&tools, &what)?;
    let outline = outline(&tools, &asked.backup, asked.prepared(), Some(into))?;
    let is_dry_run = is_given(arguments, "dry-run");
    if is_dry_run || !ui.is_json() {
        let end = asked.prepared().map(|prepared| prepared.way.end_in_words());
        end.filter(|_| !ui.is_json()).iter().for_each(|end| ui.info(end));
        show(None, &outline, ui)?;
    }
    if is_dry_run {
        return Ok(0);
    }
    warn_of_program(&asked.backup, ui);
    let imported = asked.backup.imported.then(|| asked.backup.name.to_string());
    if !(place.make)(imported.as_deref())? {
        return Ok(0);
    }
    restore_elsewhere(&tools, &what, Utc::now())?;
    tell_elsewhere(&tools, &asked, into, ui)
}

fn tell_elsewhere(tools: &Tools, asked: &Asked, into: &Path, ui: &Ui) -> anyhow::Result<u8> {
    let program = tools.installation.program("pg_ctl");
    let quoted = |path: &Path| shell_words::quote(&path.to_string_lossy()).into_owned();
    let command = format!("{} -D {} -o '-p 5433' start", quoted(&program), quoted(into));
    ui.info(&format!(
        "restored {} into '{}', recovered and cleanly stopped",
        asked.backup.name,
        into.display()
    ));
    ui.info("its postgresql.auto.conf has archive_mode = off, so that it never mixes its WAL with that of the original");
    if let Some(found) = other_data_directory(into) {
        ui.warn(&format!("{}: take that line out before a server is started with it", found.evidence()));
    }
    ui.hint(&format!("start it on a port of its own, as the directory's owner: {command}"));
    if ui.is_json() {
        let way = asked.prepared().map(|prepared| &prepared.way);
        ui.json(&serde_json::json!({
            "restored": asked.backup.name, "way": way, "into": into, "start": command,
        }))?;
    }
    Ok(0)
}

/// Takes the last restore or recovery back.
pub(super) fn undo(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let path = &tools.settings.data_directory;
    let Some(name) = history::last_set_aside(path).context("read what was done here")? else {
        let message =
            format!("there is nothing to take back: no cluster of '{}' was ever replaced", path.display());
        return Err(Failure::new(Kind::NoSuchBackup, message).into());
    };
    if !is_given(arguments, "dry-run") {
        backing_up::store_what_was_set_aside(tools, ui)?;
    }
    let backup = find(tools, Wanted::Named(name))?;
    restore_asked(arguments, tools, &Asked { backup, moment: None }, ui)
}
