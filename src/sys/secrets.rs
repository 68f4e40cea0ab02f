//! What keeps keys, passwords and open files out of what this process leaves behind and what it starts.

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, getrlimit, prlimit, set_dumpable_behavior, setrlimit,
};
use std::io;
use std::sync::OnceLock;

/// Variables with passwords, which are for this process. A server would show them to whoever may read files through it
/// (`/proc/self/environ`, `pg_read_server_files`).
pub(super) const PASSWORD_VARIABLES: [&str; 2] = ["DATABASE_PASSWORD", "POSTGRES_PASSWORD"];

/// The limit of core dumps that this process had, if it has given it up.
static FORMER_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// Keeps other processes of this process's user, such as a server that runs as we do, from reading its memory and its
/// environment, where passwords are.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_from_being_traced() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Does that for a process that is about to hold a key, and makes it leave no core dump whatever the kernel's settings are.
///
/// # Errors
/// When the kernel refuses; the key is not to be read then.
pub fn keep_memory_private() -> io::Result<()> {
    keep_from_being_traced()?;
    let limit = getrlimit(Resource::Core);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: limit.maximum })?;
    FORMER_LIMIT.get_or_init(|| limit);
    Ok(())
}

/// Keeps what whoever started us left open, but for the standard streams, from every program that we start. A file that
/// root's shell had open is not for a server, whose superuser may read it.
pub fn keep_descriptors_private() {
    const FIRST_AFTER_STANDARD_STREAMS: i32 = 3;
    close_fds::set_fds_cloexec(FIRST_AFTER_STANDARD_STREAMS, &[]);
}

/// Gives a server that was just started the limit of core dumps that this process had: a server holds no key.
pub(super) fn give_back_core_limit(server: Pid) {
    if let Some(limit) = FORMER_LIMIT.get() {
        // Without it the server leaves no core dump, and that is all.
        let _ = prlimit(Some(server), Resource::Core, *limit);
    }
}
