//! Sums of slices times field elements, as fast as the processor allows.

use super::{
    arithmetic::mul,
    simd::{self, ROWS_MAX, Sums},
};
use std::sync::OnceLock;

/// The one that is used where none is named.
static USED: OnceLock<Kernel> = OnceLock::new();

/// One way to make sums. All give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Tables of 256 products; the oracle of the others.
    Portable,
    /// Two shuffles of 16 products each, 16 bytes at a time.
    #[cfg(target_arch = "aarch64")]
    Neon(simd::Neon),
    /// The same, 32 bytes at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2(simd::Avx2),
    /// Multiplication by an 8 × 8 bit matrix, 32 bytes at a time.
    #[cfg(target_arch = "x86_64")]
    Gfni256(simd::Gfni256),
    /// The same, 64 bytes at a time.
    #[cfg(target_arch = "x86_64")]
    Gfni512(simd::Gfni512),
}

impl Kernel {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Gfni256(_) => "gfni-avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512(_) => "gfni-avx512",
        }
    }

    /// Adds all inputs, each times its factor of each row, to the row's sum. `factors` has the
    /// rows one after the other. Where it is `fresh`, a sum is taken for zeros, whatever is in it.
    ///
    /// # Panics
    /// If the slices are not all of one length, or there is not a factor for each input and sum.
    pub fn sum(self, factors: &[u8], inputs: &[&[u8]], outs: &mut [&mut [u8]], fresh: bool) {
        assert_eq!(factors.len(), inputs.len() * outs.len(), "a factor for each input and sum");
        if fresh && inputs.is_empty() {
            outs.iter_mut().for_each(|out| out.fill(0));
        }
        if inputs.is_empty() {
            return;
        }
        // Groups of about one size: with 10 rows, 5 and 5 are faster than 6 and 4.
        let groups = outs.len().div_ceil(ROWS_MAX);
        let rows = outs.len().div_ceil(groups.max(1)).max(1);
        for (factors, outs) in factors.chunks(rows * inputs.len()).zip(outs.chunks_mut(rows)) {
            let sums = Sums { factors, inputs, outs, fresh };
            let done = match self {
                Self::Portable => 0,
                #[cfg(target_arch = "aarch64")]
                Self::Neon(neon) => neon.sum(sums),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2(avx2) => avx2.sum(sums),
                #[cfg(target_arch = "x86_64")]
                Self::Gfni256(gfni) => gfni.sum(sums),
                #[cfg(target_arch = "x86_64")]
                Self::Gfni512(gfni) => gfni.sum(sums),
            };
            for (factors, out) in factors.chunks(inputs.len()).zip(outs) {
                portable(factors, inputs, &mut out[done..], done, fresh);
            }
        }
    }
}

/// All kernels that this processor has, the best first, the portable one last.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        kernels.extend(simd::Gfni512::detect().map(Kernel::Gfni512));
        kernels.extend(simd::Gfni256::detect().map(Kernel::Gfni256));
        kernels.extend(simd::Avx2::detect().map(Kernel::Avx2));
    }
    #[cfg(target_arch = "aarch64")]
    kernels.extend(simd::Neon::detect().map(Kernel::Neon));
    kernels.push(Kernel::Portable);
    kernels
}

/// The best kernel of this processor, or the one that [`use_kernel`] chose.
pub(super) fn best() -> Kernel {
    *USED.get_or_init(|| kernels()[0])
}

/// Has this kernel used in the place of the best one: to compare, or to leave a processor's
/// instructions alone. `false` if the processor has none of this name, or another one is in use.
pub fn use_kernel(name: &str) -> bool {
    let named = kernels().into_iter().find(|kernel| kernel.name() == name);
    named.is_some_and(|named| *USED.get_or_init(|| named) == named)
}

/// All products of `factor`.
fn products(factor: u8) -> [u8; 256] {
    std::array::from_fn(|element| mul(factor, u8::try_from(element).expect("below 256")))
}

