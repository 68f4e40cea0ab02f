//! `backup-postgresql export`: a backup as one archive that `tar` and PostgreSQL alone can restore.

use super::arguments::is_given;
use super::context::Workplace;
use super::finding::{Wanted, backup_named, find};
use super::halves::{RootHalf, ServerHalf};
use super::privileges::{Directories, drop_privileges};
use anyhow::Context;
use clap::ArgMatches;
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::execute::export::{
    self, BundleFormat, ExportOptions, Exported, default_file_name, ensure_enough_space, ensure_exportable,
};
use pgbox::format;
use pgbox::plan::{BackupKind, BackupSummary};
use pgbox::repository::Repository;
use pgbox::settings::Settings;
use pgbox::sys::{self, Ended, Existing, Message, OutputFile, disk_space, standard_output};
use pgbox::ui::Ui;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The name of the standard output or input.
pub(super) const STANDARD_STREAM: &str = "-";

/// What was asked for.
struct Request {
    backup: Wanted,
    file: Option<PathBuf>,
    format: Option<BundleFormat>,
    existing: Existing,
}

impl Request {
    fn read(arguments: &ArgMatches, ui: &Ui) -> Result<Self, Failure> {
        let backup = backup_named(arguments)?.unwrap_or(Wanted::Latest);
        let file = arguments.get_one::<PathBuf>("file").cloned();
        if file.as_deref() == Some(Path::new(STANDARD_STREAM)) && ui.is_json() {
            let message = "cannot write both the bundle and JSON to standard output";
            return Err(Failure::new(Kind::Usage, message).hint("name a file, or leave out --json"));
        }
        let format = arguments.get_one::<BundleFormat>("format").copied();
        let existing = if is_given(arguments, "force") { Existing::Replace } else { Existing::Keep };
        Ok(Self { backup, file, format, existing })
    }

    fn is_stream(&self) -> bool {
        self.file.as_deref() == Some(Path::new(STANDARD_STREAM))
    }

    /// Where the bundle goes, and how it is compressed.
    fn target(&self, backup: &BackupSummary) -> Result<(PathBuf, BundleFormat), Failure> {
        let file = match &self.file {
            Some(file) if !file.is_dir() => file.clone(),
            directory => {
                let format = self.format.unwrap_or(BundleFormat::Gzip);
                directory.clone().unwrap_or_default().join(default_file_name(backup, format))
            }
        };
        if let Some(format) = self.format.or_else(|| BundleFormat::of_path(&file)) {
            return Ok((file, format));
        }
        let message = format!(
            "cannot tell how to compress '{}': its name does not end as one of an archive",
            file.display()
        );
        Err(Failure::new(Kind::Usage, message)
            .hint("give it a name that ends with .tar.gz, .tar.zst or .tar, or say --format"))
    }
}

/// The value of `--format`.
pub(super) fn parse_format(text: &str) -> Result<BundleFormat, String> {
    match text {
        "tar" => Ok(BundleFormat::Plain),
        "tar.gz" | "gz" => Ok(BundleFormat::Gzip),
        "tar.zst" | "zst" => Ok(BundleFormat::Zstd),
        _ => Err("expected tar.gz, tar.zst or tar".to_owned()),
    }
}

/// Runs it. As root, the backup is read as `postgres`, and the file is written as root: it belongs to whoever asked,
/// wherever that may be.
pub(super) fn export(arguments: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    let request = Request::read(arguments, ui)?;
    if !request.is_stream() && sys::effective_identity().is_root() {
        return Ok(sys::end_like(export_as_root(arguments, &request, settings, ui)?));
    }
    drop_privileges(settings, ui, Directories::LeaveAlone)?;
    let backup = find_exportable(settings, ui, request.backup)?;
    tell_flaws(&backup, settings, ui);
    let interruption = Interruption::watch()?;
    let scene = Scene { settings, ui, interruption: &interruption };
    let done = if request.is_stream() {
        export_to_stream(&request, &backup, &scene)
    } else {
        export_to_file(arguments, &request, &backup, &scene)
    };
    if done.is_err() {
        interruption.obey();
    }
    done.map(|()| 0)
}

