//! The fence: the only code that changes a file, starts a process or changes who the process is.
//!
//! Everything above holds a [`ReadRoot`], which cannot mutate; a [`WriteRoot`], which exists only while this
//! process owns the data directory's lock and no server lives in it; or a [`StoreRoot`], a backup directory.
//! `clippy.toml` bans every other route, each by name, so that "what can write here?" is answered by the
//! places that take one of these types. This module knows nothing of PostgreSQL's formats.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the one module that may change files and start processes"
)]

mod activity;
mod alarm;
mod copy;
mod deadline;
mod directory;
mod giving;
mod held_process;
mod holes;
mod identity;
mod install;
mod kernel;
mod lease;
mod link;
mod lock;
mod marker;
mod mounts;
mod name;
mod new_wal_root;
mod orphans;
mod other_writers;
mod output_file;
mod own_directory;
mod own_process;
mod prepare;
mod priority;
mod private_directory;
mod process;
mod read_root;
mod regular;
mod relay;
mod scratch;
mod secrets;
mod server_process;
mod socket;
mod space;
mod step_point;
mod store_root;
mod supervise;
mod wait;
mod whole_sync;
mod write_root;

pub use activity::{Activity, ProcessActivity};
pub use alarm::run_myself_within;
pub use copy::{Copied, Unreadable};
pub use deadline::{Lookout, TimedOut, within};
pub use directory::{Entry, EntryKind, FileFacts, Threads};
pub use giving::{Giving, HeldDirectory, OwnershipReport, Refusal, real_path};
pub use held_process::{HeldProcess, continue_stopped_processes, held_server_processes};
pub use holes::data_ranges;
pub use identity::{Identity, IdentityError, effective_identity, find_user, user_of};
pub use install::{LinkState, install_file, install_link, link_state};
pub use lease::{Writer, find_writer};
pub use link::{Link, Message};
pub use lock::{FileLock, Holder, LockError, LockMode};
pub use marker::{clear_stop_marker, has_stop_marker, remove_what_is_no_file, set_stop_marker};
pub use mounts::{Mount, is_mount_root, may_hang, mount_below, mount_of};
pub use name::{path_of, text_of};
pub use new_wal_root::NewWalRoot;
pub use orphans::{ServerProcessIn, has_client_sessions, orphaned_server_processes, server_processes_in};
pub use other_writers::{OtherWriter, Trust, find_other_writer, other_writer};
pub use output_file::{Existing, OutputFile, standard_input, standard_output};
pub use own_directory::OwnDirectory;
pub use own_process::{
    MYSELF, OwnProcess, begin_session, end_like, end_with_parent, has_terminal, name_process,
};
pub use prepare::{ensure_directory, is_runnable, is_writable_directory};
pub use priority::lower_priority;
pub use private_directory::{PrivateDirectory, remove_all_left_behind, remove_left_behind};
pub use process::{ProcessError, RunningTool, Tool, ToolOutput, find_program};
pub use read_root::ReadRoot;
pub use regular::{Links, NotAFile, open_log, open_regular, open_value};
pub use scratch::{file_in_memory, forget_cached, read_scratch, scratch_file};
pub use secrets::{keep_descriptors_private, keep_from_being_traced, keep_memory_private};
pub use server_process::{
    ServerProcess, ServerSpec, is_alive, is_postmaster_of, signal_server, wait_until_gone,
};
pub use socket::{Listening, LockOwner, SocketDirectory, listening, socket_path};
pub use space::{DiskSpace, disk_space};
pub use step_point::step_point;
pub use store_root::StoreRoot;
pub use supervise::{
    Ended, Supervised, become_subreaper, children_named, has_argument, has_argument_below, is_first_process,
    reap, reap_one, signal_group, spawn_supervised,
};
pub use wait::ChangeWatch;
pub use whole_sync::{sync_everything, syncs_at_once};
pub use write_root::{ClaimError, DATA_LOCK, OPERATION_LOCK, OWN_DIRECTORY, OperationLock, WriteRoot};

pub use rustix::process::Signal;
