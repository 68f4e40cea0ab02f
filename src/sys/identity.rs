//! Who this process is, and who it should be.
//!
//! As root, everything that touches the cluster runs as the user `postgres`, looked up by name: dev
//! containers renumber it (`updateRemoteUserUID`), so no uid is ever a constant. As any other user, it works
//! as that user, named or not (Kubernetes, `docker run --user`).
//!
//! Privileges are dropped in this process, before it has a second thread, rather than by starting itself
//! again: relative paths, settings and an open terminal stay what they were. The supplementary groups are
//! dropped with them.

use rustix::process::{Gid, Uid};
use std::io;
use sysinfo::{User, Users};

/// A user that owns a cluster and runs its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// The name, when the user database has one.
    pub name: Option<String>,
}

/// Why privileges were not dropped.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// PostgreSQL refuses to run as root, and there is nobody else to run it as.
    #[error("there is no user '{0}' to run PostgreSQL as")]
    NoSuchUser(String),
    /// More than one thread runs, so that dropping privileges would leave some behind.
    #[error("privileges cannot be dropped once threads run")]
    Threads,
    /// The kernel said no.
    #[error("could not become user {uid}: {reason}")]
    Denied {
        /// The user that was asked for.
        uid: u32,
        /// The kernel's answer.
        reason: io::Error,
    },
}

impl std::fmt::Display for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{name} ({})", self.uid),
            None => write!(formatter, "{}", self.uid),
        }
    }
}

impl Identity {
    /// Whether this is root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Makes this process, and all that it starts from now on, run as this user for good.
    ///
    /// # Errors
    /// [`IdentityError::Threads`] when a second thread runs: the kernel changes one thread only.
    pub fn assume(&self) -> Result<(), IdentityError> {
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads > 1 {
            return Err(IdentityError::Threads);
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_groups(&[gid])
            .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
            .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
            .map_err(|error| IdentityError::Denied { uid: self.uid, reason: error.into() })
    }
}

/// The user database; empty where it cannot be read, as in an image without one.
fn users() -> Vec<User> {
    Users::new_with_refreshed_list().map(Vec::from).unwrap_or_default()
}

/// Who this process is now.
pub fn effective_identity() -> Identity {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let name = users().iter().find(|user| **user.id() == uid).map(|user| user.name().to_owned());
    Identity { uid, gid, name }
}

/// Looks a user up by name.
///
/// # Errors
/// [`IdentityError::NoSuchUser`] when the user database does not have it, or cannot be read.
pub fn find_user(name: &str) -> Result<Identity, IdentityError> {
    users()
        .iter()
        .find(|user| user.name() == name)
        .map(|user| Identity { uid: **user.id(), gid: *user.group_id(), name: Some(name.to_owned()) })
        .ok_or_else(|| IdentityError::NoSuchUser(name.to_owned()))
}
