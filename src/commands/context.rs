//! What every command on a cluster begins with: the programs to use, and the repository.

use pgbox::cluster::binaries::{self, Installation};
use pgbox::error::Failure;
use pgbox::execute::{Backups, Tools, open_for_server};
use pgbox::pg::{MajorVersion, version};
use pgbox::progress::Progress;
use pgbox::repository::Repository;
use pgbox::settings::Settings;
use pgbox::sys::ReadRoot;
use pgbox::ui::Ui;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// How long a command may take that only looks at what is there.
const LOOK_LIMIT: Duration = Duration::from_mins(2);

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
        let installation = installation(settings)?;
        let repository = open_for_server(settings);
        Ok(Self { settings, installation, repository, progress: Box::new(ui.progress()) })
    }

    /// The same for a command that can do without the repository, and reports why it has to.
    pub(super) fn open_for_server(settings: &'a Settings, ui: &Ui) -> anyhow::Result<Self> {
        let workplace = Self::open(settings, ui)?;
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

/// The end of a command that only looks and gets no answer, such as from a mount whose server is gone. Dropped, it no
/// longer comes.
pub(super) struct Alarm {
    _is_over: Sender<()>,
}

impl Alarm {
    /// Sets it.
    pub(super) fn set(settings: &Settings, ui: &Ui) -> Self {
        let (is_over, waiting) = mpsc::channel();
        let (ui, places) =
            (ui.clone(), [&settings.data_directory, &settings.backup_directory].map(Clone::clone));
        let ring = move || {
            if waiting.recv_timeout(LOOK_LIMIT) == Err(RecvTimeoutError::Timeout) {
                let [data, backups] = places.map(|place| place.display().to_string());
                let text = format!("there was no answer within {} s", LOOK_LIMIT.as_secs());
                ui.error(&text);
                ui.hint(&format!(
                    "see whether the disks of '{data}' and '{backups}' are there; nothing was changed"
                ));
                std::process::exit(1);
            }
        };
        // Without a thread for it, there is no limit, and that is all.
        let _ = std::thread::Builder::new().name("alarm".to_owned()).spawn(ring);
        Self { _is_over: is_over }
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
