//! How long work reports that it goes on, without knowing who watches.

/// A watcher of work that takes a while. Reporting is cheap and never fails.
pub trait Progress: Send + Sync {
    /// A stage begins: what is being done, and how many bytes it has to go through, where that is known.
    fn begin(&self, stage: &str, total_bytes: Option<u64>);
    /// So many more bytes of the current stage are done.
    fn advance(&self, bytes: u64);
    /// One fact a person should see now, such as what a server in recovery is replaying.
    fn note(&self, text: &str);
    /// The current stage is over.
    fn end(&self);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _stage: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
    fn end(&self) {}
}
