//! Whether the cluster is that of a standby, and whether its signal files fit.
//!
//! A standby has its rows from its primary. What is restored in its place, and promoted, is a second primary under the
//! same system identifier. So what was a standby must be known for one, by more than its signal file.

use super::Inspection;
use crate::cluster::standby::{RECOVERY_SIGNAL, STANDBY_SIGNAL, follows_another};
use crate::pg::control_file::ClusterState;
use crate::plan::{Finding, Remedy, Severity};

impl Inspection<'_> {
    /// What shows that the cluster is that of a standby; `None` where nothing does.
    pub(super) fn standby_sign(&self) -> Option<&'static str> {
        if !matches!(self.root.facts(STANDBY_SIGNAL), Ok(None)) {
            return Some("standby.signal is in it");
        }
        self.was_stopped_in_recovery().then_some("its server was stopped while it recovered")
    }

    /// Checks the signal files.
    pub(super) fn check_signals(&mut self) {
        if self.was_stopped_in_recovery() && matches!(self.root.facts(STANDBY_SIGNAL), Ok(None)) {
            self.report_lost_signal();
        }
        self.check_recovery_signal();
    }

    /// A server is only stopped in recovery while a signal file is there, which it removes when recovery has ended. A
    /// label would start recovery as well. One that followed nobody had its file by mistake, and has no primary.
    fn was_stopped_in_recovery(&self) -> bool {
        let control = self.control.as_ref().filter(|_| !self.is_control_rebuilt);
        control.is_some_and(|control| control.state == ClusterState::ShutDownInRecovery)
            && matches!(self.root.facts(RECOVERY_SIGNAL), Ok(None))
            && matches!(self.root.facts("backup_label"), Ok(None))
            && follows_another(self.root)
    }

    /// Without its file the server would go on as a primary, on the very timeline of its own primary (xlogrecovery.c,
    /// `InitWalRecovery()`).
    fn report_lost_signal(&mut self) {
        let evidence = "the server was stopped as a standby, or on its way to a moment, and the file that made it one is not \
                        there";
        let hint = "if it is a standby, put the file back (`touch standby.signal` in the data directory, as the server's \
                    user); if it is to be a primary of its own, do that too, start it, and run `SELECT pg_promote()`, \
                    which begins a new timeline";
        let finding = Finding::new("standby-signal-missing", Severity::Error, STANDBY_SIGNAL, evidence);
        self.report_with(finding.with_remedy(Remedy::SeeToIt(hint.to_owned())));
    }

    /// A server that is to recover from an archive, and knows of none, does not start (xlogrecovery.c,
    /// `validateRecoveryParameters()`). One that pgbox asked for is written into the file, and has its WAL in place.
    fn check_recovery_signal(&mut self) {
        // A server that recovers now was told on its command line where its WAL is.
        if self.is_in_use {
            return;
        }
        let is_plain =
            matches!(self.root.read_text(RECOVERY_SIGNAL, 4096), Ok(Some(text)) if text.trim().is_empty());
        if !is_plain || !matches!(self.root.facts(STANDBY_SIGNAL), Ok(None)) {
            return;
        }
        if follows_another(self.root) {
            return;
        }
        let evidence = "it asks for recovery from an archive, and restore_command, which would fetch from it, is not set";
        let hint = "set restore_command, or, if no recovery is meant and this is no restored backup, move the file out of \
                    the data directory";
        let finding = Finding::new("recovery-signal-unusable", Severity::Error, RECOVERY_SIGNAL, evidence);
        self.report_with(finding.with_remedy(Remedy::SeeToIt(hint.to_owned())));
    }
}
