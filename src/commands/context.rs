//! What every command on a cluster begins with: the programs to use, and the repository.

use pgbox::cluster::binaries::{self, Installation};
use pgbox::error::Failure;
use pgbox::execute::{Backups, Tools, open_for_server, unusable};
use pgbox::pg::{MajorVersion, version};
use pgbox::progress::Progress;
use pgbox::repository::Repository;
use pgbox::settings::Settings;
use pgbox::sys::ReadRoot;
use pgbox::ui::Ui;

/// The parts that a command works with, kept together for as long as it runs.
pub(super) struct Workplace<'a> {
    settings: &'a Settings,
    installation: Installation,
    repository: Result<Option<Repository>, Failure>,
    progress: Box<dyn Progress>,
}

impl<'a> Workplace<'a> {
    /// Finds the programs and opens the repository, if there is one. That it could not be opened is an error only where
    /// it is asked for.
    ///
    /// # Errors
    /// [`pgbox::error::Kind::ProgramMissing`] when no PostgreSQL is installed.
    pub(super) fn open(settings: &'a Settings, ui: &Ui) -> anyhow::Result<Self> {
        Self::with(settings, ui, open_repository)
    }

    fn with(
        settings: &'a Settings,
        ui: &Ui,
        open: impl FnOnce(&Settings) -> Result<Option<Repository>, Failure>,
    ) -> anyhow::Result<Self> {
        let installation = installation(settings)?;
        let repository = open(settings);
        Ok(Self { settings, installation, repository, progress: Box::new(ui.progress()) })
    }

    /// The same for a command that can do without the repository, and tells why it has to. It is not waited for without
    /// end.
    pub(super) fn open_for_server(settings: &'a Settings, ui: &Ui) -> anyhow::Result<Self> {
        let workplace = Self::with(settings, ui, open_for_server)?;
        if let Err(failure) = &workplace.repository {
            ui.warn(&failure.to_string());
        }
        Ok(workplace)
    }

    /// What the library needs of it.
    pub(super) fn tools(&self) -> Tools<'_> {
        Tools {
            settings: self.settings,
            installation: &self.installation,
            backups: match &self.repository {
                Ok(None) => Backups::None,
                Ok(Some(repository)) => Backups::Open(repository),
                Err(failure) => Backups::Unusable(failure),
            },
            progress: &*self.progress,
        }
    }
}

/// The programs of the version that was asked for; else of the version that made the cluster, if they are
/// here; else the newest.
fn installation(settings: &Settings) -> Result<Installation, Failure> {
    let wanted = settings.postgres_version.map(MajorVersion);
    let of_cluster = || {
        let root = ReadRoot::open(&settings.data_directory).ok()?;
        version::parse(&root.read_text("PG_VERSION", 64).ok()??).ok()
    };
    match (wanted, of_cluster()) {
        (Some(wanted), _) => binaries::find(Some(wanted)),
        (None, Some(major)) => binaries::find(Some(major)).or_else(|_| binaries::find(None)),
        (None, None) => binaries::find(None),
    }
}

/// A backup directory that cannot be opened does not keep a sound server from starting.
fn open_repository(settings: &Settings) -> Result<Option<Repository>, Failure> {
    let path = &settings.backup_directory;
    Repository::open(path, settings.backup_key_file.as_deref()).map_err(|error| unusable(path, &error))
}
