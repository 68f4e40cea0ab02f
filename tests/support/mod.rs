//! What the integration tests share.
pub(crate) mod docker;
pub(crate) mod sandbox;
pub(crate) mod terminal;
pub(crate) mod wait;
