//! pgbox keeps a PostgreSQL server inside a container alive and its data safe.
//!
//! Reading, deciding and acting are three functions: `cluster::inspect` reads and gives a diagnosis, `plan`
//! decides without touching anything, `execute` carries a plan out. See each module's header for what it is
//! for and what it must not do.
//!
//! The import rule, which a test holds: `format`, `pg`, `progress` and `sys` import nothing of the crate; `plan`
//! imports `pg` and `format`; `cluster` and `repository` import `pg`, `plan`, `sys`, `progress`, `error`; `execute` imports
//! those; `health` and `services` sit above them; `ui` imports `pg`, `plan`, `progress`, `error`; the commands
//! belong to the binary.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "unit tests make files and damage by hand"))]

pub mod cluster;
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
