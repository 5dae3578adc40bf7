//! The kernels that need instructions which not every processor has: all `unsafe` of the code.
//!
//! Each kernel is a type that only `detect` makes, and it makes it only on a processor that has
//! the instructions: whoever holds one may call them. Beyond that there is one loop, [`sum_rows`],
//! which reads and writes whole vectors at places that it keeps within the slices.
#![expect(unsafe_code, reason = "processor instructions; each use says why it is sound")]

use super::arithmetic::mul;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Gfni256, Gfni512};

/// Sums that are made at one time, each in registers: an input is read once for all of them.
pub(super) const ROWS_MAX: usize = 6;

/// What is multiplied and added, as the processor has it.
trait Lanes {
    /// Bytes of a vector.
    const BYTES: usize;
    /// A vector.
    type Vector: Copy;
    /// A vector that is multiplied, as the products need it.
    type Source: Copy;
    /// What multiplies by one element of the field.
    type Factor: Copy + 'static;

    fn factor(element: u8) -> &'static Self::Factor;
    /// # Safety
    /// The processor has the instructions; so it is with all below.
    unsafe fn zero() -> Self::Vector;
    /// # Safety
    /// `BYTES` bytes can be read at `from`.
    unsafe fn load(from: *const u8) -> Self::Vector;
    /// # Safety
    /// `BYTES` bytes can be written at `to`.
    unsafe fn store(to: *mut u8, vector: Self::Vector);
    /// # Safety
    /// `BYTES` bytes can be read at `from`.
    unsafe fn source(from: *const u8) -> Self::Source;
    /// # Safety
    /// The processor has the instructions.
    unsafe fn mul_add(
        sum: Self::Vector,
        source: Self::Source,
        factor: &Self::Factor,
    ) -> Self::Vector;
}

/// A product is the sum of those of an element's lower and upper four bits: all of both.
type Nibbles = ([u8; 16], [u8; 16]);

/// The nibbles' products of every element.
static NIBBLES: [Nibbles; 256] = {
    let mut all = [([0; 16], [0; 16]); 256];
    let mut element = 0;
    while element < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            all[element].0[nibble] = mul(element as u8, nibble as u8);
            all[element].1[nibble] = mul(element as u8, (nibble as u8) << 4);
            nibble += 1;
        }
        element += 1;
    }
    all
};

/// What a kernel works on: `factors` has the rows one after the other, each with a factor for
/// each input. All slices are of one length, and there are at most [`ROWS_MAX`] rows.
pub(super) struct Sums<'a, 'b> {
    pub(super) factors: &'a [u8],
    pub(super) inputs: &'a [&'a [u8]],
    pub(super) outs: &'a mut [&'b mut [u8]],
    /// The sums are taken for zeros, whatever is in them.
    pub(super) fresh: bool,
}

/// Makes the sums as far as whole vectors go; gives how far.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn sum<L: Lanes>(sums: Sums<'_, '_>) -> usize {
    let len = sums.outs.first().map_or(0, |out| out.len());
    assert!(sums.inputs.iter().all(|input| input.len() == len), "all are of one length");
    assert!(sums.outs.iter().all(|out| out.len() == len), "all are of one length");
    assert_eq!(sums.factors.len(), sums.outs.len() * sums.inputs.len(), "a factor each");
    let (rows, columns) = (sums.outs.len(), sums.inputs.len());
    // In the order in which the loop comes to them.
    let factor = |at: usize| L::factor(sums.factors[at % rows * columns + at / rows]);
    let factors: Vec<&L::Factor> = (0..rows * columns).map(factor).collect();
    // SAFETY: the processor is the caller's word, the lengths were just looked at.
    unsafe {
        match rows {
            1 => sum_rows::<L, 1, 4>(&factors, sums),
            2 => sum_rows::<L, 2, 4>(&factors, sums),
            3 => sum_rows::<L, 3, 2>(&factors, sums),
            4 => sum_rows::<L, 4, 2>(&factors, sums),
            5 => sum_rows::<L, 5, 2>(&factors, sums),
            ROWS_MAX => sum_rows::<L, ROWS_MAX, 2>(&factors, sums),
            _ => unreachable!("at most {ROWS_MAX} rows"),
        }
    }
}

/// `R` rows, `C` vectors of each at a time, then one.
///
/// # Safety
/// The processor has the instructions of `L`; there are `R` sums and `R` factors an input, and all
/// slices are of one length.
#[inline(always)]
unsafe fn sum_rows<L: Lanes, const R: usize, const C: usize>(
    factors: &[&L::Factor],
    sums: Sums<'_, '_>,
) -> usize {
    let Sums { inputs, outs, fresh, .. } = sums;
    let outs: [*mut u8; R] = std::array::from_fn(|row| outs[row].as_mut_ptr());
    let len = inputs.first().map_or(0, |input| input.len());
    let mut at = 0;
    // SAFETY: each step's vectors end at or before len, the length of all slices.
    unsafe {
        while at + C * L::BYTES <= len {
            sum_step::<L, R, C>(factors, inputs, &outs, at, fresh);
            at += C * L::BYTES;
        }
        while at + L::BYTES <= len {
            sum_step::<L, R, 1>(factors, inputs, &outs, at, fresh);
            at += L::BYTES;
        }
    }
    at
}

/// # Safety
/// As [`sum_rows`], and `C` vectors at `at` are within all slices.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "rows and columns of a matrix of registers")]
unsafe fn sum_step<L: Lanes, const R: usize, const C: usize>(
    factors: &[&L::Factor],
    inputs: &[&[u8]],
    outs: &[*mut u8; R],
    at: usize,
    fresh: bool,
) {
    // SAFETY: it is the caller's word.
    unsafe {
        let mut sums = [[L::zero(); C]; R];
        if !fresh {
            for row in 0..R {
                for c in 0..C {
                    sums[row][c] = L::load(outs[row].add(at + c * L::BYTES));
                }
            }
        }
        for (input, factors) in inputs.iter().zip(factors.chunks_exact(R)) {
            let mut sources = [L::source(input.as_ptr().add(at)); C];
            for c in 1..C {
                sources[c] = L::source(input.as_ptr().add(at + c * L::BYTES));
            }
            for row in 0..R {
                for c in 0..C {
                    sums[row][c] = L::mul_add(sums[row][c], sources[c], factors[row]);
                }
            }
        }
        for row in 0..R {
            for c in 0..C {
                L::store(outs[row].add(at + c * L::BYTES), sums[row][c]);
            }
        }
    }
}
