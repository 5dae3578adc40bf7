//! What a store lies on: files that may forget what was not synced. The tests have one that does.

use super::StoreError;
use super::index;
use rusqlite::Connection;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs};
use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::{DerefMut, Range},
    os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// What O_DIRECT wants offsets, lengths and memory to be multiples of.
pub const ALIGNMENT: usize = 4_096;

/// An open connection to the index. Whoever opened it may have a use for it when it is let go.
pub type Index = Box<dyn DerefMut<Target = Connection> + Send>;

/// Where packs and index are kept.
///
/// After a power cut a pack holds what was synced; of what was written since, any part may be
/// there. The index holds some commit, perhaps not the last.
pub trait Medium: Send + Sync {
    /// The numbers of the packs, in order.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn packs(&self) -> io::Result<Vec<u32>>;

    /// Makes a pack. Its name lasts once [`Self::sync_names`] returns.
    ///
    /// # Errors
    /// If there is one, or it cannot be made.
    fn create_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>>;

    /// Opens a pack for reading and writing.
    ///
    /// # Errors
    /// If there is none, or it cannot be opened.
    fn open_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>>;

    /// Opens a pack for reading.
    ///
    /// # Errors
    /// As [`Self::open_pack`].
    fn read_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>>;

    /// Removes a pack, for good once [`Self::sync_names`] returns.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn remove_pack(&self, number: u32) -> io::Result<()>;

    /// Keeps a copy of a pack's header apart from the pack, so that no single sector holds all that
    /// it takes to read it. The copy lasts when this returns, and goes with the pack.
    ///
    /// # Errors
    /// If it cannot be written; the pack is as it was.
    fn keep_header(&self, number: u32, header: &[u8]) -> io::Result<()>;

    /// Returns the copy of a pack's header, if one was kept.
    ///
    /// # Errors
    /// If it cannot be read.
    fn kept_header(&self, number: u32) -> io::Result<Option<Vec<u8>>>;

    /// Makes it last which packs there are.
    ///
    /// # Errors
    /// If the file system fails; a pack that was made since the last time may be lost then, and one
    /// that was removed may come back.
    fn sync_names(&self) -> io::Result<()>;

    /// Opens the index for writing, an empty one where there is none; `None` if it is damaged or
    /// of another version.
    ///
    /// # Errors
    /// If it cannot be opened at all.
    fn open_index(&self) -> Result<Option<Index>, StoreError>;

    /// Opens the index for reading beside the writer.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn read_index(&self) -> Result<Index, StoreError>;

    /// Throws the index away.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn discard_index(&self) -> io::Result<()>;

    /// The index is damaged: it is not used when it is opened next, until it is thrown away.
    fn doubt_index(&self);

    /// Told after each commit of the index.
    fn committed(&self, _index: &mut Connection) {}

    /// Sets space aside, or gives it free for a deletion.
    fn set_reserve(&self, kept: bool);

    /// Bytes that are taken on disk beside the packs.
    fn other_bytes(&self) -> u64;

    /// Bytes that are free on the disk.
    fn free_bytes(&self) -> u64;
}

/// One pack's file.
pub trait PackFile: Send + Sync {
    /// Its length.
    ///
    /// # Errors
    /// If the file system fails.
    fn size(&self) -> io::Result<u64>;

