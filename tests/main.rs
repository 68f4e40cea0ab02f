//! The integration tests: one binary, a module an area. Real servers, real containers, real damage.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests make damage by hand, start programs, say what they skip, and report by panicking"
)]

mod command_line;
mod docker;
mod init;
mod readme;
mod repository;
mod structure;
mod supervisor;
mod support;
