//! The open pack: appended to in whole aligned pieces, past the page cache where that can be.

use super::record::PACK_HEADER;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Bytes of one write past the page cache, and of what may wait for it.
const STAGING_BYTES: usize = 1 << 20;
/// What O_DIRECT wants offsets, lengths and memory to be multiples of.
const ALIGNMENT: usize = 4_096;
/// A pack that has this many bytes is left, and the next one begun.
pub(super) const PACK_BYTES_MAX: u64 = 1 << 30;

/// The file of a pack.
pub(super) fn pack_path(packs: &Path, number: u32) -> PathBuf {
    packs.join(format!("{number:08}.pack"))
}

/// The numbers of the packs in a directory, in order.
pub(super) fn pack_numbers(packs: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(packs)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".pack"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The pack that is written now.
///
/// Writing through the page cache costs more than all else on the way of a block, so whole
/// pieces go past it; the tail goes through it when somebody waits for a sync, and is written
/// once more, the same bytes, when its piece is full.
pub(super) struct OpenPack {
    pub(super) number: u32,
    /// For the tail, and for all where O_DIRECT is refused.
    file: File,
    direct: Option<File>,
    staging: Vec<u8>,
    /// Where in `staging` its first aligned byte is.
    aligned_at: usize,
    /// Offset in the file of the staging's first byte, a multiple of [`STAGING_BYTES`].
    staged_from: u64,
    staged: usize,
    /// Up to here the file has the bytes.
    written: u64,
}

impl OpenPack {
    /// Begins a pack that is not there yet.
    pub(super) fn create(packs: &Path, number: u32) -> io::Result<Self> {
        let path = pack_path(packs, number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let mut pack = Self::new(number, file, &path);
        pack.append(&PACK_HEADER)?;
        pack.flush()?;
        // The name must not be lost while what it names is kept.
        File::open(packs)?.sync_all()?;
        Ok(pack)
    }

    /// Goes on with a pack whose sound part ends at `end`; what stands behind it is cut off.
    pub(super) fn resume(packs: &Path, number: u32, end: u64) -> io::Result<Self> {
        let path = pack_path(packs, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        if file.metadata()?.len() != end {
            file.set_len(end)?;
            file.sync_all()?;
        }
        let mut pack = Self::new(number, file, &path);
        pack.staged_from = end - end % STAGING_BYTES as u64;
        pack.staged = usize::try_from(end - pack.staged_from).expect("less than a piece");
        let (from, to) = (pack.aligned_at, pack.aligned_at + pack.staged);
        pack.file.read_exact_at(&mut pack.staging[from..to], pack.staged_from)?;
        pack.written = end;
        Ok(pack)
    }

    fn new(number: u32, file: File, path: &Path) -> Self {
        let staging = vec![0; STAGING_BYTES + ALIGNMENT];
        let aligned_at = staging.as_ptr().align_offset(ALIGNMENT);
        assert!(aligned_at < ALIGNMENT, "bytes can be aligned to a page");
        // Refused by tmpfs and others: then everything goes through the page cache.
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok();
        Self { number, file, direct, staging, aligned_at, staged_from: 0, staged: 0, written: 0 }
    }

    /// Where the next byte goes.
    pub(super) fn end(&self) -> u64 {
        self.staged_from + self.staged as u64
    }

    /// Appends; whole pieces go to the file.
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = STAGING_BYTES - self.staged;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            let at = self.aligned_at + self.staged;
            self.staging[at..at + now.len()].copy_from_slice(now);
            self.staged += now.len();
            bytes = later;
            if self.staged == STAGING_BYTES {
                self.write_piece()?;
            }
        }
        Ok(())
    }

    fn write_piece(&mut self) -> io::Result<()> {
        let piece = &self.staging[self.aligned_at..self.aligned_at + STAGING_BYTES];
        if let Some(direct) = &self.direct
            && let Err(error) = direct.write_all_at(piece, self.staged_from)
        {
            if error.kind() != io::ErrorKind::InvalidInput {
                return Err(error);
            }
            log::info!("this file system takes no direct writes; going through the page cache");
            self.direct = None;
        }
        if self.direct.is_none() {
            self.file.write_all_at(piece, self.staged_from)?;
        }
        self.staged_from += STAGING_BYTES as u64;
        self.staged = 0;
        self.written = self.staged_from;
        Ok(())
    }

    /// Hands the tail to the file, so that readers find all of it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.written < self.end() {
            let tail = &self.staging[self.aligned_at..self.aligned_at + self.staged];
            self.file.write_all_at(tail, self.staged_from)?;
            self.written = self.end();
        }
        Ok(())
    }

    /// After this, what was appended outlives a power cut.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync_data()
    }

    /// Forgets what was appended behind `end`, after a write that failed.
    pub(super) fn rewind(&mut self, end: u64) -> io::Result<()> {
        let restart = end - end % STAGING_BYTES as u64;
        if restart != self.staged_from {
            let kept = usize::try_from(end - restart).expect("less than a piece");
            let (from, to) = (self.aligned_at, self.aligned_at + kept);
            self.file.read_exact_at(&mut self.staging[from..to], restart)?;
            self.staged_from = restart;
        }
        self.staged = usize::try_from(end - self.staged_from).expect("less than a piece");
        self.written = self.written.min(end);
        self.file.set_len(self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_in_any_pieces_is_in_the_file_and_a_resumed_pack_goes_on_behind_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut pack = OpenPack::create(dir.path(), 1).unwrap();
        let mut expected = PACK_HEADER.to_vec();
        for n in 0..40_usize {
            let bytes = vec![n as u8; n * 7_919];
            pack.append(&bytes).unwrap();
            expected.extend(&bytes);
            if n % 7 == 0 {
                pack.sync().unwrap();
                let end = pack.end();
                pack = OpenPack::resume(dir.path(), 1, end).unwrap();
            }
        }
        pack.append(b"to be forgotten").unwrap();
        pack.rewind(expected.len() as u64).unwrap();
        pack.sync().unwrap();
        assert_eq!(std::fs::read(pack_path(dir.path(), 1)).unwrap(), expected);
    }
}
