//! The kernels that need instructions which not every processor has: all `unsafe` of the code.
//!
//! Each kernel is a type that only `detect` makes, and it makes it only on a processor that has
//! the instructions: whoever holds one may call them. Beyond that the functions read and write
//! whole vectors at places that the loops keep within the slices.
#![expect(unsafe_code, reason = "processor instructions; each use says why it is sound")]

use super::{field::mul, kernel::products};
use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_xor_si256, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512,
    _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_set1_epi64, _mm512_storeu_si512,
    _mm512_xor_si512,
};

/// Proof that the processor has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that the processor has GFNI and AVX-512 with byte masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gfni512(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    pub(super) fn mul_add(self, factor: u8, input: &[u8], out: &mut [u8]) {
        assert_eq!(input.len(), out.len());
        // SAFETY: `self` exists only where AVX2 was found; the lengths are equal.
        unsafe { avx2_mul_add(factor, input, out) }
    }
}

/// # Safety
/// The processor has AVX2, and both slices are of one length.
#[target_feature(enable = "avx2")]
unsafe fn avx2_mul_add(factor: u8, input: &[u8], out: &mut [u8]) {
    // A product is the sum of those of its lower and its upper four bits.
    let low: [u8; 16] = std::array::from_fn(|n| mul(factor, n as u8));
    let high: [u8; 16] = std::array::from_fn(|n| mul(factor, (n as u8) << 4));
    // SAFETY: both arrays have the 16 bytes that are read.
    let (low, high) = unsafe {
        let load = |table: &[u8; 16]| {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast::<__m128i>()))
        };
        (load(&low), load(&high))
    };
    let mask = _mm256_set1_epi8(0x0f);
    let whole = input.len() / 32 * 32;
    let mut at = 0;
    while at < whole {
        // SAFETY: at + 32 <= whole, which is within both slices.
        unsafe {
            let source = _mm256_loadu_si256(input.as_ptr().add(at).cast::<__m256i>());
            let target = out.as_mut_ptr().add(at).cast::<__m256i>();
            let lower = _mm256_shuffle_epi8(low, _mm256_and_si256(source, mask));
            let upper = _mm256_and_si256(_mm256_srli_epi64::<4>(source), mask);
            let product = _mm256_xor_si256(lower, _mm256_shuffle_epi8(high, upper));
            _mm256_storeu_si256(target, _mm256_xor_si256(_mm256_loadu_si256(target), product));
        }
        at += 32;
    }
    let products = products(factor);
    for (input, out) in input[whole..].iter().zip(&mut out[whole..]) {
        *out ^= products[usize::from(*input)];
    }
}

impl Gfni512 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("gfni")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw");
        has.then_some(Self(()))
    }

    pub(super) fn mul_add(self, factor: u8, input: &[u8], out: &mut [u8]) {
        assert_eq!(input.len(), out.len());
        // SAFETY: `self` exists only where the instructions were found; the lengths are equal.
        unsafe { gfni_mul_add([factor], [input], out) }
    }

    pub(super) fn mul_add_4(self, factors: [u8; 4], inputs: [&[u8]; 4], out: &mut [u8]) {
        assert!(inputs.iter().all(|input| input.len() == out.len()));
        // SAFETY: as in `mul_add`.
        unsafe { gfni_mul_add(factors, inputs, out) }
    }
}

/// The matrix that multiplies the bits of an element by `factor`, as `gf2p8affineqb` reads it:
/// its row for bit i of the product stands in byte 7 − i.
fn matrix(factor: u8) -> i64 {
    let mut matrix = 0_u64;
    for column in 0..8 {
        let product = mul(factor, 1 << column);
        for row in 0..8 {
            matrix |= u64::from(product >> row & 1) << ((7 - row) * 8 + column);
        }
    }
    matrix.cast_signed()
}

/// # Safety
/// The processor has GFNI, AVX-512F and AVX-512BW, and all slices are of one length.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
unsafe fn gfni_mul_add<const N: usize>(factors: [u8; N], inputs: [&[u8]; N], out: &mut [u8]) {
    let matrices: [__m512i; N] = std::array::from_fn(|n| _mm512_set1_epi64(matrix(factors[n])));
    let len = out.len();
    let whole = len / 64 * 64;
    let mut at = 0;
    while at < whole {
        // SAFETY: at + 64 <= whole, which is within all slices.
        unsafe {
            let target = out.as_mut_ptr().add(at).cast::<__m512i>();
            let mut sum = _mm512_loadu_si512(target);
            for n in 0..N {
                let source = _mm512_loadu_si512(inputs[n].as_ptr().add(at).cast::<__m512i>());
                let product = _mm512_gf2p8affine_epi64_epi8::<0>(source, matrices[n]);
                sum = _mm512_xor_si512(sum, product);
            }
            _mm512_storeu_si512(target, sum);
        }
        at += 64;
    }
    if at < len {
        let mask = (1_u64 << (len - at)) - 1;
        // SAFETY: the mask leaves out every byte from len on.
        unsafe {
            let target = out.as_mut_ptr().add(at).cast::<i8>();
            let mut sum = _mm512_maskz_loadu_epi8(mask, target);
            for n in 0..N {
                let source = inputs[n].as_ptr().add(at).cast::<i8>();
                let source = _mm512_maskz_loadu_epi8(mask, source);
                let product = _mm512_gf2p8affine_epi64_epi8::<0>(source, matrices[n]);
                sum = _mm512_xor_si512(sum, product);
            }
            _mm512_mask_storeu_epi8(target, mask, sum);
        }
    }
}
