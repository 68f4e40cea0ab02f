//! Decisions, pure: plain data in, plain data out. No disk, no clock, no randomness, no logging.

pub mod ancestry;
pub mod archive;
pub mod backups;
pub mod branching;
pub mod delta;
pub mod diagnosis;
pub mod elsewhere;
pub mod order;
pub mod periods;
pub mod point_in_time;
pub mod policy;
pub mod recovery;
pub mod recovery_target;
pub mod restore;
pub mod restore_outline;
pub mod retention;
pub mod scrub;
pub mod selection;
pub mod server_answer;
pub mod slots;
pub mod socket_lock;
pub mod start_failure;
#[cfg(test)]
mod tests;
pub mod timelines;
pub mod verification;
pub mod wal_reset;
mod words;

pub use backups::{
    BackupFormat, BackupKind, BackupName, BackupSummary, Condition, DamagedPage, ParseBackupNameError, Pin,
};
pub use diagnosis::{
    ClusterCondition, Diagnosis, Extent, FileContent, Finding, Journal, Phase, Presence, RelationName,
    Remedy, Severity,
};
pub use periods::KeptPeriods;
pub use policy::RecoveryPolicy;
pub use retention::{Decision, RetentionPlan, RetentionPolicy, Verdict, retention};
pub use verification::{
    Damage, DamageCode, DamagedFile, IndexCheck, Judgement, Observed, Proof, Verification,
    VerificationVerdict, judge,
};
