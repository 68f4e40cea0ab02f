//! `init-postgresql`: sees to it that a sound cluster is there and its server runs.

use super::arguments::{dry_run, is_given, json, switch, timeout};
use super::backing_up::back_up_after_start;
use super::context::Workplace;
use super::privileges::{Directories, drop_privileges, report_refused};
use anyhow::Context;
use clap::{ArgMatches, Command};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pgbox::cluster::inspect::Depth;
use pgbox::cluster::ownership::Ownership;
use pgbox::cluster::session::ServerAddress;
use pgbox::cluster::setup::{Role, ensure_role};
use pgbox::cluster::{Expectations, inspect};
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::execute::decide;
use pgbox::execute::ensure::{self, Ensured};
use pgbox::execute::start::superuser_login;
use pgbox::format;
use pgbox::plan::{Presence, RecoveryPolicy, Remedy, Severity};
use pgbox::settings::{Secret, Settings};
use pgbox::sys::{Giving, HeldDirectory, Identity, OwnershipReport, effective_identity, find_user};
use pgbox::ui::Ui;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

const ABOUT: &str = "Makes, checks, repairs and starts the PostgreSQL cluster";

const LONG_ABOUT: &str = "Makes, checks, repairs and starts the PostgreSQL cluster.

An absent or empty data directory gets a new cluster, with roles and database. One that is there is inspected, \
repaired or restored as far as RECOVERY allows, started, tried with two connections, and backed up. If its server \
runs already, nothing is done. It may be run any number of times, also at once.";

/// The command line.
pub(super) fn command() -> Command {
    Command::new("init-postgresql")
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .arg(switch("wait", "Start nothing; wait until the server accepts connections"))
        .arg(timeout("How long to wait, such as 90s or 2m").requires("wait").default_value("120s"))
        .arg(switch("sync-password", "Set the roles' passwords to those of the settings again"))
        .arg(switch("no-backup", "Make no backup after the start"))
        .arg(switch("show-password", "Show the password in the connection URL, if on a terminal"))
        .arg(dry_run())
        .arg(json())
}

/// What a running server is reached by, as it is reported.
#[derive(Serialize)]
struct Report<'a> {
    version: String,
    data_directory: &'a Path,
    port: u16,
    user: &'a str,
    database: &'a str,
    url: String,
    was_running: bool,
    done: &'a [String],
    remarks: &'a [String],
}

/// Runs it.
pub(super) fn run(matches: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    let is_dry_run = is_given(matches, "dry-run");
    give_cluster_to_its_user(settings, ui, is_dry_run)?;
    drop_privileges(settings, ui, Directories::unless_dry_run(matches))?;
    if is_given(matches, "wait") {
        let timeout = matches.get_one::<Duration>("timeout").copied().unwrap_or(Duration::from_mins(2));
        return wait(matches, settings, ui, timeout);
    }
    let workplace = Workplace::open_for_server(settings, ui)?;
    let tools = workplace.tools();
    if is_dry_run {
        return show_plan(&tools, ui);
    }
    let ensured = ensure::ensure_running(&tools, "init-postgresql")?;
    tell(&ensured, ui);
    if is_given(matches, "sync-password") {
        sync_passwords(&tools, &ensured.address)?;
        ui.info("set the passwords of the roles to those of the settings");
    }
    report(matches, &tools, &ensured, ui)?;
    if ensured.outcome.is_some() && !is_given(matches, "no-backup") {
        back_up_after_start(&tools, &ensured.address, ui);
    }
    Ok(0)
}

/// As root: entries of a cluster that belong to somebody else, which only root can give to the server's user.
///
/// The directory is inspected first, so that nothing is given away that is not PostgreSQL's.
fn give_cluster_to_its_user(settings: &Settings, ui: &Ui, is_dry_run: bool) -> anyhow::Result<()> {
    if !effective_identity().is_root() || is_dry_run {
        return Ok(());
    }
    let Ok(owner) = find_user("postgres") else { return Ok(()) };
    let path = &settings.data_directory;
    let expectations =
        Expectations { server_uid: owner.uid, depth: Depth::Owners, ..Expectations::default() };
    let Ok(diagnosis) = inspect(path, &expectations) else { return Ok(()) };
    let has_wrong_owner =
        diagnosis.findings.iter().any(|finding| matches!(finding.remedy, Remedy::SetOwner(_)));
    if !has_wrong_owner || diagnosis.presence != Presence::Free || settings.recovery == RecoveryPolicy::Never
    {
        return Ok(());
    }
    let ownership = Ownership::of(path, &owner);
    let report = give_cluster(path, &owner, &ownership)
        .with_context(|| format!("give '{}' to {owner}", path.display()))?;
    if report.changed_count > 0 {
        ui.warn(&format!(
            "gave {} of the files and directories in '{}' to user {owner}",
            format::count(report.changed_count),
            path.display()
        ));
    }
    report_refused(&report, &owner, ui);
    Ok(())
}

