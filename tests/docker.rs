//! pgbox in a real container: the image that devcontainer/Dockerfile builds, a real engine, a real server.
//!
//! Each test has volumes and containers of its own, and starts with a line that skips it where there is no engine.

mod access;
mod faults;
mod interruption;
mod killed;
mod lifecycle;
mod planted;
mod privileges;
mod recovery;
