//! The kernels and their tests, with nothing else of the program.

#![allow(dead_code, reason = "the code that calls them is not here")]

/// As it is in the program, but for what does no arithmetic.
#[path = "../../../src/erasure"]
pub mod erasure {
    const SHARDS_MAX: usize = 256;

    mod arithmetic;
    mod field;
    mod kernel;
    mod simd;
}
