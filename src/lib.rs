//! pgbox keeps a PostgreSQL server inside a container alive and its data safe.
//!
//! For a program that wants a live server in a directory of its own:
//!
//! - [`ensure_running`] with [`Options`] gives a [`Running`] server, made, repaired, restored and started as needed;
//!   it goes on when the program ends, and [`stop`] stops it;
//! - [`inspect`] looks at a data directory, reading only, and gives a [`plan::Diagnosis`].
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let server = pgbox::ensure_running(&pgbox::Options::new("target/test-database"))?;
//! println!("{}", server.connection_string());
//! # Ok(())
//! # }
//! ```
//! `examples/embedded.rs` is a whole program. The modules below are what the commands are made of.
//!
//! Reading, deciding and acting are three functions: `cluster::inspect` reads and gives a diagnosis, `plan`
//! decides without touching anything, `execute` carries a plan out. See each module's header for what it is
//! for and what it must not do.
//!
//! The import rule, which a test holds: `format`, `pg`, `progress` and `sys` import nothing of the crate; `plan`
//! imports `pg` and `format`; `cluster` and `repository` import `format`, `pg`, `plan`, `sys`, `progress`, `error`; `execute` imports
//! those; `health`, `services` and `embed` sit above them; `ui` imports `pg`, `plan`, `progress`, `error`; the commands
//! belong to the binary.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "unit tests make files and damage by hand"))]

pub mod cluster;
pub mod embed;
pub mod error;
pub mod execute;
pub mod format;
pub mod health;
pub mod pg;
pub mod plan;
pub mod progress;
pub mod repository;
pub mod services;
pub mod settings;
pub mod sys;
pub mod ui;

pub use embed::{Options, Running, ensure_running, inspect, stop};
