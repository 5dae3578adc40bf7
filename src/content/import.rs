//! From a file, a directory or a stream to blocks. Memory is a few chunks, whatever the size.

use crate::{
    base::pool::{Buffer, Pool},
    content::protect::ProtectError,
    data::{
        block::Block,
        unixfs::{Chunker, DirectoryBuilder, FileBuilder, Leaf, Profile, UnixFsError, symlink},
    },
};
use barrow_wire::Cid;
use crossbeam::channel::{Receiver, bounded};
use rayon::ThreadPool;
use std::{
    collections::VecDeque,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Chunks being hashed at one time; each holds a buffer of the pool.
const HASHING_MAX: usize = 6;
/// Directories within directories at most.
const DEPTH_MAX: usize = 128;

/// Why something was not imported.
#[derive(Debug)]
pub enum ImportError {
    /// It cannot be read.
    Read(Option<PathBuf>, io::Error),
    /// A name that is not UTF-8, or a device, socket or pipe.
    Unsupported(PathBuf),
    /// More entries than a directory takes, or too deep.
    Tree(UnixFsError),
    /// It cannot be protected.
    Protect(ProtectError),
    /// Hashing did not end: a bug, told in the log.
    Worker,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(Some(path), error) => write!(f, "{}: {error}", path.display()),
            Self::Read(None, error) => write!(f, "reading: {error}"),
            Self::Unsupported(path) => {
                write!(f, "{:?} is no file, directory or link with a UTF-8 name", path.display())
            }
            Self::Tree(error) => write!(f, "building the tree: {error}"),
            Self::Protect(error) => write!(f, "protecting: {error}"),
            Self::Worker => f.write_str("a worker failed; the log says why"),
        }
    }
}

impl std::error::Error for ImportError {}

impl From<ProtectError> for ImportError {
    fn from(error: ProtectError) -> Self {
        Self::Protect(error)
    }
}

impl From<UnixFsError> for ImportError {
    fn from(error: UnixFsError) -> Self {
        Self::Tree(error)
    }
}

/// Takes the leaves of a file as they are imported.
pub trait LeafHook {
    /// Takes a leaf's CID and block. It may not wait for memory: the importer holds some.
    ///
    /// # Errors
    /// If the leaf cannot be taken; the import ends with it.
    fn leaf(&mut self, cid: Cid, block: &Block) -> Result<(), ProtectError>;

    /// Whether something of it waits for memory.
    fn is_backed_up(&self) -> bool;

    /// Lets go of all buffers, and waits for the memory that it needs. The importer holds none then.
    ///
    /// # Errors
    /// As [`Self::leaf`].
    fn settle(&mut self) -> Result<(), ProtectError>;
}

/// Makes blocks of what it is given, and hands each to a sink.
pub struct Importer<'a> {
    /// How files become blocks.
    pub profile: Profile,
    /// Where files are cut.
    pub chunker: Chunker,
    /// Where chunks are read to.
    pub pool: &'a Pool,
    /// Who hashes.
    pub workers: &'a Arc<ThreadPool>,
    /// Takes every block, each before the one that links to it.
    pub sink: &'a mut dyn FnMut(Block),
    /// Told of each chunk's block before the sink has it.
    pub leaf: Option<&'a mut dyn LeafHook>,
    /// Told of bytes as they are read.
    pub progress: &'a mut dyn FnMut(u64),
}

type Hashed = Result<(Leaf, Block), UnixFsError>;

