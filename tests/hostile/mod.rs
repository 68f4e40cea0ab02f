//! Names and files that somebody made in order to harm whoever looks at them.

mod memory;
mod names;
mod programs;
