//! The integration tests: one binary, a module an area. Real servers, real containers, real damage.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    reason = "tests make damage by hand, start programs, and say what they skip"
)]

mod docker;
mod structure;
mod support;
mod repository;
