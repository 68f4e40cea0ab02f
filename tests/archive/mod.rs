//! WAL is archived beside the backups, and never at the server's expense.

mod private;
mod queue;
mod recovery;
mod setting;
mod unplugged;

pub(crate) use setting::{archive_now, archived};
