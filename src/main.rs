//! The binary `barrow`.

fn main() {}
