//! Every fault that PostgreSQL's files are known to suffer, made on a real cluster, and what must become of it.
//!
//! A fault is a line of data: how it is made (a shell command in the data directory), and what is expected of a
//! cluster that was stopped cleanly and of one that was killed under load, without a backup and with one. A real
//! server answers, and PostgreSQL's own tools judge it: what stood in the cluster before stands in it after.

mod circumstances;
pub(crate) mod fault;
mod in_place;
pub(crate) mod judge;
mod pairs;
mod replay;
mod sound;

mod steps;
pub(crate) mod table;
pub(crate) mod template;
mod unsealed;
mod versions;
