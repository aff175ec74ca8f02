//! Compiles the protobuf files; see src/api.
fn main() {}