/// Gives what the server must own, where it is root's or belongs to whoever has the data directory, as the server's user
/// of another image.
fn give_cluster(path: &Path, owner: &Identity, ownership: &Ownership) -> io::Result<OwnershipReport> {
    let held = HeldDirectory::open(path)?;
    let facts = held.facts()?;
    let giving = Giving { owner, former: Some(facts.uid) };
    let mut report = held.give_below(giving, &|entry, facts| ownership.must_be_given(entry, facts))?;
    if ownership.must_be_given("", &facts) {
        held.give(owner)?;
        report.changed_count += 1;
    }
    Ok(report)
}

pub(super) fn show_plan(tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let diagnosis = decide::diagnose(tools)?;
    if let Presence::Running { pid } = diagnosis.presence {
        ui.info(&format!("a server (process {pid}) is running already; there is nothing to do"));
        return Ok(0);
    }
    for finding in diagnosis.findings.iter().filter(|finding| finding.severity != Severity::Notice) {
        ui.info(&format!("found: {}", finding.summary()));
    }
    let plan = decide::decide(tools, &diagnosis)?.map_err(Failure::from)?;
    ui.plan(&plan)?;
    Ok(0)
}

/// Tells what was done. What was found and planned was told before.
pub(super) fn tell(ensured: &Ensured, ui: &Ui) {
    let Some(outcome) = &ensured.outcome else {
        // What was done by somebody who was killed before they could say it.
        ensured.remarks.iter().for_each(|remark| ui.info(remark));
        return ui.info(&format!("PostgreSQL is running already (process {})", ensured.pid));
    };
    outcome.done.iter().for_each(|done| ui.info(done));
}

fn report(matches: &ArgMatches, tools: &Tools, ensured: &Ensured, ui: &Ui) -> anyhow::Result<()> {
    let settings = tools.settings;
    let shows_password = is_given(matches, "show-password") && ui.is_interactive();
    let password = shows_password.then(|| settings.application_password.reveal());
    let report = Report {
        version: tools.installation.version.to_string(),
        data_directory: &settings.data_directory,
        port: ensured.address.port,
        user: &settings.application_role,
        database: &settings.database,
        url: connection_url(settings, ensured.address.port, password),
        was_running: ensured.outcome.is_none(),
        done: ensured.outcome.as_ref().map_or(&[], |outcome| &outcome.done),
        remarks: &ensured.remarks,
    };
    if ui.is_json() {
        return ui.json(&report);
    }
    ui.lines(&[
        format!("PostgreSQL {} is ready for connections", report.version),
        format!("  data directory  {}", report.data_directory.display()),
        format!("  port            {}", report.port),
        format!("  user            {}", report.user),
        format!("  database        {}", report.database),
        format!("  url             {}", report.url),
    ])
}

fn connection_url(settings: &Settings, port: u16, password: Option<&str>) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let secret = password.map(|password| format!(":{}", encode(password))).unwrap_or_default();
    let (user, database) = (encode(&settings.application_role), encode(&settings.database));
    format!("postgresql://{user}{secret}@localhost:{port}/{database}")
}

/// Sets the passwords of the environment again: they are read once, when a cluster is made, which surprises
/// everybody who changes one later.
fn sync_passwords(tools: &Tools, address: &ServerAddress) -> anyhow::Result<()> {
    let settings = tools.settings;
    let application = Role {
        name: &settings.application_role,
        password: settings.application_password_to_set()?.map(Secret::reveal),
    };
    let mut client = address.connect(&superuser_login(tools))?;
    // Without a password in the settings it keeps what it has.
    if let Some(password) = &settings.superuser_password {
        ensure_role(&mut client, &Role { name: &settings.superuser, password: Some(password.reveal()) })?;
    }
    if application.name != settings.superuser {
        ensure_role(&mut client, &application)?;
    }
    Ok(())
}

/// Waits for a server that somebody else starts.
fn wait(matches: &ArgMatches, settings: &Settings, ui: &Ui, timeout: Duration) -> anyhow::Result<u8> {
    let workplace = Workplace::open_for_server(settings, ui)?;
    let tools = workplace.tools();
    let deadline = Instant::now() + timeout;
    loop {
        let presence = decide::diagnose(&tools).map(|diagnosis| diagnosis.presence);
        if let Ok(Presence::Running { pid }) = presence
            && let Ok(Some(ensured)) = ensure::wait_for_running(&tools, pid)
        {
            report(matches, &tools, &ensured, ui)?;
            return Ok(0);
        }
        if Instant::now() >= deadline {
            let message = format!("no server was ready within {}", format::duration(timeout));
            let hint = "`maintenance health` and the log of the container tell why";
            return Err(Failure::new(Kind::Failed, message).hint(hint).into());
        }
        // The directory may not exist yet, so there is nothing to watch.
        std::thread::sleep(Duration::from_millis(200));
    }
}
