//! The arithmetic of stripes: rows of factors, and their application to shards of any length.

use super::{
    Shape,
    field::Gf256,
    kernel::{self, Kernel},
    simd::ROWS_MAX,
};
use reed_solomon_erasure::ReedSolomon;
use std::sync::Arc;

/// Bytes of each shard that are worked on at one time where there are more rows than registers: it
/// is read again, from a cache. Where there are not, long ways suit the memory better.
const COLUMN_BYTES: usize = 16 << 10;

/// A Reed-Solomon code, byte-compatible with `reed_solomon_erasure::galois_8`. Cheap to clone.
///
/// The crate makes the matrix and its inverses, and keeps the inverses of late. We ask it for
/// the factors alone, by giving it the unit vectors as shards, and apply them on our own: so no
/// more than the sums must be in memory, shards may come one by one and be of different lengths,
/// and the zeros that pad them are never touched.
///
/// ```
/// use barrow::erasure::{Code, Shape};
/// let code = Code::new(Shape::new(2, 1).unwrap());
/// let (a, b) = (b"first", b"second");
/// let mut parity = vec![vec![0; 6]];
/// code.add(code.parity_rows(), &[(0, a), (1, b)], &mut parity);
/// // The first is lost; the second and the parity give it.
/// let rows = code.rows(&[1, 2], &[0]);
/// let mut first = vec![vec![0; 6]];
/// code.add(&rows, &[(0, b), (1, &parity[0])], &mut first);
/// assert_eq!(first[0], b"first\0");
/// ```
#[derive(Clone)]
pub struct Code(Arc<Inner>);

struct Inner {
    shape: Shape,
    matrix: ReedSolomon<Gf256>,
    parity_rows: Vec<Vec<u8>>,
    kernel: Kernel,
}

impl Code {
    /// The code of a shape.
    pub fn new(shape: Shape) -> Self {
        Self::with_kernel(shape, kernel::best())
    }

    /// The code of a shape, with a kernel of choice: benches and tests compare them.
    pub fn with_kernel(shape: Shape, kernel: Kernel) -> Self {
        let (data, parity) = (shape.data(), shape.parity());
        let matrix = ReedSolomon::new(data, parity).expect("a shape is within the crate's bounds");
        let units: Vec<Vec<u8>> = (0..data).map(|at| unit(at, data)).collect();
        let mut parity_rows = vec![vec![0; data]; parity];
        matrix.encode_sep(&units, &mut parity_rows).expect("all shards are of one length");
        Self(Arc::new(Inner { shape, matrix, parity_rows, kernel }))
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// For each parity shard, the factors of the data shards.
    pub fn parity_rows(&self) -> &[Vec<u8>] {
        &self.0.parity_rows
    }

    /// For each of the `lost` shards, the factors of the `present` ones, in their order.
    ///
    /// # Panics
    /// If `present` are not exactly k different shards in rising order, or one lost is among them.
    pub fn rows(&self, present: &[usize], lost: &[usize]) -> Vec<Vec<u8>> {
        let (data, shards) = (self.0.shape.data(), self.0.shape.shards());
        assert_eq!(present.len(), data, "any k shards, and no more");
        assert!(present.windows(2).all(|pair| pair[0] < pair[1]), "in rising order");
        let mut units = vec![(vec![0; data], false); shards];
        for (at, shard) in present.iter().enumerate() {
            units[*shard] = (unit(at, data), true);
        }
        // What was rebuilt keeps the mark of being absent.
        self.0.matrix.reconstruct(&mut units).expect("k shards of one length are there");
        let row = |shard: &usize| {
            assert!(!units[*shard].1, "a lost shard is not present");
            units[*shard].0.clone()
        };
        lost.iter().map(row).collect()
    }

    /// Adds shards to sums: sum r grows by factor `rows[r][n]` times shard n, for each `(n,
    /// shard)`. A shard may be shorter than a sum, which has zeros there, but not longer.
    pub fn add<S: AsMut<[u8]>>(&self, rows: &[Vec<u8>], shards: &[(usize, &[u8])], sums: &mut [S]) {
        self.sum(rows, shards, sums, false);
    }

    /// As [`Self::add`], to sums that are taken for zeros, whatever is in them.
    pub fn begin<S: AsMut<[u8]>>(
        &self,
        rows: &[Vec<u8>],
        shards: &[(usize, &[u8])],
        sums: &mut [S],
    ) {
        self.sum(rows, shards, sums, true);
    }

    fn sum<S: AsMut<[u8]>>(
        &self,
        rows: &[Vec<u8>],
        shards: &[(usize, &[u8])],
        sums: &mut [S],
        fresh: bool,
    ) {
        let column_bytes = if rows.len() > ROWS_MAX { COLUMN_BYTES } else { usize::MAX };
        let mut start = 0;
        // No shard ends within a column.
        while let Some(shortest) = ends_behind(shards, start).min() {
            let end = shortest.min(start.saturating_add(column_bytes));
            let mut outs: Vec<&mut [u8]> =
                sums.iter_mut().map(|sum| &mut sum.as_mut()[start..end]).collect();
            let there = shards.iter().filter(|(_, shard)| shard.len() > start);
            let inputs: Vec<&[u8]> = there.clone().map(|(_, shard)| &shard[start..end]).collect();
            let factors: Vec<u8> =
                rows.iter().flat_map(|row| there.clone().map(|(at, _)| row[*at])).collect();
            self.0.kernel.sum(&factors, &inputs, &mut outs, fresh);
            start = end;
        }
        if fresh {
            sums.iter_mut().for_each(|sum| sum.as_mut()[start..].fill(0));
        }
    }
}

/// Where shards end, of those that reach behind `start`.
fn ends_behind(shards: &[(usize, &[u8])], start: usize) -> impl Iterator<Item = usize> {
    shards.iter().map(|(_, shard)| shard.len()).filter(move |len| *len > start)
}

fn unit(at: usize, len: usize) -> Vec<u8> {
    let mut unit = vec![0; len];
    unit[at] = 1;
    unit
}
