//! What somebody who may write to pgbox's directories plants there, and an ordinary command of root's afterwards.
//!
//! Each test plants for real, runs the command, and looks at owners, contents and time.

mod exchanged;
mod hanging;
mod owners;
mod pipes;
mod strangers;

use crate::support::sandbox::{Sandbox, printed, run};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// No command below may take longer, whatever was planted. Generous: a busy machine is not a fault.
const LIMIT: Duration = Duration::from_mins(1);

/// A directory of root's beside the sandbox's own, with secrets.
fn victim(sandbox: &Sandbox) -> PathBuf {
    let victim = sandbox.path().join("victim");
    shell(
        sandbox,
        "mkdir -m 700 -p victim/sub; echo secret > victim/secret; echo secret > victim/sub/secret; chmod 600 victim/secret",
    );
    victim
}

/// Runs a script in the sandbox's directory, as root, who does there what an attacker may do.
fn shell(sandbox: &Sandbox, script: &str) {
    run(Command::new("sh").args(["-euc", script]).current_dir(sandbox.path()));
}

/// Every path below the victim with its owner, mode and content.
fn state_of_victim(sandbox: &Sandbox) -> String {
    let script = "find victim -printf '%p %U %G %m %s\\n' | sort; cat victim/secret victim/sub/secret";
    run(Command::new("sh").args(["-euc", script]).current_dir(sandbox.path()))
}

/// Runs a command, which must come to an end in time. Returns its status and what it printed.
#[track_caller]
fn ends(sandbox: &Sandbox, arguments: &[&str]) -> (i32, String) {
    let mut command = assert_cmd::Command::from_std(sandbox.command(arguments));
    let output = command.timeout(LIMIT).output().unwrap();
    let text = printed(&output);
    let status = output.status.code();
    (status.unwrap_or_else(|| panic!("{arguments:?} did not end within {LIMIT:?}:\n{text}")), text)
}
