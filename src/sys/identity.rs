//! Who this process is, and who it should be.
//!
//! As root, everything that touches the cluster runs as the user `postgres`, looked up by name: dev
//! containers renumber it (`updateRemoteUserUID`), so no uid is ever a constant. As any other user, it works
//! as that user, named or not (Kubernetes, `docker run --user`).
//!
//! Privileges are dropped in this process, before it has a second thread, rather than by starting itself
//! again: relative paths, settings and an open terminal stay what they were. The supplementary groups become those of
//! the new user.

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

    /// The groups that it is in, by the user database: with Debian's `ssl-cert`, the server reads the key of the machine.
    pub fn groups(&self) -> Vec<u32> {
        let mut groups = vec![self.gid];
        let users = users();
        let own = users.iter().find(|user| self.name.is_some() && **user.id() == self.uid);
        groups.extend(own.into_iter().flat_map(User::groups).map(|group| **group.id()));
        groups.sort_unstable();
        groups.dedup();
        groups
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
        self.assume_in_this_thread()
    }

    /// Does work on a thread that is this user, while the process and its other threads stay who they are.
    ///
    /// What the thread starts, processes and threads, is this user, too. For the kernel, identity belongs to threads;
    /// that a process has one is only the C library's doing, and it is not asked here. The kernel takes from a process
    /// that has done so the right to leave core dumps; it is given back.
    ///
    /// # Errors
    /// [`IdentityError::Denied`]; nothing was done then.
    pub fn run_as<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, IdentityError> {
        let dumpable = rustix::process::dumpable_behavior();
        let done = std::thread::scope(|scope| {
            let worker = scope.spawn(|| self.assume_in_this_thread().map(|()| work()));
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        if let Ok(dumpable) = dumpable {
            // Without it there is no core dump, and that is all.
            let _ = rustix::process::set_dumpable_behavior(dumpable);
        }
        done
    }

    fn assume_in_this_thread(&self) -> Result<(), IdentityError> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups().into_iter().map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups)
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

/// Looks a user up by number; one that has no name has the group of the same number.
pub fn user_of(uid: u32) -> Identity {
    users().iter().find(|user| **user.id() == uid).map_or(Identity { uid, gid: uid, name: None }, |user| {
        Identity { uid, gid: *user.group_id(), name: Some(user.name().to_owned()) }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_as_another_user_and_the_process_stays_who_it_is() {
        let me = effective_identity();
        if !me.is_root() {
            return;
        }
        let other = Identity { uid: 4242, gid: 4343, name: None };
        let directory = tempfile::tempdir().unwrap();

        let (seen, denied) = other
            .run_as(|| (effective_identity(), std::fs::write(directory.path().join("x"), "").is_err()))
            .unwrap();

        assert_eq!((seen.uid, seen.gid, denied), (4242, 4343, true));
        assert_eq!(effective_identity(), me);
        std::thread::spawn(|| assert!(effective_identity().is_root())).join().unwrap();
    }
}
