//! Commands that are killed, or stand still, at the points between their steps, as `sys::step_point` has them.

use super::sandbox::{Sandbox, printed};
use super::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Output, Stdio};

/// Where the names of the points go, and which one kills.
pub(crate) const POINTS: &str = "PGBOX_STEP_POINTS";
pub(crate) const KILL_AT: &str = "PGBOX_KILL_AT_STEP_POINT";
const STOP_AT: &str = "PGBOX_STOP_AT_STEP_POINT";

/// Whether the tested binary can be killed so; where not, that is said, and a failure where `CI` is set.
pub(crate) fn has_step_points() -> bool {
    let has = cfg!(feature = "test-faults");
    assert!(has || std::env::var_os("CI").is_none(), "the feature test-faults is missing");
    if !has {
        eprintln!("SKIPPED: built without the feature test-faults (scripts/test builds with it)");
    }
    has
}

/// The points that an undisturbed run in a sandbox comes to, in order.
pub(crate) fn points(sandbox: &Sandbox, arguments: &[&str]) -> Vec<String> {
    let list = sandbox.path().join("points");
    // The server's user writes it.
    std::fs::write(&list, "").unwrap();
    std::os::unix::fs::chown(&list, Some(postgres_uid(sandbox)), None).unwrap();
    let output = sandbox.command(arguments).env(POINTS, &list).output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    std::fs::read_to_string(list).unwrap().lines().map(str::to_owned).collect()
}

/// Runs a command up to a point, counted from 1, at which it is killed.
pub(crate) fn kill_at(sandbox: &Sandbox, number: usize, arguments: &[&str]) {
    let output = sandbox.command(arguments).env(KILL_AT, number.to_string()).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "not killed at point {number}: {}", printed(&output));
}

/// Runs a command to its end, with something done in between, while it stands still at a point.
pub(crate) fn pause_at<T>(
    sandbox: &Sandbox,
    number: usize,
    arguments: &[&str],
    meanwhile: impl FnOnce() -> T,
) -> (Output, T) {
    let mut command = sandbox.command(arguments);
    command.env(STOP_AT, number.to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    wait_until("it stands still", || {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before point {number}: {}",
            rest_of(&mut child)
        );
        std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap().contains(") T ")
    });
    let done = meanwhile();
    kill_process(pid, Signal::CONT).unwrap();
    // What it prints is less than a pipe takes.
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    (child.wait_with_output().unwrap(), done)
}

/// What an ended command has printed.
fn rest_of(child: &mut Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn postgres_uid(sandbox: &Sandbox) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(sandbox.data()).unwrap())
}
