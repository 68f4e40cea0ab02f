//! Carries out what the supervisor decides: signals in, children reaped, children started.
//!
//! One thread does nothing but turn signals into messages; all else happens in one loop. No other code of this
//! process may start or wait for a child, because every child that ends is reaped here.

use super::directory::{self, POSTGRESQL, Service, Services};
use super::events::{Action, Child, Configuration, Event, Level, Order, Seen, StartFailure, View};
use super::supervisor::Supervisor;
use crate::cluster::wal_gap;
use crate::pg::postmaster_pid::PostmasterPid;
use crate::settings::Settings;
use crate::sys::{self, Lookout, OperationLock, ReadRoot, Signal, Supervised};
use anyhow::Context;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long nothing may happen before the loop turns, where nothing is due.
const IDLE: Duration = Duration::from_hours(1);
/// The name of the server's program.
const SERVER: &str = "postgres";
/// How long a look into the data directory may take before this process goes on without an answer.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Where a server notes its process, and how it stands.
const PID_FILE: &str = "postmaster.pid";
/// It is a few lines; more is not read.
const PID_FILE_LIMIT_BYTES: u64 = 4096;

/// What the supervisor was started with.
pub struct Options<'a> {
    /// Settings that were given as flags, for children that are pgbox too.
    pub flags: Vec<OsString>,
    /// The command and its arguments; empty is none.
    pub command: Vec<OsString>,
    /// Tells a person.
    pub say: &'a dyn Fn(Level, &str),
}

/// Runs until told to stop, or the command ends. Returns the exit status.
pub fn run(settings: &Settings, options: &Options<'_>) -> anyhow::Result<u8> {
    // Before the first child, so that neither its end nor a stop is missed.
    let signals = watch_signals()?;
    if !sys::is_first_process() {
        sys::become_subreaper().context("become the parent of orphans")?;
    }
    let services = tell_services(settings, options);
    let configuration = Configuration {
        has_server: !directory::is_disabled(settings, POSTGRESQL),
        services: services.iter().map(|service| service.name.clone()).collect(),
        has_command: !options.command.is_empty(),
        stop_timeout: settings.stop_timeout,
        backup_interval: settings.backup_interval,
        scrub_interval: settings.scrub_interval,
    };
    let mut supervisor = Supervisor::new(configuration, Instant::now());
    let mut runner = Runner {
        settings,
        options,
        services,
        children: HashMap::new(),
        events: VecDeque::new(),
        lookout: Lookout::default(),
        is_unanswered: false,
    };
    runner.events.push_back(Event::Begin);
    loop {
        if let Some(status) = runner.settle(&mut supervisor) {
            return Ok(status);
        }
        let until = supervisor.deadline();
        let timeout = until.map_or(IDLE, |until| until.saturating_duration_since(Instant::now()));
        match signals.recv_timeout(timeout) {
            Ok(signal) => runner.signalled(signal),
            Err(RecvTimeoutError::Timeout) => runner.events.push_back(Event::Tick),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the thread that waits for signals ended"),
        }
    }
}

fn watch_signals() -> anyhow::Result<Receiver<i32>> {
    let watched = [SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(watched).context("watch signals")?;
    let (sender, receiver) = mpsc::channel();
    let forward = move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(forward).context("start a thread")?;
    Ok(receiver)
}

/// Lists the services, and tells of those that are not started.
fn tell_services(settings: &Settings, options: &Options<'_>) -> Vec<Service> {
    if directory::is_disabled(settings, POSTGRESQL) {
        (options.say)(Level::Info, "left PostgreSQL out: DISABLED_SERVICES names it");
    }
    let services = directory::list_services(settings).unwrap_or_else(|error| {
        let shown = settings.services_directory.display();
        (options.say)(Level::Error, &format!("could not list the services in '{shown}': {error}"));
        Services::default()
    });
    for name in &services.disabled {
        (options.say)(Level::Info, &format!("left the service '{name}' out: DISABLED_SERVICES names it"));
    }
    for program in &services.not_executable {
        (options.say)(Level::Warning, &format!("left '{}' out: it is not executable", program.display()));
    }
    for writer in &services.not_ours {
        (options.say)(Level::Error, &format!("started nothing of what others could have written: {writer}"));
        let path = writer.path.display();
        let hint = format!(
            "give it to root, and let nobody else write to it: `chown root:root {path} && chmod go-w {path}`, once you have \
             seen what is in it"
        );
        (options.say)(Level::Hint, &hint);
    }
    services.enabled
}

struct Runner<'a> {
    settings: &'a Settings,
    options: &'a Options<'a>,
    services: Vec<Service>,
    children: HashMap<i32, Child>,
    events: VecDeque<Event>,
    /// The data directory is another user's, and may be on a mount that hangs: this process never waits for it.
    lookout: Lookout,
    /// Whether the last look into it had no answer.
    is_unanswered: bool,
}

