//! The open pack: appended to in whole aligned pieces.

use super::{
    medium::{ALIGNMENT, Medium, PackFile},
    record::{PACK_HEADER_BYTES, PackHeader},
};
use std::{
    hash::{BuildHasher as _, RandomState},
    io,
};

/// The pack that is written now.
///
/// Whole pieces go to the file when they are full; the tail goes there when somebody waits for a
/// sync, and is written once more, the same bytes, when its piece is full.
pub(super) struct OpenPack {
    pub(super) number: u32,
    pub(super) seed: u64,
    pub(super) file: Box<dyn PackFile>,
    /// Bytes of one write, and of what may wait for it; a multiple of [`ALIGNMENT`].
    piece_bytes: usize,
    staging: Vec<u8>,
    /// Where in `staging` its first aligned byte is.
    aligned_at: usize,
    /// Offset in the file of the staging's first byte, a multiple of `piece_bytes`.
    pub(super) staged_from: u64,
    staged: usize,
    /// Up to here the file has the bytes.
    written: u64,
}

impl OpenPack {
    /// Begins a pack that is not there yet. Its name does not last yet.
    pub(super) fn create(medium: &dyn Medium, number: u32, piece_bytes: usize) -> io::Result<Self> {
        let file = medium.create_pack(number)?;
        // Not from any clock: the operating system's randomness is behind it.
        let seed = RandomState::new().hash_one(number);
        let mut pack = Self::new(number, seed, file, piece_bytes);
        let begun = pack.append(&PackHeader { seed }.to_bytes()).and_then(|()| pack.flush());
        if let Err(error) = begun {
            // As on a full disk: the next try makes the same one.
            let _ = medium.remove_pack(number);
            return Err(error);
        }
        if let Err(error) = medium.keep_header(number, &PackHeader { seed }.to_bytes()) {
            // The next start tries again; until then one sector holds the only header.
            log::warn!("pack {number}: no copy of its header is kept: {error}");
        }
        Ok(pack)
    }

    /// Goes on with a pack whose sound part ends at `end`; what stands behind it is cut off.
    pub(super) fn resume(
        medium: &dyn Medium,
        number: u32,
        seed: u64,
        end: u64,
        piece_bytes: usize,
    ) -> io::Result<Self> {
        let file = medium.open_pack(number)?;
        if file.size()? != end {
            file.set_len(end)?;
            file.sync()?;
        }
        let mut pack = Self::new(number, seed, file, piece_bytes);
        pack.staged_from = end - end % piece_bytes as u64;
        pack.staged = usize::try_from(end - pack.staged_from).expect("less than a piece");
        let (from, to) = (pack.aligned_at, pack.aligned_at + pack.staged);
        pack.file.read_at(&mut pack.staging[from..to], pack.staged_from)?;
        pack.written = end;
        Ok(pack)
    }

    fn new(number: u32, seed: u64, file: Box<dyn PackFile>, piece_bytes: usize) -> Self {
        assert!(piece_bytes.is_multiple_of(ALIGNMENT), "pieces are whole pages");
        let staging = vec![0; piece_bytes + ALIGNMENT];
        let aligned_at = staging.as_ptr().align_offset(ALIGNMENT);
        assert!(aligned_at < ALIGNMENT, "bytes can be aligned to a page");
        Self {
            number,
            seed,
            file,
            piece_bytes,
            staging,
            aligned_at,
            staged_from: 0,
            staged: 0,
            written: 0,
        }
    }

    /// Where the next byte goes.
    pub(super) fn end(&self) -> u64 {
        self.staged_from + self.staged as u64
    }

    /// Up to here the file has the bytes; what is behind is in memory alone.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Appends; whole pieces go to the file.
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.piece_bytes - self.staged;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            let at = self.aligned_at + self.staged;
            self.staging[at..at + now.len()].copy_from_slice(now);
            self.staged += now.len();
            bytes = later;
            if self.staged == self.piece_bytes {
                self.write_staged()?;
                self.staged_from += self.piece_bytes as u64;
                self.staged = 0;
            }
        }
        Ok(())
    }

    fn write_staged(&mut self) -> io::Result<()> {
        let staged = &self.staging[self.aligned_at..self.aligned_at + self.staged];
        self.file.write_at(staged, self.staged_from)?;
        self.written = self.end();
        Ok(())
    }

    /// Hands the tail to the file, so that readers find all of it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.written < self.end() { self.write_staged() } else { Ok(()) }
    }

    /// Forgets what was appended behind `end`, after a write that failed.
    pub(super) fn rewind(&mut self, end: u64) -> io::Result<()> {
        let restart = end - end % self.piece_bytes as u64;
        if restart != self.staged_from {
            let kept = usize::try_from(end - restart).expect("less than a piece");
            let (from, to) = (self.aligned_at, self.aligned_at + kept);
            self.file.read_at(&mut self.staging[from..to], restart)?;
            self.staged_from = restart;
        }
        self.staged = usize::try_from(end - self.staged_from).expect("less than a piece");
        self.written = self.written.min(end);
        self.file.set_len(self.written)
    }
}

/// Where a pack's first record is.
pub(super) const FIRST_RECORD: u64 = PACK_HEADER_BYTES as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local_store::medium::Directory;

    const PIECE_BYTES: usize = 64 << 10;

    #[test]
    fn what_was_appended_in_any_pieces_is_in_the_file_and_a_resumed_pack_goes_on_behind_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::create_dir(dir.path().join("packs")).unwrap();
        let medium = Directory::new(dir.path(), 64, 0);
        let mut pack = OpenPack::create(&medium, 1, PIECE_BYTES).unwrap();
        let seed = pack.seed;
        let mut expected = PackHeader { seed }.to_bytes().to_vec();
        for n in 0..40_usize {
            let bytes = vec![n as u8; n * 7_919];
            pack.append(&bytes).unwrap();
            expected.extend(&bytes);
            if n % 7 == 0 {
                pack.flush().unwrap();
                let end = pack.end();
                pack = OpenPack::resume(&medium, 1, seed, end, PIECE_BYTES).unwrap();
            }
        }
        pack.append(b"to be forgotten").unwrap();
        pack.rewind(expected.len() as u64).unwrap();
        pack.flush().unwrap();
        let file = std::fs::read(dir.path().join("packs/00000001.pack")).unwrap();
        assert_eq!(file, expected);
    }
}
