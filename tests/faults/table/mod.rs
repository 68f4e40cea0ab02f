//! The faults, by what they happen to. Each is tried four times: stopped cleanly and killed, with a backup and without.
//!
//! Where a loss is expected, the information is gone: the reason stands beside it.

mod catalogs;
mod configuration;
mod control;
mod directories;
mod relations;
mod wal;

use super::fault::Fault;

/// Names faults, and makes the four tests of each.
macro_rules! faults {
    ($($name:ident = $fault:expr;)+) => {
        /// The faults of this module by name.
        pub(crate) const FAULTS: &[(&str, $crate::faults::fault::Fault)] =
            &[$((stringify!($name), $fault)),+];

        $crate::faults::table::each!(clean, Clean, None, $($name)+);
        $crate::faults::table::each!(killed, Killed, None, $($name)+);
        $crate::faults::table::each!(clean_with_backup, Clean, Older, $($name)+);
        $crate::faults::table::each!(killed_with_backup, Killed, Older, $($name)+);
    };
}

/// One test for each fault, for clusters left in one way.
macro_rules! each {
    ($module:ident, $left:ident, $backup:ident, $($name:ident)+) => {
        mod $module {
            $(#[test]
            fn $name() {
                use $crate::faults::{fault::{Backup, case}, table::find, template::Left};
                case(find(stringify!($name)), Left::$left, Backup::$backup);
            })+
        }
    };
}

pub(crate) use {each, faults};

/// All faults.
pub(crate) fn all() -> impl Iterator<Item = &'static (&'static str, Fault)> {
    [
        catalogs::FAULTS,
        configuration::FAULTS,
        control::FAULTS,
        directories::FAULTS,
        relations::FAULTS,
        wal::FAULTS,
    ]
    .into_iter()
    .flatten()
}

/// A fault by its name.
pub(crate) fn find(name: &str) -> &'static Fault {
    all().find(|(found, _)| *found == name).map(|(_, fault)| fault).unwrap()
}
