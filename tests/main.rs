//! The integration tests.
mod docker;
mod support;
mod repository;
