//! Decisions, pure: plain data in, plain data out. No disk, no clock, no randomness, no logging.

pub mod backups;
mod policy;
pub mod retention;

pub use backups::{
    BackupFormat, BackupKind, BackupName, BackupSummary, Condition, DamagedPage, ParseBackupNameError,
};
pub use policy::RecoveryPolicy;
pub use retention::{Decision, RetentionPlan, RetentionPolicy, Verdict, retention};
