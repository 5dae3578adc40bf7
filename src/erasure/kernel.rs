//! Multiplying slices by field elements, as fast as the processor allows.

use super::field::mul;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::simd;

/// One way to multiply slices. All give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Tables of 256 products; the oracle of the others.
    Portable,
    /// Two shuffles of 16 products each, 32 bytes at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2(simd::Avx2),
    /// Multiplication by an 8 × 8 bit matrix, 64 bytes at a time.
    #[cfg(target_arch = "x86_64")]
    Gfni512(simd::Gfni512),
}

impl Kernel {
    /// Its name, for benches.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512(_) => "gfni-avx512",
        }
    }

    /// Adds `input` times `factor` to `out`.
    ///
    /// # Panics
    /// If the two are not of one length.
    pub fn mul_add(self, factor: u8, input: &[u8], out: &mut [u8]) {
        assert_eq!(input.len(), out.len(), "both are of one length");
        match (factor, self) {
            (0, _) => {}
            (_, Self::Portable) => portable(factor, input, out),
            #[cfg(target_arch = "x86_64")]
            (_, Self::Avx2(avx2)) => avx2.mul_add(factor, input, out),
            #[cfg(target_arch = "x86_64")]
            (_, Self::Gfni512(gfni)) => gfni.mul_add(factor, input, out),
        }
    }

    /// Adds four inputs, each times its factor, to `out`, which is so read and written once.
    ///
    /// # Panics
    /// If they are not all of one length.
    pub fn mul_add_4(self, factors: [u8; 4], inputs: [&[u8]; 4], out: &mut [u8]) {
        assert!(inputs.iter().all(|input| input.len() == out.len()), "all are of one length");
        match self {
            Self::Portable => {
                for (factor, input) in factors.into_iter().zip(inputs) {
                    portable(factor, input, out);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => {
                for (factor, input) in factors.into_iter().zip(inputs) {
                    avx2.mul_add(factor, input, out);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512(gfni) => gfni.mul_add_4(factors, inputs, out),
        }
    }
}

/// All kernels that this processor has, the best first, the portable one last.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        kernels.extend(simd::Gfni512::detect().map(Kernel::Gfni512));
        kernels.extend(simd::Avx2::detect().map(Kernel::Avx2));
    }
    kernels.push(Kernel::Portable);
    kernels
}

/// The best kernel of this processor, found once.
pub(super) fn best() -> Kernel {
    static BEST: OnceLock<Kernel> = OnceLock::new();
    *BEST.get_or_init(|| kernels().first().copied().unwrap_or(Kernel::Portable))
}

/// All products of `factor`.
pub(super) fn products(factor: u8) -> [u8; 256] {
    std::array::from_fn(|element| mul(factor, u8::try_from(element).expect("below 256")))
}

fn portable(factor: u8, input: &[u8], out: &mut [u8]) {
    let products = products(factor);
    for (input, out) in input.iter().zip(out) {
        *out ^= products[usize::from(*input)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u8, len: usize) -> Vec<u8> {
        (0..len).map(|n| (n as u8).wrapping_mul(167).wrapping_add(seed) ^ (n >> 8) as u8).collect()
    }

    #[test]
    fn every_kernel_agrees_with_the_oracle_on_every_length_and_alignment() {
        for kernel in kernels() {
            for len in (0..200).chain([255, 256, 1_000, 4_095, 4_097]) {
                for offset in [0, 1, 7, 31, 33, 63] {
                    let inputs: [Vec<u8>; 4] =
                        std::array::from_fn(|n| bytes(n as u8 * 3 + 1, len + offset));
                    let factors = [0, 1, 0x8e, (len as u8) | 2];
                    let (mut out, mut oracle) = (bytes(9, len + offset), bytes(9, len + offset));
                    for (factor, input) in factors.iter().zip(&inputs) {
                        kernel.mul_add(*factor, &input[offset..], &mut out[offset..]);
                        Kernel::Portable.mul_add(*factor, &input[offset..], &mut oracle[offset..]);
                    }
                    assert_eq!(out, oracle, "{} {len} {offset}", kernel.name());
                    let slices = std::array::from_fn(|n| &inputs[n][offset..]);
                    kernel.mul_add_4(factors, slices, &mut out[offset..]);
                    Kernel::Portable.mul_add_4(factors, slices, &mut oracle[offset..]);
                    assert_eq!(out, oracle, "{} {len} {offset}, four", kernel.name());
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
                kernel.mul_add(factor, &input, &mut out);
                assert_eq!(out, products(factor), "{} {factor}", kernel.name());
            }
        }
    }
}
