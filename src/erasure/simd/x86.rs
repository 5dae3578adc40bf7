//! AVX2, and the multiplication by 8 × 8 bit matrices (GFNI) with vectors of 32 or 64 bytes.

use super::{Lanes, NIBBLES, Nibbles, Sums, mul, sum};
use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_gf2p8affine_epi64_epi8, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_set1_epi64x,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256,
    _mm256_xor_si256, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_storeu_si512, _mm512_xor_si512,
};

/// Proof that the processor has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that the processor has GFNI and AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gfni256(());

/// Proof that the processor has GFNI and AVX-512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gfni512(());

impl Avx2 {
    pub(in crate::erasure) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    pub(in crate::erasure) fn sum(self, sums: Sums<'_, '_>) -> usize {
        #[target_feature(enable = "avx2")]
        fn run(sums: Sums<'_, '_>) -> usize {
            // SAFETY: this function is called only where AVX2 is.
            unsafe { sum::<Avx2>(sums) }
        }
        // SAFETY: `self` exists only where AVX2 was found.
        unsafe { run(sums) }
    }
}

impl Gfni256 {
    pub(in crate::erasure) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx2");
        has.then_some(Self(()))
    }

    pub(in crate::erasure) fn sum(self, sums: Sums<'_, '_>) -> usize {
        #[target_feature(enable = "gfni,avx2")]
        fn run(sums: Sums<'_, '_>) -> usize {
            // SAFETY: this function is called only where both are.
            unsafe { sum::<Gfni256>(sums) }
        }
        // SAFETY: `self` exists only where both were found.
        unsafe { run(sums) }
    }
}

impl Gfni512 {
    pub(in crate::erasure) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx512f");
        has.then_some(Self(()))
    }

    pub(in crate::erasure) fn sum(self, sums: Sums<'_, '_>) -> usize {
        #[target_feature(enable = "gfni,avx512f")]
        fn run(sums: Sums<'_, '_>) -> usize {
            // SAFETY: this function is called only where both are.
            unsafe { sum::<Gfni512>(sums) }
        }
        // SAFETY: `self` exists only where both were found.
        unsafe { run(sums) }
    }
}

/// The matrices that multiply the bits of an element by each factor, as `gf2p8affineqb` reads
/// them: the row for bit i of the product stands in byte 7 − i.
static MATRICES: [i64; 256] = {
    let mut all = [0; 256];
    let mut factor = 0;
    while factor < 256 {
        let (mut matrix, mut column) = (0_u64, 0);
        while column < 8 {
            let product = mul(factor as u8, 1 << column);
            let mut row = 0;
            while row < 8 {
                matrix |= ((product >> row & 1) as u64) << ((7 - row) * 8 + column);
                row += 1;
            }
            column += 1;
        }
        all[factor] = matrix.cast_signed();
        factor += 1;
    }
    all
};

// SAFETY, of all below: the caller's word, that the processor has the instructions and that the
// bytes can be read or written, is what each of them needs.

impl Lanes for Avx2 {
    const BYTES: usize = 32;
    type Vector = __m256i;
    /// The lower and the upper four bits of each byte.
    type Source = (__m256i, __m256i);
    type Factor = Nibbles;

    fn factor(element: u8) -> &'static Nibbles {
        &NIBBLES[usize::from(element)]
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, vector: __m256i) {
        unsafe { _mm256_storeu_si256(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn source(from: *const u8) -> Self::Source {
        unsafe {
            let (bytes, mask) = (_mm256_loadu_si256(from.cast()), _mm256_set1_epi8(0x0f));
            let upper = _mm256_srli_epi64::<4>(bytes);
            (_mm256_and_si256(bytes, mask), _mm256_and_si256(upper, mask))
        }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: __m256i, (low, high): Self::Source, factor: &Nibbles) -> __m256i {
        let table = |products: &[u8; 16]| unsafe {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(products.as_ptr().cast::<__m128i>()))
        };
        unsafe {
            let lower = _mm256_shuffle_epi8(table(&factor.0), low);
            let upper = _mm256_shuffle_epi8(table(&factor.1), high);
            _mm256_xor_si256(sum, _mm256_xor_si256(lower, upper))
        }
    }
}

impl Lanes for Gfni256 {
    const BYTES: usize = 32;
    type Vector = __m256i;
    type Source = __m256i;
    type Factor = i64;

    fn factor(element: u8) -> &'static i64 {
        &MATRICES[usize::from(element)]
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, vector: __m256i) {
        unsafe { _mm256_storeu_si256(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn source(from: *const u8) -> __m256i {
        unsafe { Self::load(from) }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: __m256i, source: __m256i, factor: &i64) -> __m256i {
        unsafe {
            let matrix = _mm256_set1_epi64x(*factor);
            _mm256_xor_si256(sum, _mm256_gf2p8affine_epi64_epi8::<0>(source, matrix))
        }
    }
}

impl Lanes for Gfni512 {
    const BYTES: usize = 64;
    type Vector = __m512i;
    type Source = __m512i;
    type Factor = i64;

    fn factor(element: u8) -> &'static i64 {
        &MATRICES[usize::from(element)]
    }

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, vector: __m512i) {
        unsafe { _mm512_storeu_si512(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn source(from: *const u8) -> __m512i {
        unsafe { Self::load(from) }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: __m512i, source: __m512i, factor: &i64) -> __m512i {
        unsafe {
            let matrix = _mm512_set1_epi64(*factor);
            _mm512_xor_si512(sum, _mm512_gf2p8affine_epi64_epi8::<0>(source, matrix))
        }
    }
}
