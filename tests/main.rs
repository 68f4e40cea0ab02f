//! The integration tests: one binary, a module an area. Real servers, real containers, real damage.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    reason = "tests make damage by hand, start programs, and say what they skip"
)]

mod command_line;
mod docker;
mod init;
mod repository;
mod structure;
mod supervisor;
mod support;
