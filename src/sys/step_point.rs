//! Points between the steps of a plan at which a test can kill this process, to see that the next one finishes it, or
//! stop it, to change the world around it before it goes on.
//!
//! Only the feature `test-faults` makes anything of them. No shipped binary has it: whoever can set an environment
//! variable must not be able to have a recovery cut short.

/// The variables that count for one process alone, and not for a server that it starts, nor for what that runs.
#[cfg(feature = "test-faults")]
pub(super) const OWN_VARIABLES: &[&str] =
    &["PGBOX_KILL_AT_STEP_POINT", "PGBOX_STOP_AT_STEP_POINT", "PGBOX_STEP_POINTS"];

/// There are none.
#[cfg(not(feature = "test-faults"))]
pub(super) const OWN_VARIABLES: &[&str] = &[];

/// Marks a point that a journalled step has reached; `name` is for the reader of a test's report.
///
/// With the feature `test-faults` the process is killed when it comes to the point whose number, counted from 1,
/// stands in `PGBOX_KILL_AT_STEP_POINT`, is stopped at the one in `PGBOX_STOP_AT_STEP_POINT`, and adds the name to the
/// file named in `PGBOX_STEP_POINTS`.
#[cfg(not(feature = "test-faults"))]
pub fn step_point(_name: &str) {}

/// Marks a point that a journalled step has reached; `name` is for the reader of a test's report.
///
/// The process is killed when it comes to the point whose number, counted from 1, stands in
/// `PGBOX_KILL_AT_STEP_POINT`, is stopped at the one in `PGBOX_STOP_AT_STEP_POINT`, and adds the name to the file named
/// in `PGBOX_STEP_POINTS`.
#[cfg(feature = "test-faults")]
pub fn step_point(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CROSSED: AtomicU64 = AtomicU64::new(0);
    let number = CROSSED.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(path) = std::env::var_os("PGBOX_STEP_POINTS") {
        // A test that cannot count the points fails by itself.
        let _ = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| writeln!(file, "{name}"));
    }
    let signals = [("PGBOX_KILL_AT_STEP_POINT", Signal::KILL), ("PGBOX_STOP_AT_STEP_POINT", Signal::STOP)];
    for (variable, signal) in signals {
        if std::env::var(variable).is_ok_and(|at| at == number.to_string()) {
            let _ = kill_process(getpid(), signal);
        }
    }
}
