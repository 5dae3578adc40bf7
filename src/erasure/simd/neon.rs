//! NEON, which every aarch64 processor has.

use super::{Lanes, NIBBLES, Nibbles, Sums, sum};
use std::arch::aarch64::{
    uint8x16_t, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8,
};

/// Proof that the processor has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

impl Neon {
    pub(in crate::erasure) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    pub(in crate::erasure) fn sum(self, sums: Sums<'_, '_>) -> usize {
        #[target_feature(enable = "neon")]
        fn run(sums: Sums<'_, '_>) -> usize {
            // SAFETY: this function is called only where NEON is.
            unsafe { sum::<Neon>(sums) }
        }
        // SAFETY: `self` exists only where NEON was found.
        unsafe { run(sums) }
    }
}

// SAFETY, of all below: the caller's word, that the processor has the instructions and that the
// bytes can be read or written, is what each of them needs.

impl Lanes for Neon {
    const BYTES: usize = 16;
    type Vector = uint8x16_t;
    /// The lower and the upper four bits of each byte.
    type Source = (uint8x16_t, uint8x16_t);
    type Factor = Nibbles;

    fn factor(element: u8) -> &'static Nibbles {
        &NIBBLES[usize::from(element)]
    }

    #[inline(always)]
    unsafe fn zero() -> uint8x16_t {
        unsafe { vdupq_n_u8(0) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> uint8x16_t {
        unsafe { vld1q_u8(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, vector: uint8x16_t) {
        unsafe { vst1q_u8(to, vector) }
    }

    #[inline(always)]
    unsafe fn source(from: *const u8) -> Self::Source {
        unsafe {
            let bytes = vld1q_u8(from);
            (vandq_u8(bytes, vdupq_n_u8(0x0f)), vshrq_n_u8::<4>(bytes))
        }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: uint8x16_t, (low, high): Self::Source, factor: &Nibbles) -> uint8x16_t {
        unsafe {
            let lower = vqtbl1q_u8(vld1q_u8(factor.0.as_ptr()), low);
            let upper = vqtbl1q_u8(vld1q_u8(factor.1.as_ptr()), high);
            veorq_u8(sum, veorq_u8(lower, upper))
        }
    }
}
