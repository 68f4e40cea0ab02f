//! The supervisor behind `start-services`: PostgreSQL, other services and a command, kept running and stopped
//! cleanly.
//!
//! What to do is decided in [`supervisor`], a state machine without effects: an event and the time go in,
//! actions come out. [`run()`] carries them out. The refused alternative, a thread for each child, cannot say
//! what happens when a stop, a death and a due backup fall together.

pub mod directory;
pub mod events;
pub mod keeper;
pub mod run;
mod scrub;
mod stopping;
pub mod supervisor;
#[cfg(test)]
mod tests;

pub use events::Level;
pub use run::{Options, run};