/// One sum of what stands from `start` on in the inputs.
fn portable(factors: &[u8], inputs: &[&[u8]], out: &mut [u8], start: usize, fresh: bool) {
    if out.is_empty() {
        return;
    }
    if fresh {
        out.fill(0);
    }
    for (factor, input) in factors.iter().zip(inputs).filter(|(factor, _)| **factor != 0) {
        let input = &input[start..];
        assert_eq!(input.len(), out.len(), "all are of one length");
        // A table is not worth its while for what is left behind whole vectors.
        if out.len() < 64 {
            input.iter().zip(&mut *out).for_each(|(input, out)| *out ^= mul(*factor, *input));
            continue;
        }
        let products = products(*factor);
        input.iter().zip(&mut *out).for_each(|(input, out)| *out ^= products[usize::from(*input)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u8, len: usize) -> Vec<u8> {
        (0..len).map(|n| (n as u8).wrapping_mul(167).wrapping_add(seed) ^ (n >> 8) as u8).collect()
    }

    /// The sums of `rows` rows of `inputs` inputs, all of them `offset` bytes off their alignment.
    fn sums(
        kernel: Kernel,
        (rows, inputs): (usize, usize),
        len: usize,
        offset: usize,
        fresh: bool,
    ) -> Vec<Vec<u8>> {
        let inputs: Vec<Vec<u8>> = (0..inputs).map(|n| bytes(n as u8 * 3, len + offset)).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(|input| &input[offset..]).collect();
        // Among them 0 and 1, and the last element.
        let factors: Vec<u8> =
            (0..rows * inputs.len()).map(|n| [0, 1, 255, 0x8e, n as u8][n % 5]).collect();
        let mut sums: Vec<Vec<u8>> = (0..rows).map(|n| bytes(n as u8, len + offset)).collect();
        let mut outs: Vec<&mut [u8]> = sums.iter_mut().map(|sum| &mut sum[offset..]).collect();
        kernel.sum(&factors, &inputs, &mut outs, fresh);
        sums
    }

    #[test]
    fn every_kernel_agrees_with_the_oracle_on_every_length_and_alignment() {
        let lens: Vec<usize> = match cfg!(miri) {
            true => vec![0, 1, 15, 33, 130, 257],
            false => (0..300).chain([511, 512, 1_000, 4_095, 4_097]).collect(),
        };
        let offsets = if cfg!(miri) { vec![0, 7] } else { vec![0, 1, 7, 31, 33, 63] };
        for kernel in kernels() {
            for len in &lens {
                for offset in &offsets {
                    for fresh in [false, true] {
                        let got = sums(kernel, (3, 4), *len, *offset, fresh);
                        let oracle = sums(Kernel::Portable, (3, 4), *len, *offset, fresh);
                        assert!(got == oracle, "{} {len} {offset} {fresh}", kernel.name());
                    }
                }
            }
        }
    }

    #[test]
    fn every_kernel_agrees_with_the_oracle_on_every_number_of_rows_and_inputs() {
        let (rows, inputs) = if cfg!(miri) { (8, 2) } else { (14, 17) };
        for kernel in kernels() {
            for rows in 0..rows {
                for inputs in 0..inputs {
                    for fresh in [false, true] {
                        let got = sums(kernel, (rows, inputs), 333, 1, fresh);
                        let oracle = sums(Kernel::Portable, (rows, inputs), 333, 1, fresh);
                        assert!(got == oracle, "{} {rows} {inputs} {fresh}", kernel.name());
                    }
                }
            }
        }
    }

    #[test]
    fn every_kernel_knows_every_product() {
        let input: Vec<u8> = (0..=255).collect();
        for kernel in kernels() {
            for factor in 0..=255 {
                let mut out = vec![0; 256];
                kernel.sum(&[factor], &[&input], &mut [&mut out], false);
                assert_eq!(out, products(factor), "{} {factor}", kernel.name());
            }
        }
    }
}
