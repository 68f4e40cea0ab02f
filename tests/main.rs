//! The integration tests: one binary, a module an area. Real servers, real containers, real damage.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests make damage by hand, start programs, say what they skip, and report by panicking"
)]

mod docker;
mod repository;
mod structure;
mod support;
