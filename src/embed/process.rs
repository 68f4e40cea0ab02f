//! The work of an embedding program that is root, done by a process of the `pgbox` program that is the server's user.
//!
//! A thread of the program's own that becomes another user was refused: that user's other processes may look into the
//! thread (`ptrace`), and so into the memory of the program, which is root. The program itself cannot be started again to
//! do the work, as pgbox does, since nobody knows what it would do first.

use super::{Options, server_user};
use crate::cluster::session::ServerAddress;
use crate::error::{Failure, Kind, hint_of, kind_of};
use crate::progress::Progress;
use crate::sys::{self, Ended, Link, OwnProcess};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The first argument of that process. It is no command for people.
pub const EMBEDDED_WORK: &str = "run-embedded-work";
/// Both sides have to be of one version: what they say to each other is nobody else's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is to be done.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Work {
    EnsureRunning,
    Stop,
}

/// What was done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// The server that runs now, or the one that was stopped.
    pub(super) server: Option<Served>,
}

/// A server, as it is told to the program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) address: Option<ServerAddress>,
    pub(super) pid: i32,
    pub(super) was_running: bool,
    pub(super) done: Vec<String>,
    pub(super) remarks: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Order {
    version: String,
    base_directory: OsString,
    flags: Vec<(String, OsString)>,
    programs: Option<OsString>,
    work: Work,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Began { stage: String, total_bytes: Option<u64> },
    Advanced(u64),
    Noted(String),
    StageEnded,
    Failed { kind: Kind, message: String, hint: Option<String> },
    Done(Done),
}

impl Options {
    /// Has the work done by another process, as the server's user.
    pub(super) fn work_in_process(&self, work: Work) -> anyhow::Result<Done> {
        let program = self.pgbox.clone().or_else(|| sys::find_program("pgbox")).ok_or_else(|| {
            let message = "cannot run a server for a program that is root: the program 'pgbox', which does that as the \
                           server's user, was not found";
            Failure::new(Kind::ProgramMissing, message).hint(
                "install pgbox in PATH, name it with Options::pgbox, or run this program as another user than root. \
                 Nothing was changed.",
            )
        })?;
        let started = OwnProcess::start_program(&program, &[EMBEDDED_WORK.into()]);
        let (process, mut link) = started.with_context(|| format!("start '{}'", program.display()))?;
        let done = self.ask(&mut link, work);
        drop(link);
        let ended = process.wait().context("wait for pgbox")?;
        done?.ok_or_else(|| no_answer(&program, ended))
    }

    fn ask(&self, link: &mut Link, work: Work) -> anyhow::Result<Option<Done>> {
        let order = Order {
            version: VERSION.to_owned(),
            base_directory: self.base()?.into(),
            flags: self.flags.clone(),
            programs: self.programs.clone().map(PathBuf::into_os_string),
            work,
        };
        link.send(&order).context("reach pgbox")?;
        while let Some(message) = link.receive::<Answer>().context("understand pgbox")? {
            match message.value {
                Answer::Began { stage, total_bytes } => self.progress.begin(&stage, total_bytes),
                Answer::Advanced(bytes) => self.progress.advance(bytes),
                Answer::Noted(text) => self.progress.note(&text),
                Answer::StageEnded => self.progress.end(),
                Answer::Failed { kind, message, hint } => return Err(failure(kind, message, hint).into()),
                Answer::Done(done) => return Ok(Some(done)),
            }
        }
        Ok(None)
    }
}

fn no_answer(program: &Path, ended: Ended) -> anyhow::Error {
    let message = format!("'{}' ended without an answer, with {ended}", program.display());
    Failure::new(Kind::Failed, message).hint(format!("it has to be pgbox {VERSION}")).into()
}

fn failure(kind: Kind, message: String, hint: Option<String>) -> Failure {
    let failure = Failure::new(kind, message);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Does the work that an embedding program asks for, as the process that it started. For pgbox's own binary.
///
/// # Errors
/// When there is no such program, or it cannot be reached; what the work fails with is told to it.
pub fn serve_embedding_program() -> anyhow::Result<()> {
    sys::name_process(OsStr::new("pgbox"));
    sys::end_with_parent().context("end together with the program")?;
    let mut link = Link::from_standard_input().context("take the link to the program")?;
    if sys::has_terminal() {
        sys::begin_session().context("leave the terminal")?;
    }
    let order =
        link.receive::<Order>().context("understand the program")?.context("wait for an order")?.value;
    let link = Arc::new(Mutex::new(link));
    let answer = match carry_out(order, &link) {
        Ok(done) => Answer::Done(done),
        Err(error) => {
            Answer::Failed { kind: kind_of(&error), message: format!("{error:#}"), hint: hint_of(&error) }
        }
    };
    say(&link, &answer).context("answer the program")
}

fn carry_out(order: Order, link: &Arc<Mutex<Link>>) -> anyhow::Result<Done> {
    if order.version != VERSION {
        let message = format!("the program has pgbox {} in it, and this is pgbox {VERSION}", order.version);
        return Err(Failure::new(Kind::Usage, message).hint("use the same version of both").into());
    }
    let options = Options {
        base_directory: order.base_directory.into(),
        flags: order.flags,
        programs: order.programs.map(PathBuf::from),
        pgbox: None,
        progress: Arc::new(Reported(Arc::clone(link))),
    };
    if let Some(user) = server_user(&options.base()?)? {
        user.assume().with_context(|| format!("become the server's user, {user}"))?;
    }
    options.work_here(order.work)
}

fn say(link: &Mutex<Link>, answer: &Answer) -> std::io::Result<()> {
    link.lock().unwrap_or_else(PoisonError::into_inner).send(answer)
}

/// Reports to the program how the work goes on. That it does not listen any more is no error here.
struct Reported(Arc<Mutex<Link>>);

impl Progress for Reported {
    fn begin(&self, stage: &str, total_bytes: Option<u64>) {
        let _ = say(&self.0, &Answer::Began { stage: stage.to_owned(), total_bytes });
    }

    fn advance(&self, bytes: u64) {
        let _ = say(&self.0, &Answer::Advanced(bytes));
    }

    fn note(&self, text: &str) {
        let _ = say(&self.0, &Answer::Noted(text.to_owned()));
    }

    fn end(&self) {
        let _ = say(&self.0, &Answer::StageEnded);
    }
}
