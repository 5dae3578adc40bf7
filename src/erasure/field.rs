//! The field that the Reed-Solomon code computes in: our elements, and our kernels for slices.

use super::{arithmetic, kernel};
use reed_solomon_erasure::Field;

/// GF(2^8), with the fastest kernel of this processor wherever slices are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gf256;

impl Field for Gf256 {
    const ORDER: usize = super::SHARDS_MAX;

    type Elem = u8;

    fn add(a: u8, b: u8) -> u8 {
        a ^ b
    }

    fn mul(a: u8, b: u8) -> u8 {
        arithmetic::mul(a, b)
    }

    fn div(a: u8, b: u8) -> u8 {
        arithmetic::div(a, b)
    }

    fn exp(a: u8, n: usize) -> u8 {
        arithmetic::exp(a, n)
    }

    fn zero() -> u8 {
        0
    }

    fn one() -> u8 {
        1
    }

    fn nth_internal(n: usize) -> u8 {
        u8::try_from(n).expect("below the field's order")
    }

    fn mul_slice(elem: u8, input: &[u8], out: &mut [u8]) {
        out.fill(0);
        Self::mul_slice_add(elem, input, out);
    }

    fn mul_slice_add(elem: u8, input: &[u8], out: &mut [u8]) {
        kernel::best().sum(&[elem], &[input], &mut [out], false);
    }
}