impl Runner<'_> {
    /// Deals with all that has happened, and with what comes of it. Returns the exit status at the end.
    fn settle(&mut self, supervisor: &mut Supervisor) -> Option<u8> {
        while let Some(event) = self.events.pop_front() {
            for action in supervisor.next(event, Instant::now()) {
                if let Action::Exit(status) = action {
                    return Some(status);
                }
                self.carry_out(action);
            }
        }
        None
    }

    fn signalled(&mut self, signal: i32) {
        let order = match signal {
            SIGCHLD => return self.reap(),
            SIGTERM => Order::Stop(Signal::TERM),
            SIGINT => Order::Stop(Signal::INT),
            SIGQUIT => Order::Stop(Signal::QUIT),
            SIGHUP => Order::Reload,
            SIGUSR1 => Order::Retry,
            _ => Order::Forward(Signal::USR2),
        };
        self.events.push_back(Event::Ordered(order));
    }

    /// Reaps all children that have ended; orphans that we adopted are nobody's news.
    fn reap(&mut self) {
        loop {
            match sys::reap_one() {
                Ok(Some((pid, how))) => {
                    if let Some(child) = self.children.remove(&pid) {
                        self.events.push_back(Event::Ended(child, how));
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    (self.options.say)(Level::Error, &format!("could not wait for a child: {error}"));
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        let data_directory = &self.settings.data_directory;
        match action {
            Action::ClearStopped => {
                let directory = data_directory.clone();
                let cleared = self.lookout.within(LOOK_LIMIT, move || sys::clear_stop_marker(&directory));
                if let Err(error) = cleared.unwrap_or_else(|error| Err(error.into())) {
                    let text =
                        format!("could not take back that PostgreSQL was stopped by a person: {error}");
                    (self.options.say)(Level::Warning, &text);
                }
            }
            Action::Start(child) => self.start(child),
            Action::Signal(child, signal) => self.signal(child, signal),
            Action::StopLeftBehind => self.signal_servers(left_behind(data_directory), Signal::INT),
            Action::SignalServer(signal) => {
                let left_behind = left_behind(data_directory);
                let server = self.sight().map_or_else(child_server, |sight| sight.pid);
                // A server that is told to stop notes that in its pid file (postmaster.c, `pmdie()`), and would wait for
                // the other end of a FIFO. What else is there stays, and that it could not be looked at is said already.
                let directory = data_directory.clone();
                let remove = move || sys::remove_what_is_no_file(&directory, PID_FILE);
                let _ = self.lookout.within(LOOK_LIMIT, remove);
                self.signal_servers(server.into_iter().chain(left_behind), signal);
                self.continue_stopped();
            }
            Action::KillServer => self.kill_server(),
            Action::Look => self.look(),
            Action::Say(level, text) => (self.options.say)(level, &text),
            Action::Exit(_) => {}
        }
    }

    fn start(&mut self, child: Child) {
        let Some(spec) = self.spec(child) else { return };
        match sys::spawn_supervised(&spec) {
            Ok(pid) => {
                self.children.insert(pid, child);
            }
            Err(error) => {
                let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                let reason = format!("'{}': {error}", spec.program.display());
                self.events.push_back(Event::NotStarted(child, StartFailure { reason, status }));
            }
        }
    }

    fn spec(&self, child: Child) -> Option<Supervised> {
        let spec = |program: PathBuf, name: OsString, arguments: Vec<OsString>| Supervised {
            program,
            name,
            arguments,
            keeps_terminal: child == Child::Command,
            environment: Vec::new(),
        };
        let myself = |name: &str, argument: &str| {
            let arguments = self.options.flags.iter().cloned().chain([argument.into()]);
            spec(sys::MYSELF.into(), name.into(), arguments.collect())
        };
        match child {
            Child::Init => Some(myself("init-postgresql", "--no-backup")),
            Child::Backup => Some(myself("backup-postgresql", "create")),
            Child::Scrub => Some(myself("backup-postgresql", "scrub")),
            Child::Seal => Some(myself("maintenance", "seal")),
            Child::Service(index) => {
                let program = &self.services.get(index)?.program;
                Some(spec(program.clone(), program.clone().into(), Vec::new()))
            }
            Child::Command => {
                let (program, arguments) = self.options.command.split_first()?;
                Some(spec(program.into(), program.clone(), arguments.to_vec()))
            }
            Child::Server => None,
        }
    }

    fn signal(&self, child: Child, signal: Signal) {
        for (pid, _) in self.children.iter().filter(|(_, found)| **found == child) {
            let sent = match child {
                // It shares our process group, so that a terminal reaches it.
                Child::Command | Child::Server => sys::signal_server(*pid, signal),
                _ => sys::signal_group(*pid, signal),
            };
            if let Err(error) = sent {
                (self.options.say)(
                    Level::Warning,
                    &format!("could not send a signal to process {pid}: {error}"),
                );
            }
        }
    }

    fn signal_servers(&self, servers: impl IntoIterator<Item = i32>, signal: Signal) {
        for pid in servers {
            if let Err(error) = sys::signal_server(pid, signal) {
                let text = format!("could not send a signal to PostgreSQL (process {pid}): {error}");
                (self.options.say)(Level::Error, &text);
            }
        }
    }

    /// Lets processes of the server go on that were stopped, so that they hear of the shutdown.
    fn continue_stopped(&self) {
        let directory = self.settings.data_directory.clone();
        let continued = self.lookout.within(LOOK_LIMIT, move || sys::continue_stopped_processes(&directory));
        // Where they may not be looked at, the shutdown goes on without it.
        for name in continued.ok().and_then(Result::ok).unwrap_or_default() {
            let text = format!("{name} of PostgreSQL was stopped by a signal; continued it (SIGCONT)");
            (self.options.say)(Level::Warning, &text);
        }
    }

    fn kill_server(&self) {
        let directory = self.settings.data_directory.clone();
        let kill = move || {
            let left = sys::held_server_processes(&directory)?;
            left.iter().try_for_each(|process| process.signal(Signal::KILL))
        };
        let killed = self.lookout.within(LOOK_LIMIT, kill);
        if let Err(error) = killed.map_err(io::Error::from).and_then(|killed| killed) {
            (self.options.say)(Level::Error, &format!("could not kill what is left of PostgreSQL: {error}"));
        }
    }

    fn look(&mut self) {
        let sight = self.sight();
        let pid = sight.map_or_else(child_server, |sight| sight.pid);
        self.children.retain(|_, child| *child != Child::Server);
        if let Some(pid) = pid {
            // It becomes our child when whoever started it has ended; if it is not, its end is not told to us.
            self.children.insert(pid, Child::Server);
        }
        self.events.push_back(Event::Looked(View {
            server: match pid {
                Some(_) => Seen::Alive,
                None if left_behind(&self.settings.data_directory).is_empty() => Seen::Gone,
                None => Seen::LeftBehind,
            },
            is_stopped: sight.is_some_and(|sight| sight.is_stopped),
            // While nothing can be seen, nothing is begun.
            is_operated: sight.is_none_or(|sight| sight.is_operated),
            has_wal_gap: sight.is_some_and(|sight| sight.has_wal_gap),
        }));
    }

    /// Looks into the data directory; `None` where it does not answer, which is said once.
    fn sight(&mut self) -> Option<Sight> {
        let directory = self.settings.data_directory.clone();
        let sight = self.lookout.within(LOOK_LIMIT, move || Sight::of(&directory)).ok();
        let was_unanswered = std::mem::replace(&mut self.is_unanswered, sight.is_none());
        if sight.is_none() && !was_unanswered {
            let shown = self.settings.data_directory.display();
            let text = format!(
                "'{shown}' does not answer, so that nothing can be done about PostgreSQL until it does"
            );
            (self.options.say)(Level::Warning, &text);
        }
        sight
    }
}

/// What is seen in the data directory.
#[derive(Clone, Copy)]
struct Sight {
    pid: Option<i32>,
    is_stopped: bool,
    is_operated: bool,
    has_wal_gap: bool,
}

impl Sight {
    fn of(data_directory: &Path) -> Self {
        Self {
            pid: server_pid(data_directory),
            is_stopped: sys::has_stop_marker(data_directory),
            // What cannot be looked at yet, such as a directory that is not there, nobody works on.
            is_operated: OperationLock::is_held(data_directory).unwrap_or(false),
            has_wal_gap: matches!(wal_gap::read(data_directory), Ok(Some(_))),
        }
    }
}

/// The server as far as it can be seen without a look into its directory: our child of that name.
fn child_server() -> Option<i32> {
    sys::children_named(SERVER).first().copied()
}

/// The live server of a data directory.
fn server_pid(data_directory: &Path) -> Option<i32> {
    let text =
        ReadRoot::open(data_directory).and_then(|root| root.read_bounded(PID_FILE, PID_FILE_LIMIT_BYTES));
    match text {
        Ok(bytes) => {
            let found = PostmasterPid::parse(&String::from_utf8_lossy(&bytes)).ok()?;
            let PostmasterPid { pid, is_single_user, .. } = found;
            (!is_single_user && sys::is_postmaster_of(pid, data_directory)).then_some(pid)
        }
        // Root without the right to look (root squash), or what is no file: our child of that name is the one.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) =>
        {
            child_server()
        }
        // Somebody removed the pid file of a live server, or we a FIFO in its place.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            sys::children_named(SERVER).into_iter().find(|pid| sys::has_argument(*pid, data_directory))
        }
        Err(_) => None,
    }
}

/// Servers of a cluster in staging that became our children because whoever started them was killed. As long as
/// that command lives, they are its children and not ours.
fn left_behind(data_directory: &Path) -> Vec<i32> {
    let staging = data_directory.join(sys::OWN_DIRECTORY);
    let servers = sys::children_named(SERVER).into_iter();
    servers.filter(|pid| sys::has_argument_below(*pid, &staging)).collect()
}
