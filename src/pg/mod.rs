//! PostgreSQL's on-disk formats (13 to 19), pure: bytes or text in, plain data out.
//!
//! Nothing here opens a file, starts a process or imports another module of the crate, and no parser can
//! panic, whatever the bytes. A file that a server would not accept is an error that says why, never a best
//! guess: what to do about it is decided elsewhere. The refused alternative was to link the server's own
//! headers, which fixes one major version at build time.

pub mod access;
pub mod backup_label;
pub mod backup_manifest;
pub mod btree;
mod bytes;
pub mod configuration_text;
pub mod control_file;
pub mod database_names;
pub mod empty_index;
#[cfg(test)]
mod fixtures;
pub mod hba;
pub mod heap;
pub mod identity_map;
pub mod layout;
pub mod line_pointers;
pub mod page;
pub mod postmaster_pid;
pub mod relation_map;
pub mod replication_origin;
pub mod replication_slot;
pub mod slru;
pub mod tablespace_map;
pub mod timeline_history;
pub mod two_phase;
pub mod types;
pub mod version;
pub mod visibility_map;
pub mod wal;

pub use types::{BlockNumber, Lsn, MajorVersion, Oid, ParseLsnError, SystemIdentifier, TimelineId};
