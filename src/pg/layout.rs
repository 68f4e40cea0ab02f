//! What lies where in a data directory: its directories, the names of relation files, and what a backup
//! copies.
//!
//! Paths are relative to the data directory, with `/` between names. Nothing here looks at a disk, so a rule
//! that depends on other files (unlogged relations, symbolic links) is left to the caller, and says so.

mod backup;
mod directories;
mod place;
mod recognition;
mod relation_file;

pub use backup::{BackupRule, backup_rule};
pub use directories::{Use, recreatable_empty_directories, required_directories, use_of};
pub use place::has_data_pages;
pub use recognition::{NAMES_ALLOWED_IN_EMPTY_DIRECTORY, is_effectively_empty, looks_like_postgres};
pub use relation_file::{Fork, RelationFile, is_temporary_relation};
