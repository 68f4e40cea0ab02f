//! Programs that are run to their end, through duct.

use super::relay::Relay;
use super::secrets::PASSWORD_VARIABLES;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// A program to run, not yet started.
#[derive(Debug)]
pub struct Tool {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, Option<OsString>)>,
    directory: PathBuf,
    input: Input,
    has_passwords: bool,
}

#[derive(Debug)]
enum Input {
    Null,
    Bytes(Vec<u8>),
    Descriptor(File),
    Copied(PipeReader, Copier),
}

type Copier = JoinHandle<io::Result<()>>;

/// What a program said before it ended with status 0.
#[derive(Debug)]
pub struct ToolOutput {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It is not installed.
    #[error("the program '{}' was not found", .0.display())]
    Missing(PathBuf),
    /// It ended with another status than 0, or by a signal.
    #[error("{} {status}{}", .program.display(), last_lines(.stderr))]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended, in words.
        status: String,
        /// What it wrote to standard output.
        stdout: String,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// It could not be started.
    #[error("could not run {}: {reason}", .program.display())]
    Io {
        /// The program.
        program: PathBuf,
        /// The reason.
        reason: io::Error,
    },
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default();
    if tail.is_empty() { String::new() } else { format!(": {}", tail.join(" / ")) }
}

fn describe(status: std::process::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

impl Tool {
    /// A program by path, with no arguments, no input, and `/` as its working directory: the current one may
    /// be closed to the user that PostgreSQL runs as.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: PathBuf::from("/"),
            input: Input::Null,
            has_passwords: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without_variable(mut self, name: &str) -> Self {
        self.environment.push((name.into(), None));
        self
    }

    /// Leaves it the variables with passwords, which no other program gets from us.
    #[must_use]
    pub fn with_passwords(mut self) -> Self {
        self.has_passwords = true;
        self
    }

    /// Gives it bytes to read.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Gives it an open descriptor as its standard input, and with it any lock that the descriptor carries.
    #[must_use]
    pub fn holding(mut self, descriptor: File) -> Self {
        self.input = Input::Descriptor(descriptor);
        self
    }

    /// Gives it something to read that is copied to it while it runs, however long that is.
    ///
    /// # Errors
    /// When no pipe could be made. What the reader fails with later makes the program see the end of its input
    /// and is returned by [`Tool::run`].
    pub fn input_from(mut self, mut reader: impl Read + Send + 'static) -> io::Result<Self> {
        let (end, mut begin) = io::pipe()?;
        let copier = std::thread::spawn(move || io::copy(&mut reader, &mut begin).map(|_| ()));
        self.input = Input::Copied(end, copier);
        Ok(self)
    }

    /// Starts it and returns its standard output to read from; reading to the end fails if it failed.
    pub fn reader(self) -> io::Result<impl Read + Send + 'static> {
        let expression = self.expression().0;
        match Relay::at_terminal()? {
            // It ends with the program, which nobody waits for here.
            Some((_, writer)) => expression.stderr_file(writer).reader(),
            None => expression.reader(),
        }
    }

    fn expression(self) -> (duct::Expression, Option<Copier>) {
        let mut expression = duct::cmd(self.program.as_os_str(), self.arguments).dir(self.directory);
        for variable in PASSWORD_VARIABLES.iter().filter(|_| !self.has_passwords) {
            expression = expression.env_remove(variable);
        }
        for (name, value) in self.environment {
            expression = match value {
                Some(value) => expression.env(name, value),
                None => expression.env_remove(name),
            };
        }
        match self.input {
            Input::Null => (expression.stdin_null(), None),
            Input::Bytes(bytes) => (expression.stdin_bytes(bytes), None),
            Input::Descriptor(file) => (expression.stdin_file(file), None),
            Input::Copied(end, copier) => (expression.stdin_file(end), Some(copier)),
        }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// [`ProcessError::Failed`] with its last lines when it ends with anything but status 0.
    pub fn run(self) -> Result<ToolOutput, ProcessError> {
        self.finish(|expression| expression.stdout_capture().stderr_capture())
    }

    /// Runs it with its output going where ours goes, all of it to standard error.
    pub fn run_visibly(self) -> Result<(), ProcessError> {
        let started = Relay::at_terminal();
        let Some((relay, writer)) = started.map_err(|reason| start_error(&self.program, reason))? else {
            return self.finish(duct::Expression::stdout_to_stderr).map(|_| ());
        };
        let ran = self.finish(|expression| expression.stdout_to_stderr().stderr_file(writer));
        relay.finish();
        ran.map(|_| ())
    }

    fn finish(
        self,
        route: impl FnOnce(&duct::Expression) -> duct::Expression,
    ) -> Result<ToolOutput, ProcessError> {
        let program = self.program.clone();
        let (expression, copier) = self.expression();
        let output = route(&expression).unchecked().run();
        // The pipe's other end must be closed before its writer can be waited for.
        drop(expression);
        let output = outcome(&program, output)?;
        if let Some(joined) = copier.map(JoinHandle::join) {
            let fed = joined.unwrap_or_else(|_| Err(io::Error::other("the thread that fed it panicked")));
            fed.map_err(|reason| ProcessError::Io { program, reason })?;
        }
        Ok(output)
    }

    /// Starts it, so that other work goes on while it runs. It gets nothing to read.
    pub fn start(self) -> Result<RunningTool, ProcessError> {
        let program = self.program.clone();
        let expression = self.expression().0.stdin_null().stdout_capture().stderr_capture().unchecked();
        let running = expression.start().map_err(|reason| start_error(&program, reason))?;
        Ok(RunningTool { program, running })
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct RunningTool {
    program: PathBuf,
    running: duct::Handle,
}

impl RunningTool {
    /// Waits for its end, and returns what it printed.
    ///
    /// # Errors
    /// As of [`Tool::run`].
    pub fn finish(self) -> Result<ToolOutput, ProcessError> {
        outcome(&self.program, self.running.wait().cloned())
    }
}

fn outcome(program: &Path, output: io::Result<std::process::Output>) -> Result<ToolOutput, ProcessError> {
    let output = output.map_err(|reason| start_error(program, reason))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let (program, status) = (program.to_path_buf(), describe(output.status));
        return Err(ProcessError::Failed { program, status, stdout, stderr });
    }
    Ok(ToolOutput { stdout, stderr })
}

fn start_error(program: &Path, reason: io::Error) -> ProcessError {
    if reason.kind() == io::ErrorKind::NotFound {
        return ProcessError::Missing(program.to_path_buf());
    }
    ProcessError::Io { program: program.to_path_buf(), reason }
}

/// Finds an executable file by name in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| {
        candidate.metadata().is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
    })
}