/// Runs it as root: another process finds and reads the backup, and is handed the file.
fn export_as_root(
    arguments: &ArgMatches,
    request: &Request,
    settings: &Settings,
    ui: &Ui,
) -> anyhow::Result<Ended> {
    // A signal goes to the other process, which gives up; the second one ends this process at once.
    let _interruption = Interruption::watch()?;
    let mut half = ServerHalf::start()?;
    let Some(backup) = half.receive::<BackupSummary>()? else { return half.finish() };
    tell_flaws(&backup, settings, ui);
    let Some(target) = Target::prepare(arguments, request, &backup, ui)? else { return half.finish() };
    half.send_file(&target.format, target.output.file())?;
    let Some(done) = half.receive::<Exported>()? else {
        // Before its end is taken for ours, which may be by a signal.
        drop(target);
        return half.finish();
    };
    let ended = half.finish()?;
    if ended == Ended::Status(0) {
        target.publish(request.existing, &done, ui)?;
    }
    Ok(ended)
}

/// The half of it that is not root: finds the backup, and writes it into the file that it is handed.
pub(super) fn serve(
    arguments: &ArgMatches,
    settings: &Settings,
    ui: &Ui,
    root: &mut RootHalf,
) -> anyhow::Result<u8> {
    let request = Request::read(arguments, ui)?;
    let backup = find_exportable(settings, ui, request.backup)?;
    let interruption = Interruption::watch()?;
    root.send(&backup)?;
    let Some(Message { value: format, file }) = root.receive::<BundleFormat>()? else { return Ok(0) };
    let mut file = file.context("take the file to write to")?;
    let done = write(&backup, format, &mut file, &Scene { settings, ui, interruption: &interruption });
    if done.is_err() {
        interruption.obey();
    }
    root.send(&done?)?;
    Ok(0)
}

struct Scene<'a> {
    settings: &'a Settings,
    ui: &'a Ui,
    interruption: &'a Interruption,
}

fn find_exportable(settings: &Settings, ui: &Ui, wanted: Wanted) -> anyhow::Result<BackupSummary> {
    let workplace = Workplace::open(settings, ui)?;
    let tools = workplace.tools();
    let backup = find(&tools, wanted)?;
    let repository = opened(&tools)?;
    ensure_exportable(&backup, repository)?;
    Ok(backup)
}

fn opened<'a>(tools: &'a Tools) -> anyhow::Result<&'a Repository> {
    Ok(tools.repository()?.ok_or_else(|| no_backup(tools))?)
}

fn no_backup(tools: &Tools) -> Failure {
    let place = tools.settings.backup_directory.display();
    Failure::new(Kind::NoSuchBackup, format!("there is no backup in '{place}' to export"))
        .hint("`backup-postgresql create` makes one")
}

/// What whoever gets the bundle should know.
fn tell_flaws(backup: &BackupSummary, settings: &Settings, ui: &Ui) {
    if settings.backup_key_file.is_some() {
        ui.warn("the bundle is not encrypted, as the repository is: whoever has it can read it");
    }
    match backup.name.kind() {
        BackupKind::Damaged => ui.warn(&format!("{} is data that was found damaged", backup.name)),
        BackupKind::Replaced | BackupKind::Backup if backup.damaged_pages.is_empty() => {}
        BackupKind::Replaced | BackupKind::Backup => {
            let damaged = format::counted(backup.damaged_pages.len(), "damaged page");
            ui.warn(&format!("{} has {damaged}, and so has the bundle", backup.name));
        }
    }
}

fn export_to_stream(request: &Request, backup: &BackupSummary, scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut output = standard_output().context("open the standard output")?;
    let format = request.format.unwrap_or(BundleFormat::Gzip);
    let done = write(backup, format, &mut output, scene)?;
    tell(&done, None, scene.ui)
}

fn export_to_file(
    arguments: &ArgMatches,
    request: &Request,
    backup: &BackupSummary,
    scene: &Scene<'_>,
) -> anyhow::Result<()> {
    let Some(target) = Target::prepare(arguments, request, backup, scene.ui)? else { return Ok(()) };
    let done = write(backup, target.format, &mut target.output.file(), scene)?;
    target.publish(request.existing, &done, scene.ui)
}

/// The file that a bundle is written to.
struct Target {
    file: PathBuf,
    format: BundleFormat,
    output: OutputFile,
}

