//! The `pgbox` binary.
fn main() {}
