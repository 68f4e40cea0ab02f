//! The integration tests: one binary, a module an area. Real servers, real containers, real damage.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests make damage by hand, start programs, say what they skip, and report by panicking"
)]

mod archive;
mod bundle;
mod command_line;
mod corpus;
mod docker;
mod embedded;
mod faults;
mod hostile;
mod init;
mod inspect;
mod lost_files;
mod planted;
mod privileges;
mod readme;
mod repository;
mod salvage;
mod sessions;
mod structure;
mod supervisor;
mod support;
