//! Builds, loads, tests, benches and shows the forwarder.
fn main() {}
