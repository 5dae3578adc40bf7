//! GF(2^8) of the polynomial 0x11d, byte for byte that of `reed_solomon_erasure::galois_8`.

use super::kernel;
use reed_solomon_erasure::Field;

/// The polynomial, without its x^8.
const POLYNOMIAL: u8 = 0x1d;

/// The field, with our kernels where slices are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gf256;

/// Powers of 2, twice, so that sums of two logarithms need no remainder; and logarithms.
const TABLES: ([u8; 512], [u8; 256]) = {
    let (mut exp, mut log) = ([0; 512], [0; 256]);
    let mut value = 1_u8;
    let mut power = 0;
    while power < 255 {
        exp[power] = value;
        exp[power + 255] = value;
        log[value as usize] = power as u8;
        value = double(value);
        power += 1;
    }
    (exp, log)
};

const fn double(value: u8) -> u8 {
    (value << 1) ^ (if value & 0x80 == 0 { 0 } else { POLYNOMIAL })
}

/// The product of two elements.
pub(super) const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    let (exp, log) = &TABLES;
    exp[log[a as usize] as usize + log[b as usize] as usize]
}

impl Field for Gf256 {
    const ORDER: usize = super::SHARDS_MAX;

    type Elem = u8;

    fn add(a: u8, b: u8) -> u8 {
        a ^ b
    }

    fn mul(a: u8, b: u8) -> u8 {
        mul(a, b)
    }

    fn div(a: u8, b: u8) -> u8 {
        assert_ne!(b, 0, "nothing is divided by zero");
        if a == 0 {
            return 0;
        }
        let (exp, log) = &TABLES;
        exp[255 + usize::from(log[usize::from(a)]) - usize::from(log[usize::from(b)])]
    }

    fn exp(a: u8, n: usize) -> u8 {
        match (a, n) {
            (_, 0) => 1,
            (0, _) => 0,
            _ => {
                let (exp, log) = &TABLES;
                exp[usize::from(log[usize::from(a)]) * (n % 255) % 255]
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use reed_solomon_erasure::galois_8;

    #[test]
    fn the_field_is_the_crates_own() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), galois_8::mul(a, b));
                if b != 0 {
                    assert_eq!(Gf256::div(a, b), galois_8::div(a, b));
                }
                assert_eq!(Gf256::exp(a, b.into()), galois_8::exp(a, b.into()));
            }
        }
    }
}