impl Target {
    /// Begins the file. `None`: it was only asked what would be done.
    fn prepare(
        arguments: &ArgMatches,
        request: &Request,
        backup: &BackupSummary,
        ui: &Ui,
    ) -> anyhow::Result<Option<Self>> {
        let (file, format) = request.target(backup)?;
        if request.existing == Existing::Keep && file.symlink_metadata().is_ok() {
            return Err(exists(&file).into());
        }
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let space =
            disk_space(parent).with_context(|| format!("look at the directory '{}'", parent.display()))?;
        ensure_enough_space(backup, format, space)?;
        if is_given(arguments, "dry-run") {
            ui.info(&format!("would export {} as '{}' ({format})", backup.name, file.display()));
            return Ok(None);
        }
        let output = OutputFile::create(&file).with_context(|| format!("write '{}'", file.display()))?;
        Ok(Some(Self { file, format, output }))
    }

    /// Gives the file its name, and reports it.
    fn publish(self, existing: Existing, done: &Exported, ui: &Ui) -> anyhow::Result<()> {
        let Self { file, output, .. } = self;
        output.publish(existing).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&file).into(),
            _ => anyhow::Error::new(error).context(format!("write '{}'", file.display())),
        })?;
        tell(done, Some(&file), ui)
    }
}

fn exists(file: &Path) -> Failure {
    Failure::new(
        Kind::Refused,
        format!("cannot export to '{}': there is such a file already", file.display()),
    )
    .hint("choose another name, or replace it with --force; nothing was written")
}

fn write(
    backup: &BackupSummary,
    format: BundleFormat,
    into: &mut (dyn Write + Send),
    scene: &Scene<'_>,
) -> anyhow::Result<Exported> {
    let workplace = Workplace::open(scene.settings, scene.ui)?;
    let tools = workplace.tools();
    let options = ExportOptions { format, abort: &scene.interruption.is_wanted };
    let exported = export::export(opened(&tools)?, backup.name, into, options, tools.progress);
    exported.with_context(|| format!("export {}", backup.name))
}

/// The checksum goes to standard output as `sha256sum` writes it, so that `sha256sum --check` can read it.
fn tell(done: &Exported, file: Option<&Path>, ui: &Ui) -> anyhow::Result<()> {
    let place = file.map_or_else(|| "the standard output".to_owned(), |file| format!("'{}'", file.display()));
    ui.info(&format!(
        "exported {} ({}, {}) to {place}, {}",
        done.backup,
        format::counted(done.file_count, "file"),
        format::bytes(done.content_bytes),
        format::bytes(done.size_bytes)
    ));
    for tablespace in &done.tablespaces {
        ui.info(&tablespace.to_string());
    }
    for link in &done.links {
        ui.warn(&format!("'{link}' is a symbolic link, and what it points to is not in the bundle"));
    }
    let Some(file) = file else {
        ui.info(&format!("SHA-256 {}", done.sha256));
        return Ok(());
    };
    if ui.is_json() {
        let mut report = serde_json::to_value(done)?;
        if let Some(fields) = report.as_object_mut() {
            fields.insert("file".to_owned(), file.to_string_lossy().into());
        }
        return ui.json(&report);
    }
    ui.data(&format!("{}  {}", done.sha256, file.display()))?;
    ui.hint(&format!(
        "`mkdir d && tar -xf {} -C d && chmod 700 d && pg_ctl -D d start` starts a server on it",
        file.display()
    ));
    Ok(())
}

/// A signal that asks for an end: what was begun is removed first, and then the signal does what it always does.
struct Interruption {
    is_wanted: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interruption {
    fn watch() -> anyhow::Result<Self> {
        let (is_wanted, signal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            // The second one ends the process at once.
            signal_hook::flag::register_conditional_default(number, Arc::clone(&is_wanted))?;
            signal_hook::flag::register(number, Arc::clone(&is_wanted))?;
            let value = usize::try_from(number)?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value)?;
        }
        Ok(Self { is_wanted, signal })
    }

    fn obey(&self) {
        let signal = self.signal.load(Ordering::Relaxed);
        if let Ok(signal @ 1..) = i32::try_from(signal) {
            // If even that fails, the error is reported as any other.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    }
}
