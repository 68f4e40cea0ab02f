//! pgbox keeps a PostgreSQL server inside a container alive and its data safe.
pub mod pg;
