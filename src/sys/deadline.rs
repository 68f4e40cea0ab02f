//! A limit on the time that a look may take.
//!
//! A network mount whose server is gone, or a FUSE file system whose process hangs, answers no call, and no signal short
//! of the process's end interrupts the thread that waits for it. So the look is taken on a thread of its own, which is
//! left behind when its time is over: whoever asked gets an answer, and the thread ends with the process.
//!
//! Only looks belong here, and what does no harm if it happens later: the caller has been told then that it failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// A look that took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there was no answer within {} s", .limit.as_secs().max(1))]
pub struct TimedOut {
    /// How long it was waited for.
    pub limit: Duration,
}

impl From<TimedOut> for std::io::Error {
    fn from(error: TimedOut) -> Self {
        Self::new(std::io::ErrorKind::TimedOut, error)
    }
}

/// Runs `look` on a thread of its own, and waits for its answer until `limit` is over.
///
/// # Errors
/// [`TimedOut`] when there is no answer by then; the thread is left behind. A `look` that panics, or a thread that cannot
/// be started, gives none either.
pub fn within<T: Send + 'static>(
    limit: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let answer = move || {
        // Nobody waits for it any more where its time was over.
        let _ = sender.send(look());
    };
    let started = std::thread::Builder::new().name("look".to_owned()).spawn(answer);
    started.ok().and_then(|_| receiver.recv_timeout(limit).ok()).ok_or(TimedOut { limit })
}

/// Looks that are taken again and again by a process that lives long: while one of them hangs, no other is begun, so that
/// at most one thread is ever left behind.
#[derive(Debug, Default)]
pub struct Lookout {
    hangs: Arc<AtomicBool>,
}

impl Lookout {
    /// [`within`], and [`TimedOut`] at once while an earlier look hangs.
    ///
    /// # Errors
    /// As [`within`].
    pub fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TimedOut> {
        if self.hangs.swap(true, Ordering::AcqRel) {
            return Err(TimedOut { limit });
        }
        let over = Over(Arc::clone(&self.hangs));
        within(limit, move || {
            let _over = over;
            look()
        })
    }
}

/// Takes back that a look hangs, by a panic too.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn an_answer_in_time_is_returned_and_a_look_that_hangs_is_left_behind() {
        let (release, hang) = channel::<()>();

        assert_eq!(within(LONG, || 7), Ok(7));
        assert_eq!(within(SHORT, move || hang.recv().is_ok()), Err(TimedOut { limit: SHORT }));

        drop(release);
    }

    #[test]
    fn while_a_look_hangs_no_other_is_begun() {
        let lookout = Lookout::default();
        let (release, hang) = channel::<()>();
        assert_eq!(lookout.within(LONG, || 1), Ok(1));
        assert!(lookout.within(SHORT, move || hang.recv()).is_err());

        assert_eq!(
            lookout.within(LONG, || panic!("it must not be begun")),
            Err::<(), _>(TimedOut { limit: LONG })
        );

        drop(release);
        while lookout.within(LONG, || 2) != Ok(2) {
            std::thread::yield_now();
        }
    }
}