    /// Bytes that it takes on disk.
    ///
    /// # Errors
    /// If the file system fails.
    fn allocated(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] behind the end; or if the file system fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer` from `offset` on, from the drive and not from the page cache, as far as the
    /// system allows: a wrong page in memory is no verdict on the drive.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    fn read_fresh_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buffer, offset)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// If the file system fails; some of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or lengthens it by zeros.
    ///
    /// # Errors
    /// If the file system fails.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes everything written so far last.
    ///
    /// # Errors
    /// If the file system fails; what was not synced before may be lost then.
    fn sync(&self) -> io::Result<()>;

    /// Gives the space of a range back; it reads as zeros, or as before.
    ///
    /// # Errors
    /// If the file system cannot.
    fn punch(&self, range: Range<u64>) -> io::Result<()>;
}

/// A data directory.
pub(super) struct Directory {
    dir: PathBuf,
    cache_kib: usize,
    reserve_bytes: u64,
}

/// An index of at most this size is checked as a whole at each start.
const CHECKED_INDEX_BYTES: u64 = 32 << 20;

impl Directory {
    /// The store in `dir`, with so much space kept back for deletions.
    pub(super) fn new(dir: &Path, cache_kib: usize, reserve_bytes: u64) -> Self {
        Self { dir: dir.into(), cache_kib, reserve_bytes }
    }

    fn pack_path(&self, number: u32) -> PathBuf {
        self.dir.join("packs").join(format!("{number:08}.pack"))
    }

    fn header_path(&self, number: u32) -> PathBuf {
        self.dir.join("packs").join(format!("{number:08}.seed"))
    }

    /// Is there if the index is not to be used.
    fn doubt_path(&self) -> PathBuf {
        self.dir.join("index.damaged")
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.sqlite")
    }
}

impl Medium for Directory {
    fn packs(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.dir.join("packs"))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".pack"));
            numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn create_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>> {
        let path = self.pack_path(number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(Box::new(DirectPack::new(file, &path)))
    }

    fn open_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>> {
        let path = self.pack_path(number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Box::new(DirectPack::new(file, &path)))
    }

    fn read_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>> {
        let file = File::open(self.pack_path(number))?;
        Ok(Box::new(DirectPack { file, direct: None, is_refused: AtomicBool::new(true) }))
    }

    fn remove_pack(&self, number: u32) -> io::Result<()> {
        fs::remove_file(self.pack_path(number))?;
        // A copy that stays is of no use, and does no harm: the pack's own header leads.
        let _ = fs::remove_file(self.header_path(number));
        Ok(())
    }

    fn keep_header(&self, number: u32, header: &[u8]) -> io::Result<()> {
        let path = self.header_path(number);
        let draft = path.with_extension("seed.new");
        let mut file = File::create(&draft)?;
        io::Write::write_all(&mut file, header)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        self.sync_names()
    }

    fn kept_header(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.header_path(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(self.dir.join("packs"))?.sync_all()
    }

    fn open_index(&self) -> Result<Option<Index>, StoreError> {
        let path = self.index_path();
        if self.doubt_path().exists() {
            return Ok(None);
        }
        let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= CHECKED_INDEX_BYTES);
        // A write-ahead log that holds something tells of a crash.
        let log = fs::metadata(self.dir.join("index.sqlite-wal"));
        let check = small || log.is_ok_and(|log| log.len() > 0);
        let opened = index::open(&path, self.cache_kib, self.reserve_bytes)?;
        let sound = opened.filter(|index| !check || is_sound(index));
        Ok(sound.map(|index| Box::new(Box::new(index)) as Index))
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        Ok(Box::new(Box::new(index::open_reader(&self.index_path(), self.cache_kib)?)))
    }

    fn discard_index(&self) -> io::Result<()> {
        for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let _ = fs::remove_file(self.doubt_path());
        Ok(())
    }

    fn doubt_index(&self) {
        if let Err(error) = File::create(self.doubt_path()) {
            log::error!("delete index.sqlite, as it cannot be marked as damaged: {error}");
        }
    }

    fn set_reserve(&self, kept: bool) {
        let path = self.dir.join("reserve");
        if !kept {
            let _ = fs::remove_file(path);
        } else if !path.exists() {
            let made = File::create(&path).and_then(|file| {
                Ok(fallocate(&file, FallocateFlags::empty(), 0, self.reserve_bytes)?)
            });
            if let Err(error) = made {
                log::debug!("no space is kept back for deletions: {error}");
                let _ = fs::remove_file(path);
            }
        }
    }

    fn other_bytes(&self) -> u64 {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let kept = files.filter_map(|file| file.metadata().ok()).filter(fs::Metadata::is_file);
        kept.map(|file| file.blocks() * 512).sum()
    }

    fn free_bytes(&self) -> u64 {
        statvfs(&self.dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// Whether the drive could not read what was asked for: damage like any other.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Whether SQLite finds nothing wrong with it.
pub(super) fn is_sound(index: &Connection) -> bool {
    index
        .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        .is_ok_and(|answer| answer == "ok")
}

/// A file that is written past the page cache where that can be: writing through it costs more
/// than all else on the way of a block.
struct DirectPack {
    file: File,
    direct: Option<File>,
    is_refused: AtomicBool,
}

impl DirectPack {
    fn new(file: File, path: &Path) -> Self {
        // Refused by tmpfs and others: then everything goes through the page cache.
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let direct = OpenOptions::new().write(true).custom_flags(direct).open(path).ok();
        Self { file, direct, is_refused: AtomicBool::new(false) }
    }
}

impl PackFile for DirectPack {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_fresh_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        // Whole pages, or the kernel keeps those at both ends. What it cannot drop it keeps.
        let from = offset - offset % ALIGNMENT as u64;
        let end = (offset + buffer.len() as u64).next_multiple_of(ALIGNMENT as u64);
        if let Some(len) = std::num::NonZeroU64::new(end - from) {
            let _ = fadvise(&self.file, from, Some(len), Advice::DontNeed);
        }
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_aligned = bytes.as_ptr().align_offset(ALIGNMENT) == 0
            && bytes.len().is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64);
        if let Some(direct) = &self.direct
            && is_aligned
            && !self.is_refused.load(Ordering::Relaxed)
        {
            match direct.write_all_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    log::info!("this file system takes no direct writes");
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                written => return written,
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, hole, range.start, range.end - range.start)?)
    }
}
