//! Backups as archives: written for `tar` and PostgreSQL alone.

mod export;
mod format;
mod import;
mod unpacked;
mod versions;
