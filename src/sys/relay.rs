//! What a program prints, brought to a terminal by us: whoever has a terminal open can read what is typed there.

use std::io::{self, IsTerminal, PipeWriter};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long the end of a program's output is waited for after the program has ended: another may still have it open.
const PATIENCE: Duration = Duration::from_secs(1);

/// A thread that copies to our standard error what a program writes.
#[derive(Debug)]
pub(super) struct Relay {
    end: Receiver<()>,
}

impl Relay {
    /// Starts one where our standard error is a terminal; elsewhere a program may have that itself.
    pub(super) fn at_terminal() -> io::Result<Option<(Self, PipeWriter)>> {
        if !io::stderr().is_terminal() {
            return Ok(None);
        }
        let (mut reader, writer) = io::pipe()?;
        let (sender, end) = channel();
        std::thread::spawn(move || {
            // Nobody is left to be told that the terminal is gone.
            let _ = io::copy(&mut reader, &mut io::stderr());
            let _ = sender.send(());
        });
        Ok(Some((Self { end }, writer)))
    }

    /// Waits until all that the program printed is shown. What another program prints into it later is still shown.
    pub(super) fn finish(self) {
        let _ = self.end.recv_timeout(PATIENCE);
    }
}
