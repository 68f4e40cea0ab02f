//! Directories of the tests, and what sees to it that nothing is left behind.
//!
//! Statics are never dropped, and a test binary may be killed: a process that outlives this one removes every directory
//! with this one's number, with the servers, mounts and containers of tests that could not do so themselves.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use tempfile::TempDir;

/// Waits for the end of process `$1`, then looks below `$2` and the memory file system.
const CLEAN_UP: &str = r#"
tail --pid="$1" -f /dev/null
if command -v docker; then
    docker ps --all --quiet --filter "label=pgbox-test=$1" | xargs -r docker rm --force --volumes
fi
for directory in "$2"/pgbox-test-"$1"-* /dev/shm/pgbox-test-"$1"-*; do
    [ -d "$directory" ] || continue
    find "$directory" -name postmaster.pid | while read -r file; do
        read -r pid <"$file" || continue
        case $(readlink "/proc/$pid/cwd") in
            "$directory"/*) kill -QUIT "$pid" && timeout 20 tail --pid="$pid" -f /dev/null ;;
        esac
    done
    while read -r _ mounted _; do
        case $mounted in "$directory"/*) umount --lazy "$mounted" ;; esac
    done </proc/mounts
    rm -rf "$directory"
done
"#;

/// A new directory below the usual one for temporary files.
pub(crate) fn make() -> TempDir {
    make_in(&std::env::temp_dir())
}

/// A new directory below another, which is the usual one for temporary files or the one in memory.
pub(crate) fn make_in(parent: &Path) -> TempDir {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(clean_up_at_the_end);
    let prefix = format!("pgbox-test-{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).unwrap()
}

#[expect(clippy::zombie_processes, reason = "it outlives this process, for which it waits")]
fn clean_up_at_the_end() {
    let mut waiting = Command::new("sh");
    waiting.args(["-c", CLEAN_UP, "sh", &std::process::id().to_string()]).arg(std::env::temp_dir());
    // In a group of its own, so that Ctrl-C at the terminal does not end it, too.
    waiting.process_group(0).current_dir("/");
    waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
}
