//! What kinds of failure there are, which exit status each has, and what a person can do about it.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// The kinds of failure that callers tell apart, each with its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The attempt failed, or a health check found an issue.
    Failed,
    /// A server that was started did not come up, or did not serve.
    ServerFailed,
    /// The command line or a setting makes no sense.
    Usage,
    /// There is no backup of that name.
    NoSuchBackup,
    /// Something that was verified is damaged.
    VerificationFailed,
    /// It is locked, or a server is using it.
    Busy,
    /// It needs a person's word, or pgbox does not do it at all. Nothing was changed.
    Refused,
    /// A PostgreSQL program is not installed.
    ProgramMissing,
}

impl Kind {
    /// The exit status of a command that ends with this failure.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Failed | Self::ServerFailed => 1,
            Self::Usage => 2,
            Self::NoSuchBackup => 3,
            Self::VerificationFailed => 4,
            Self::Busy => 5,
            Self::Refused => 6,
            Self::ProgramMissing => 127,
        }
    }
}

/// A failure as a person reads it: what failed and why, and what to do.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure of a kind, with its message: `could not …` for an attempt that failed, `cannot …` for what
    /// is not allowed.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Vec::new(), hint: None }
    }

    /// Adds lines that belong to the message and do not fit into it, such as the last ones of a log. A message is one
    /// line: a line feed in it is one of a name, and is printed as `\n`.
    #[must_use]
    pub fn details(mut self, lines: Vec<String>) -> Self {
        self.details = lines;
        self
    }

    /// Adds what the person can do, and what was not changed.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The kind of an error, by the first cause in its chain that has one.
pub fn kind_of(error: &anyhow::Error) -> Kind {
    error.chain().find_map(known_kind).unwrap_or(Kind::Failed)
}

/// The lines that belong to its message, of the first cause in its chain that has any.
pub fn details_of(error: &anyhow::Error) -> &[String] {
    let failures = error.chain().filter_map(|cause| cause.downcast_ref::<Failure>());
    failures.map(|failure| failure.details.as_slice()).find(|details| !details.is_empty()).unwrap_or_default()
}

/// What the person can do about it, by the first cause in its chain that says so, or by what kind of fault it is.
pub fn hint_of(error: &anyhow::Error) -> Option<String> {
    hint_in(error.chain())
}

/// The same, of an error that nobody has put in other words yet.
pub(crate) fn hint_of_cause(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    hint_in(std::iter::successors(Some(error), |error| error.source()))
}

fn hint_in<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)> + Clone) -> Option<String> {
    use crate::repository::RepositoryError;
    let of_cause = |cause: &(dyn std::error::Error + 'static)| {
        let of_failure = cause.downcast_ref::<Failure>().and_then(|failure| failure.hint.clone());
        let of_repository = || cause.downcast_ref::<RepositoryError>()?.hint().map(str::to_owned);
        of_failure.or_else(of_repository)
    };
    chain.clone().find_map(of_cause).or_else(|| chain.into_iter().find_map(hint_of_fault).map(str::to_owned))
}

/// What helps against a fault of the world around, wherever it shows.
fn hint_of_fault(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let error = cause.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space on its disk and run the command again; no data was lost")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some(
            "its file system is mounted read-only: see in the kernel's log (dmesg) whether its disk failed",
        ),
        _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
            Some("its disk failed, or was unplugged: see in the kernel's log (dmesg)")
        }
        _ if is_out_of_reach(error) => Some(
            "its file system is gone, as when a disk is unplugged or a network mount dies: mount it again, and run the \
             command again; what was on it is as it was",
        ),
        _ => None,
    }
}

/// Whether a file system does not answer any more, or only with errors: an unplugged disk, a dead network mount, a FUSE
/// process that ended. That says nothing about what is on it, and may pass.
pub fn is_out_of_reach(error: &io::Error) -> bool {
    const ERRORS: [Errno; 9] = [
        Errno::IO,
        Errno::NOTCONN,
        Errno::STALE,
        Errno::NODEV,
        Errno::NXIO,
        Errno::SHUTDOWN,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::TIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|number| ERRORS.contains(&Errno::from_raw_os_error(number)))
}

fn known_kind(cause: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    use crate::repository::RepositoryError;
    use crate::sys::{ClaimError, LockError, ProcessError};
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.kind);
    }
    if let Some(error) = cause.downcast_ref::<ProcessError>() {
        return matches!(error, ProcessError::Missing(_)).then_some(Kind::ProgramMissing);
    }
    if let Some(error) = cause.downcast_ref::<RepositoryError>() {
        return match error {
            RepositoryError::NoSuchBackup { .. } => Some(Kind::NoSuchBackup),
            RepositoryError::Damaged { .. } => Some(Kind::VerificationFailed),
            RepositoryError::Locked(_) => Some(Kind::Busy),
            RepositoryError::NoKey { .. }
            | RepositoryError::WrongKey { .. }
            | RepositoryError::NotEncrypted { .. } => Some(Kind::Refused),
            RepositoryError::UnreadableKeyFile { .. } | RepositoryError::NoKeyInFile { .. } => {
                Some(Kind::Usage)
            }
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<ClaimError>() {
        return matches!(error, ClaimError::Locked(_) | ClaimError::ServerAlive(_)).then_some(Kind::Busy);
    }
    cause
        .downcast_ref::<LockError>()
        .and_then(|error| matches!(error, LockError::Held(_)).then_some(Kind::Busy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_file_system_that_is_gone_is_told_from_a_file_that_is_gone() {
        let gone = io::Error::from(Errno::NOTCONN);
        assert!(is_out_of_reach(&gone) && !is_out_of_reach(&io::Error::from(Errno::NOENT)));
        let told = Err::<(), _>(gone).context("read the backup").unwrap_err();
        assert!(hint_of(&told).unwrap().contains("mount it again"));
    }

    #[test]
    fn a_full_disk_has_a_hint_wherever_it_shows() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let plain = Err::<(), _>(full()).context("write the journal").unwrap_err();
        assert!(hint_of(&plain).unwrap().starts_with("free some space"));

        let failure = Failure::new(Kind::Failed, "the disk is full").hint("look elsewhere");
        let told = Err::<(), _>(failure).context("restore").unwrap_err();
        assert_eq!(hint_of(&told).as_deref(), Some("look elsewhere"));
        assert_eq!(hint_of(&anyhow::Error::from(io::Error::from(io::ErrorKind::NotFound))), None);
    }
}
