//! Single elements of GF(2^8) modulo the polynomial 0x11d: what the kernels and the field build on.
//!
//! Products are the same, byte for byte, as those of `reed_solomon_erasure::galois_8`.

/// The polynomial without its x^8 term.
const POLYNOMIAL: u8 = 0x1d;

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

/// Returns the product of two elements.
pub(super) const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    let (exp, log) = &TABLES;
    exp[log[a as usize] as usize + log[b as usize] as usize]
}

/// Returns `a` divided by `b`.
///
/// # Panics
/// If `b` is 0.
pub(super) fn div(a: u8, b: u8) -> u8 {
    assert_ne!(b, 0, "nothing is divided by zero");
    if a == 0 {
        return 0;
    }
    let (exp, log) = &TABLES;
    exp[255 + usize::from(log[usize::from(a)]) - usize::from(log[usize::from(b)])]
}

/// Returns `a` to the power of `n`.
pub(super) fn exp(a: u8, n: usize) -> u8 {
    match (a, n) {
        (_, 0) => 1,
        (0, _) => 0,
        _ => {
            let (exp, log) = &TABLES;
            exp[usize::from(log[usize::from(a)]) * (n % 255) % 255]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reed_solomon_erasure::galois_8;

    #[test]
    fn elements_multiply_divide_and_rise_as_in_the_crate() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), galois_8::mul(a, b));
                if b != 0 {
                    assert_eq!(div(a, b), galois_8::div(a, b));
                }
                assert_eq!(exp(a, b.into()), galois_8::exp(a, b.into()));
            }
        }
    }
}
