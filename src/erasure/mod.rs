//! Erasure coding: k data shards and m parity shards a stripe, any k of which give all.
//!
//! Pure: bytes in, bytes out. [`Code`] is the arithmetic, [`Manifest`] says which blocks are the
//! shards of a dataset. Threads and stores are above, in [`crate::content::protect`] and [`crate::content::mend`].

mod arithmetic;
mod code;
mod field;
mod kernel;
mod manifest;
mod simd;

pub use code::Code;
pub use field::Gf256;
pub use kernel::{Kernel, kernels, use_kernel};
pub use manifest::{List, Manifest, ManifestError, Nodes, Stripe};

use barrow_wire::limits::BLOCK_BYTES_MAX;
use std::fmt;

/// Shards of a stripe at most: the field has no more elements.
pub const SHARDS_MAX: usize = 256;
/// Bytes of a stripe at most, data and parity, all as long as the longest. Whoever encodes or
/// decodes holds the parity or the lost shards, and this bounds them.
pub const STRIPE_BYTES_MAX: u64 = 32 << 20;

/// How many shards a stripe has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    data: u16,
    parity: u16,
}

/// Why numbers are no shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// No data or no parity shards, or more than [`SHARDS_MAX`].
    Shards,
    /// Stripes of this shape would pass [`STRIPE_BYTES_MAX`] with a block of so many bytes.
    StripeBytes(usize),
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shards => write!(
                f,
                "a stripe has at least 1 data and 1 parity shard, and at most {SHARDS_MAX} in all"
            ),
            Self::StripeBytes(longest) => write!(
                f,
                "with blocks of {longest} bytes a stripe would have more than {} MiB: take fewer \
                 shards, or smaller blocks (--profile kubo-default)",
                STRIPE_BYTES_MAX >> 20
            ),
        }
    }
}

impl std::error::Error for ShapeError {}

impl Shape {
    /// Stripes of `data` and `parity` shards.
    ///
    /// # Errors
    /// [`ShapeError::Shards`].
    pub fn new(data: u64, parity: u64) -> Result<Self, ShapeError> {
        let max = SHARDS_MAX as u64;
        if data == 0 || parity == 0 || data > max || parity > max || data + parity > max {
            return Err(ShapeError::Shards);
        }
        let small = |n: u64| u16::try_from(n).expect("at most 256");
        Ok(Self { data: small(data), parity: small(parity) })
    }

    /// Data shards of a stripe, k.
    pub const fn data(self) -> usize {
        self.data as usize
    }

    /// Parity shards of a stripe, m.
    pub const fn parity(self) -> usize {
        self.parity as usize
    }

    /// All shards of a stripe.
    pub const fn shards(self) -> usize {
        self.data() + self.parity()
    }

    /// Checks that a stripe with a shard of `longest` bytes is within the limit.
    ///
    /// # Errors
    /// [`ShapeError::StripeBytes`].
    pub const fn check_longest(self, longest: usize) -> Result<(), ShapeError> {
        let too_long =
            longest > BLOCK_BYTES_MAX || self.shards() as u64 * longest as u64 > STRIPE_BYTES_MAX;
        if too_long { Err(ShapeError::StripeBytes(longest)) } else { Ok(()) }
    }
}
