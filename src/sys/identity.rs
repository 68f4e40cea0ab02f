//! Who this process is, and who it should be.
//!
//! As root, everything that touches the cluster runs as the user `postgres`, looked up by name: dev
//! containers renumber it (`updateRemoteUserUID`), so no uid is ever a constant. As any other user, it works
//! as that user, named or not (Kubernetes, `docker run --user`).
//!
//! Privileges are dropped in this process, before it has a second thread, and for good. The supplementary groups become
//! those of the new user. A command that needs root afterwards runs as two processes (`sys::OwnProcess`). A thread that is
//! another user in a process that stays root was refused: whoever may look into one thread of a process (`ptrace`) writes
//! into the memory of all of it, and a pool of threads outlives the work that it was made for.

use rustix::process::{
    DumpableBehavior, Gid, Uid, parent_process_death_signal, set_dumpable_behavior,
    set_parent_process_death_signal,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
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
    /// The kernel gives an identity to each thread; what is done here is done by the only one, so nothing of the process
    /// stays behind. Other processes of the user cannot look into this one from then on (`ptrace`), and it leaves no core
    /// dump: it may hold descriptors and keys that were opened as root.
    ///
    /// # Errors
    /// [`IdentityError::Threads`] when a second thread runs: the kernel changes one thread only.
    pub fn assume(&self) -> Result<(), IdentityError> {
        let denied = |reason: io::Error| IdentityError::Denied { uid: self.uid, reason };
        if std::fs::read_dir("/proc/self/task").map_err(denied)?.count() > 1 {
            return Err(IdentityError::Threads);
        }
        self.become_this_user().map_err(|error| denied(error.into()))
    }

    fn become_this_user(&self) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups().into_iter().map(Gid::from_raw).collect();
        // The kernel forgets it with a change of the user (prctl(2), PR_SET_PDEATHSIG).
        let death_signal = parent_process_death_signal()?;
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        drop_capabilities()?;
        set_parent_process_death_signal(death_signal)?;
        // As the kernel has it after a change of the user, unless fs.suid_dumpable says otherwise.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
    }
}

/// Gives up what root may do, where whoever started us has it kept through a change of the user (capabilities(7), the
/// securebits) or passed on to programs.
fn drop_capabilities() -> rustix::io::Result<()> {
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    if capabilities(None)? == none { Ok(()) } else { set_capabilities(None, none) }
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
