//! Processes that outlive their postmaster: they keep no server from coming back.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, signal};
use crate::support::wait::wait_for;
use rustix::process::Signal;
use std::process::Stdio;

/// A backend that is busy in a transaction, and what its client is.
fn busy_backend(sandbox: &Sandbox) -> (i32, std::process::Child) {
    let busy = "BEGIN; INSERT INTO kept VALUES (-1); DO $$ BEGIN LOOP END LOOP; END $$";
    let client = sandbox.psql().args(["-c", busy]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let find = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%LOOP%' AND pid <> pg_backend_pid()";
    let pid = wait_for("a busy backend", || sandbox.sql(find).parse().ok());
    (pid, client.unwrap())
}

#[test]
fn a_backend_that_does_not_notice_the_death_of_its_server_is_ended() {
    // Nothing in a computation looks at the postmaster; one that was stopped does not even hear a signal.
    if !has_postgresql() {
        return;
    }
    for is_stopped in [false, true] {
        let sandbox = Sandbox::without_backup();
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.sql("CREATE TABLE IF NOT EXISTS kept (n int)");
        let before = sandbox.sql("SELECT count(*) FROM kept");
        let (backend, mut client) = busy_backend(&sandbox);
        let killed = sandbox.postmaster().unwrap();
        if is_stopped {
            signal(backend, Signal::STOP).unwrap();
        }
        signal(killed, Signal::KILL).unwrap();

        let output = sandbox.output(&["init-postgresql", "--no-backup"]);

        let text = printed(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("left over from the dead server, to end"), "{text}");
        assert_ne!(sandbox.postmaster(), Some(killed));
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), before);
        assert!(!client.wait().unwrap().success());
    }
}
