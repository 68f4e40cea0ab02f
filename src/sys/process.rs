//! Programs that are run to their end, through duct.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// A program to run, not yet started.
#[derive(Debug)]
pub struct Tool {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, Option<OsString>)>,
    directory: PathBuf,
    input: Input,
}

#[derive(Debug)]
enum Input {
    Null,
    Bytes(Vec<u8>),
    Descriptor(File),
}

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
        /// What it wrote to standard error.
        stderr: String,
    },
    /// It could not be started.
    #[error("could not run {}: {source}", .program.display())]
    Io {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default();
    if tail.is_empty() { String::new() } else { format!(": {}", tail.join("\n")) }
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

    fn expression(self) -> duct::Expression {
        let mut expression = duct::cmd(self.program.as_os_str(), self.arguments).dir(self.directory);
        for (name, value) in self.environment {
            expression = match value {
                Some(value) => expression.env(name, value),
                None => expression.env_remove(name),
            };
        }
        match self.input {
            Input::Null => expression.stdin_null(),
            Input::Bytes(bytes) => expression.stdin_bytes(bytes),
            Input::Descriptor(file) => expression.stdin_file(file),
        }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// [`ProcessError::Failed`] with its last lines when it ends with anything but status 0.
    pub fn run(self) -> Result<ToolOutput, ProcessError> {
        let program = self.program.clone();
        let output = self.expression().stdout_capture().stderr_capture().unchecked().run();
        let output = output.map_err(|source| start_error(&program, source))?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(ProcessError::Failed { program, status: describe(output.status), stderr });
        }
        Ok(ToolOutput { stdout: String::from_utf8_lossy(&output.stdout).into_owned(), stderr })
    }

    /// Runs it with its output going where ours goes, all of it to standard error.
    pub fn run_visibly(self) -> Result<(), ProcessError> {
        let program = self.program.clone();
        let output = self.expression().stdout_to_stderr().unchecked().run();
        let output = output.map_err(|source| start_error(&program, source))?;
        if !output.status.success() {
            return Err(ProcessError::Failed { program, status: describe(output.status), stderr: String::new() });
        }
        Ok(())
    }
}

fn start_error(program: &Path, source: io::Error) -> ProcessError {
    if source.kind() == io::ErrorKind::NotFound {
        return ProcessError::Missing(program.to_path_buf());
    }
    ProcessError::Io { program: program.to_path_buf(), source }
}

/// Finds an executable file by name in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| {
        candidate.metadata().is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
    })
}
