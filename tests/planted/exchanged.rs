//! A directory that is exchanged for a link at any moment while root works there.

use super::{ends, shell, state_of_victim, victim};
use crate::support::sandbox::{Sandbox, has_postgresql};
use rstest::rstest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::sync::atomic::{AtomicBool, Ordering};

/// So often the command is run; a start takes longer. Each run has many moments, and `sys/giving` has a test with more.
const ROUNDS: usize = 12;
const STARTS: usize = 4;

#[rstest]
#[case::in_the_backups(
    "mkdir -p backups/data_20250101_000000/base/sub; for i in $(seq 50); do touch backups/data_20250101_000000/base/$i; done
     ln -s ../../victim backups/data_20250101_000000/link; chown -hR postgres backups/data_20250101_000000",
    "backups/data_20250101_000000",
    "base",
    &["maintenance", "stop"],
    "chown root backups/data_20250101_000000/link || true"
)]
#[case::the_backups_themselves(
    "ln -s victim link; chown -h nobody link",
    ".",
    "backups",
    &["maintenance", "stop"],
    ":"
)]
#[case::in_the_data(
    "mkdir -p data/base/99999; for i in $(seq 50); do touch data/base/99999/$i; done
     ln -s ../../victim data/base/link; chown -hR postgres data/base/99999",
    "data/base",
    "99999",
    &["init-postgresql", "--no-backup"],
    "chown root data/global/1262"
)]
#[case::pgbox_own(
    "ln -s ../victim data/link",
    "data",
    ".pgbox",
    &["maintenance", "stop"],
    ":"
)]
fn an_exchange_for_a_link_at_any_moment_gives_nothing_away(
    #[case] plant: &str,
    #[case] place: &str,
    #[case] name: &str,
    #[case] command: &[&str],
    #[case] again: &str,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    victim(&sandbox);
    shell(&sandbox, plant);
    let before = state_of_victim(&sandbox);
    let directory = sandbox.path().join(place);
    let (one, other) = (directory.join(name), directory.join("link"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // One of the two is gone for a moment where pgbox itself moves it.
                let _ = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
            }
        });
        // Whatever fails here does so for the exchange.
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..if command[0] == "maintenance" { ROUNDS } else { STARTS } {
                shell(&sandbox, again);
                ends(&sandbox, command);
                ends(&sandbox, &["maintenance", "stop"]);
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        work.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });

    assert_eq!(state_of_victim(&sandbox), before);
}
