//! Damage that nothing but a salvage brings anything back from: what still reads is there, and what does not is told.

mod catalogs;
mod cluster;
mod interrupted;
mod rights;
mod rows;
