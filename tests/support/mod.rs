//! What the integration tests share.
pub(crate) mod directory;
pub(crate) mod docker;
pub(crate) mod extent;
pub(crate) mod foreign_server;
pub(crate) mod power_cut;
pub(crate) mod remains;
pub(crate) mod sandbox;
pub(crate) mod small_disk;
pub(crate) mod step_points;
pub(crate) mod terminal;
pub(crate) mod unpluggable_disk;
pub(crate) mod versions;
pub(crate) mod wait;
