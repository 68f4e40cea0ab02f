//! What a container's terminal and its variables are to the server's user.

use crate::support::docker::{Container, Volumes};
use crate::support::sandbox::printed;

/// Prints each process that has a controlling terminal and is not root's.
const WITH_TERMINAL: &str = r#"for process in /proc/[0-9]*; do
    user=$(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p' "$process/status" 2>/dev/null)
    terminal=$(sed 's/.*) //' "$process/stat" 2>/dev/null | cut -d' ' -f5)
    [ "${user:-0}" = 0 ] || [ "${terminal:-0}" = 0 ] || cat "$process/comm"
done"#;
const POSTMASTERS_ENVIRONMENT: &str =
    r#"tr '\0' '\n' <"/proc/$(head -n 1 "$PGDATA/postmaster.pid")/environ""#;

fn with_terminal(container: &Container) -> String {
    container.run(&["sh", "-c", WITH_TERMINAL])
}

#[test]
fn no_process_of_the_servers_user_has_the_terminal_of_the_container_or_of_a_command_in_it() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start_with(&["--tty", "--env=POSTGRES_PASSWORD=s3cret"], &[]);
    container.wait_until_ready();
    assert_eq!(with_terminal(&container), "");

    let mut terminal = container.terminal(&["maintenance", "restart"]);
    let status = terminal.wait();

    assert!(status.success(), "{}", terminal.shown());
    container.wait_until_ready();
    assert_eq!(with_terminal(&container), "");
    // Root of a container may not look at it; the server itself may.
    let environment = container.exec_with(&["--user=postgres"], &["sh", "-c", POSTMASTERS_ENVIRONMENT]);
    let environment = printed(&environment);
    assert!(environment.contains("PATH=") && !environment.contains("s3cret"), "{environment}");
    // A stop reaches the processes that are in sessions of their own.
    container.stop();
    assert_eq!(volumes.cluster_state(), "shut down");
}