impl Importer<'_> {
    /// Imports all that `reader` gives as one file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn stream(&mut self, reader: &mut dyn Read) -> Result<Leaf, ImportError> {
        let mut builder = FileBuilder::new(self.profile);
        let mut hashing: VecDeque<Receiver<Hashed>> = VecDeque::new();
        // What was read behind the last cut; nothing where chunks have one size.
        let mut rest: Vec<u8> = Vec::new();
        let mut ended = false;
        loop {
            let chunk_bytes = self.chunker.bytes_max();
            let mut buffer = self.take_buffer(&mut builder, &mut hashing)?;
            let window = &mut buffer.as_mut()[..chunk_bytes];
            window[..rest.len()].copy_from_slice(&rest);
            let mut filled = rest.len();
            if !ended {
                let read = fill(reader, &mut window[filled..])
                    .map_err(|error| ImportError::Read(None, error))?;
                (self.progress)(read as u64);
                filled += read;
                ended = filled < chunk_bytes;
            }
            if filled == 0 {
                break;
            }
            let len = self.chunker.cut(&window[..filled]);
            rest.clear();
            rest.extend_from_slice(&window[len..filled]);
            let buffer = fitting(self.pool, buffer, len, chunk_bytes);
            let (profile, (done, hashed)) = (self.profile, bounded(1));
            self.workers.spawn(move || {
                // The importer may have given up.
                let _ = done.send(Leaf::of_chunk(profile, buffer.freeze(0..len)));
            });
            hashing.push_back(hashed);
            if hashing.len() == HASHING_MAX {
                self.take_hashed(&mut builder, &mut hashing)?;
            }
            if ended && rest.is_empty() {
                break;
            }
        }
        while !hashing.is_empty() {
            self.take_hashed(&mut builder, &mut hashing)?;
        }
        Ok(builder.finish(self.sink)?)
    }

    /// A buffer for the next chunk. Several imports at once may hold all of the pool between them, so
    /// none waits for a buffer while it holds one: what is hashed goes to the sink first, which needs
    /// no more memory to let go of it.
    fn take_buffer(
        &mut self,
        builder: &mut FileBuilder,
        hashing: &mut VecDeque<Receiver<Hashed>>,
    ) -> Result<Buffer, ImportError> {
        let chunk_bytes = self.chunker.bytes_max();
        let is_backed_up = self.leaf.as_ref().is_some_and(|leaf| leaf.is_backed_up());
        if !is_backed_up && let Some(buffer) = self.pool.try_take(chunk_bytes) {
            return Ok(buffer);
        }
        while !hashing.is_empty() {
            self.take_hashed(builder, hashing)?;
        }
        if let Some(leaf) = &mut self.leaf {
            leaf.settle()?;
        }
        Ok(self.pool.take(chunk_bytes))
    }

    /// Makes a directory that has `entry` as its only one, under this name.
    ///
    /// # Errors
    /// [`ImportError::Unsupported`] if it has no name that an entry may have.
    pub fn wrap(&mut self, name: String, entry: Leaf) -> Result<Leaf, ImportError> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(ImportError::Unsupported(name.into()));
        }
        let mut builder = DirectoryBuilder::new(self.profile);
        builder.push(name, entry);
        Ok(builder.finish(self.sink)?)
    }

    fn take_hashed(
        &mut self,
        builder: &mut FileBuilder,
        hashing: &mut VecDeque<Receiver<Hashed>>,
    ) -> Result<(), ImportError> {
        let Some(first) = hashing.pop_front() else { return Ok(()) };
        let (leaf, block) = first.recv().map_err(|_| ImportError::Worker)??;
        if let Some(tell) = &mut self.leaf {
            tell.leaf(leaf.cid, &block)?;
        }
        (self.sink)(block);
        Ok(builder.push(leaf, self.sink)?)
    }

    /// Imports a file or a directory with all below it; links stay links.
    ///
    /// # Errors
    /// If something below cannot be read or named.
    pub fn path(&mut self, path: &Path) -> Result<Leaf, ImportError> {
        // The path that was given is followed, those below are not.
        let kind =
            fs::metadata(path).map_err(|error| ImportError::Read(Some(path.into()), error))?;
        self.entry(path, kind.file_type(), 0)
    }

    fn entry(
        &mut self,
        path: &Path,
        kind: fs::FileType,
        depth: usize,
    ) -> Result<Leaf, ImportError> {
        let named = |error| ImportError::Read(Some(path.into()), error);
        if kind.is_dir() {
            return self.directory(path, depth);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(named)?;
            let target = target.to_str().ok_or_else(|| ImportError::Unsupported(path.into()))?;
            return Ok(symlink(self.profile, target, self.sink)?);
        }
        if !kind.is_file() {
            return Err(ImportError::Unsupported(path.into()));
        }
        let mut file = fs::File::open(path).map_err(named)?;
        match self.stream(&mut file) {
            Err(ImportError::Read(None, error)) => Err(named(error)),
            done => done,
        }
    }

    fn directory(&mut self, path: &Path, depth: usize) -> Result<Leaf, ImportError> {
        if depth == DEPTH_MAX {
            return Err(UnixFsError::TooDeep.into());
        }
        let named = |error| ImportError::Read(Some(path.into()), error);
        let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(named)?.collect();
        let mut builder = DirectoryBuilder::new(self.profile);
        for entry in entries.map_err(named)? {
            let path = entry.path();
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| ImportError::Unsupported(path.clone()))?;
            let kind = entry.file_type().map_err(named)?;
            builder.push(name, self.entry(&path, kind, depth + 1)?);
        }
        Ok(builder.finish(self.sink)?)
    }
}

/// What was read, in a buffer of its size if there is one: small files, of which thousands may wait
/// for the store, would take the pool with a whole chunk's buffer each.
fn fitting(pool: &Pool, buffer: Buffer, len: usize, chunk_bytes: usize) -> Buffer {
    if Pool::counted_bytes(len) == Pool::counted_bytes(chunk_bytes) {
        return buffer;
    }
    // Not waited for, as all who wait here have a buffer already.
    let Some(mut small) = pool.try_take(len) else { return buffer };
    small.as_mut()[..len].copy_from_slice(&buffer.as_ref()[..len]);
    small
}

/// Reads until `buffer` is full or there is no more.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_that_wait_for_the_store_hold_small_buffers() {
        let pool = Pool::new(64 << 20);
        let workers = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let mut waiting = Vec::new();
        let mut importer = Importer {
            profile: Profile::default(),
            chunker: Profile::default().chunker(),
            pool: &pool,
            workers: &Arc::new(workers),
            sink: &mut |block| waiting.push(block),
            leaf: None,
            progress: &mut |_| {},
        };
        for n in 0..40_u8 {
            importer.stream(&mut &[n; 100][..]).unwrap();
        }
        assert_eq!(waiting.len(), 40);
        assert!(waiting.iter().zip(0..).all(|(block, n)| block.data()[..] == [n; 100]));
        assert_eq!(pool.bytes_taken(), 40 * Pool::counted_bytes(100));
    }
}
