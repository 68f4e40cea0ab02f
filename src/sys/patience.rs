//! Asking what may never answer: a network mount whose server is gone keeps whoever touches it waiting for ever.

use super::process::find_program;
use super::server_process::wait_until_gone;
use rustix::process::Pid;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

/// That something did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub struct NoAnswer(pub Duration);

/// Does work in a thread of its own, and waits for it no longer than `patience`.
///
/// What does not answer in time is left to itself: no call into a file system can be taken back. It ends with this
/// process, so that it must not hold what somebody else waits for, nor change anything.
///
/// # Errors
/// [`NoAnswer`], also where no thread could be made.
pub fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoAnswer> {
    let (sender, receiver) = channel();
    // Whoever asked may have gone on without the answer.
    let asking = Builder::new().name("asking".to_owned()).spawn(move || drop(sender.send(work())));
    let Ok(asking) = asking else { return Err(NoAnswer(patience)) };
    match receiver.recv_timeout(patience) {
        Ok(answer) => Ok(answer),
        Err(RecvTimeoutError::Timeout) => Err(NoAnswer(patience)),
        Err(RecvTimeoutError::Disconnected) => match asking.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => Err(NoAnswer(patience)),
        },
    }
}

/// Whether a directory can be listed, or is refused, within `patience`. It is asked by another process, so that no thread
/// of this one hangs: one that is still root must be alone when it gives that up.
pub fn answers(directory: &Path, patience: Duration) -> bool {
    let Some(program) = find_program("ls") else { return true };
    let mut command = Command::new(program);
    command.arg("-f").arg("--").arg(directory).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut asking) = command.spawn() else { return true };
    let pid = Pid::from_child(&asking).as_raw_nonzero().get();
    if !matches!(wait_until_gone(pid, patience), Ok(false)) {
        // What it said does not matter; whoever uses the directory finds out.
        let _ = asking.wait();
        return true;
    }
    // Where it hangs in the kernel for good, it ends when that does.
    let _ = asking.kill();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_and_none_is_not() {
        assert_eq!(within(Duration::from_mins(1), || 7), Ok(7));

        let (never, silent) = channel::<()>();
        let patience = Duration::from_millis(10);
        assert_eq!(within(patience, move || silent.recv().is_ok()), Err(NoAnswer(patience)));
        drop(never);
    }

    #[test]
    #[should_panic(expected = "of its own")]
    fn a_panic_is_the_askers() {
        let _ = within(Duration::from_mins(1), || panic!("of its own"));
    }
}
