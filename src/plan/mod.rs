//! Decisions, pure: plain data in, plain data out. No disk, no clock, no randomness, no logging.

mod policy;

pub use policy::RecoveryPolicy;
