//! Work that goes on: a bar on a terminal, else a line when a stage begins and one when it has taken a while. Where JSON
//! was asked for, an object a line: when a stage begins, each second that it moves bytes, and when it ends.

use super::{Level, Output, format, json_line};
use crate::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const BAR: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}, {eta} left";
const SPINNER: &str = "{spinner} {msg} {elapsed}";
const SPINNER_WITH_BYTES: &str = "{spinner} {msg} {bytes} {elapsed}";
/// How often a bar is drawn when nothing advances.
const TICK: Duration = Duration::from_millis(200);
/// A stage that took less and moved no bytes is not worth a second line.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

/// How often a program is told how far a stage is.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// Shows a person how far work is.
#[derive(Debug)]
pub(super) struct Shown {
    output: Arc<Output>,
    stage: Mutex<Option<Stage>>,
    done_bytes: AtomicU64,
}

#[derive(Debug)]
struct Stage {
    name: String,
    total_bytes: Option<u64>,
    began: Instant,
    /// When a program was last told.
    told: Instant,
}

impl Stage {
    /// How far it is, for a program.
    fn event(&self, what: &str, done_bytes: u64) -> String {
        let elapsed_ms = self.began.elapsed().as_millis();
        let bytes_per_second = u128::from(done_bytes) * 1000 / elapsed_ms.max(1);
        let left_bytes = self.total_bytes.map(|total| u128::from(total.saturating_sub(done_bytes)));
        let left_seconds = left_bytes.filter(|_| bytes_per_second > 0).map(|left| left / bytes_per_second);
        json_line(json!({
            "event": what,
            "stage": self.name,
            "done_bytes": done_bytes,
            "total_bytes": self.total_bytes,
            "elapsed_ms": elapsed_ms,
            "bytes_per_second": bytes_per_second,
            "left_seconds": left_seconds,
        }))
    }
}

impl Shown {
    pub(super) fn new(output: Arc<Output>) -> Self {
        Self { output, stage: Mutex::new(None), done_bytes: AtomicU64::new(0) }
    }

    /// Tells a program how far the stage is, if it was not told a moment ago.
    fn tell(&self, done_bytes: u64) {
        // Whoever else holds it is telling already.
        let Ok(mut stage) = self.stage.try_lock() else { return };
        let Some(stage) = stage.as_mut().filter(|stage| stage.told.elapsed() >= EVENT_INTERVAL) else {
            return;
        };
        stage.told = Instant::now();
        self.output.print(&stage.event("progress", done_bytes));
    }

    fn take_stage(&self) -> Option<Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn bar(stage: &str, total_bytes: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
    let template = if total_bytes.is_some() { BAR } else { SPINNER };
    // A template that does not parse would be a mistake of ours; the default one is good enough then.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(format::escaped(stage).into_owned());
    bar.enable_steady_tick(TICK);
    bar
}

impl Progress for Shown {
    fn begin(&self, stage: &str, total_bytes: Option<u64>) {
        self.end();
        self.done_bytes.store(0, Ordering::Relaxed);
        let now = Instant::now();
        let begun = Stage { name: stage.to_owned(), total_bytes, began: now, told: now };
        if self.output.json {
            self.output.print(&begun.event("began", 0));
        }
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
        if self.output.json {
            return;
        }
        if self.output.draws_bars() {
            self.output.set_bar(Some(bar(stage, total_bytes)));
            return;
        }
        let size = total_bytes.map_or_else(String::new, |total| format!(" ({})", format::bytes(total)));
        self.output.line(Level::Info, &format!("began: {stage}{size}"));
    }

    fn advance(&self, bytes: u64) {
        let before = self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.output.json {
            self.tell(before + bytes);
            return;
        }
        self.output.with_bar(|bar| {
            if before == 0 && bar.length().is_none() {
                let style = ProgressStyle::with_template(SPINNER_WITH_BYTES);
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            }
            bar.inc(bytes);
        });
    }

    fn note(&self, text: &str) {
        self.output.line(Level::Info, text);
    }

    fn end(&self) {
        let Some(stage) = self.take_stage() else { return };
        self.output.set_bar(None);
        let done = self.done_bytes.load(Ordering::Relaxed);
        if self.output.json {
            self.output.print(&stage.event("finished", done));
            return;
        }
        let (name, elapsed) = (stage.name, stage.began.elapsed());
        if done > 0 {
            let (size, rate) = (format::bytes(done), format::rate(done, elapsed));
            let time = format::duration(elapsed);
            self.output.line(Level::Info, &format!("finished: {name} ({size} in {time}, {rate})"));
        } else if elapsed >= WORTH_A_LINE {
            self.output.line(Level::Info, &format!("finished: {name} ({})", format::duration(elapsed)));
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // An error left the stage open; its bar must not stay on the screen beside the message.
        if self.take_stage().is_some() {
            self.output.set_bar(None);
        }
    }
}
