//! A file that a download is written to: whole, or not there under its name.

use super::{CliError, datasets::copy};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek as _, SeekFrom, Write},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// Writes all that `reader` returns to `file`, of `total` bytes if that is known. `content` names
/// what is downloaded, so that a draft of something else is never taken for one of this.
///
/// A device or a FIFO is written to as it is. Any other file gets its name only once it is whole:
/// until then its bytes are in a draft beside it, which another run goes on with.
pub(super) fn save(
    reader: Box<dyn Read>,
    file: &Path,
    total: Option<u64>,
    content: &str,
) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::Failed(format!("{}: {error}", file.display()));
    let cut = || CliError::Failed("cut off; run the command again to resume".into());
    let is_whole = |written| total.is_none_or(|total| written == total);
    // A link is followed: the file behind it is replaced, and the link stays.
    let target = match fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => {
            let message = format!("{} is a directory; name a file in it", file.display());
            return Err(CliError::Failed(message));
        }
        Ok(metadata) if !metadata.is_file() => {
            let mut out = File::options().write(true).open(file).map_err(failed)?;
            let written = copy(reader, &mut out, 0, total)?;
            return if is_whole(written) { Ok(()) } else { Err(cut()) };
        }
        Ok(_) => fs::canonicalize(file).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => file.to_path_buf(),
        Err(error) => return Err(failed(error)),
    };
    let mut draft = Draft::open(&target, content)?;
    let written = copy(reader, &mut draft, 0, total)?;
    if !is_whole(written) {
        return Err(cut());
    }
    draft.finish(&target).map_err(failed)
}

/// The bytes so far, locked for as long as it is open.
struct Draft {
    path: PathBuf,
    file: File,
    at: u64,
    /// Bytes from an earlier run that were not compared yet.
    old_end: u64,
    buffer: Vec<u8>,
}

impl Draft {
    /// Opens the draft of `content` for `target`, or makes it.
    fn open(target: &Path, content: &str) -> Result<Self, CliError> {
        let name = target.file_name().unwrap_or_default().as_bytes();
        let key = xxhash_rust::xxh3::xxh3_128(&[content.as_bytes(), b"\0", name].concat());
        // Of one length, so that a name as long as the file system allows has a draft too.
        let path = target.with_file_name(format!(".barrow-{key:032x}.part"));
        let failed = |error: io::Error| CliError::Failed(format!("{}: {error}", path.display()));
        loop {
            let mut options = File::options();
            let file = options.create(true).truncate(false).read(true).write(true);
            let file = file.open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let message = "another barrow writes it; wait until that one has ended";
                    return Err(CliError::Failed(format!("{}: {message}", target.display())));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let own = file.metadata().map_err(failed)?;
            // Between the opening and the lock another run may have finished, and given the file
            // that is open here its last name. Writing to it would change what is whole.
            let named = fs::metadata(&path).ok().map(|named| (named.dev(), named.ino()));
            if named == Some((own.dev(), own.ino())) {
                return Ok(Self { path, file, at: 0, old_end: own.len(), buffer: Vec::new() });
            }
        }
    }

    /// Gives the draft its name once its bytes and that name are on the disk.
    fn finish(self, target: &Path) -> io::Result<()> {
        self.file.set_len(self.at)?;
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for Draft {
    /// What an earlier run left is compared byte by byte, and written again from the first byte
    /// that differs: its length alone says nothing after a power cut.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.at < self.old_end {
            self.buffer.resize(bytes.len(), 0);
            let known = (self.old_end - self.at).min(bytes.len() as u64);
            let known = usize::try_from(known).expect("at most the length of a slice");
            self.file.seek(SeekFrom::Start(self.at))?;
            self.file.read_exact(&mut self.buffer[..known])?;
            if self.buffer[..known] == bytes[..known] {
                self.at += known as u64;
                return Ok(known);
            }
            self.old_end = self.at;
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        let written = self.file.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Box<dyn Read> {
        Box::new(io::Cursor::new(bytes.to_vec()))
    }

    fn draft_of(dir: &Path) -> PathBuf {
        let mut drafts = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        drafts.find(|path| path.extension().is_some_and(|ending| ending == "part")).unwrap()
    }

    #[test]
    fn a_draft_is_gone_on_with_as_far_as_its_bytes_are_the_contents() {
        let dir = tempfile::tempdir().unwrap();
        let (out, content) = (dir.path().join("out"), vec![7; 600_000]);
        let mut zeros = content.clone();
        zeros[100_000..].fill(0);
        let longer = [&content[..], b"tail"].concat();
        for part in [&content[..300_000], &content, &zeros, &longer, b"x", b""] {
            save(read(&content[..1]), &out, Some(2), "cid").unwrap_err();
            assert!(!out.exists());
            fs::write(draft_of(dir.path()), part).unwrap();
            save(read(&content), &out, Some(600_000), "cid").unwrap();
            assert!(fs::read(&out).unwrap() == content, "a part of {} bytes", part.len());
            fs::remove_file(&out).unwrap();
        }
    }

    #[test]
    fn two_runs_never_write_one_file_and_a_draft_of_other_content_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let first = Draft::open(&out, "cid/a").unwrap();
        assert!(Draft::open(&out, "cid/a").is_err());
        let other = Draft::open(&out, "cid/b").unwrap();
        assert_ne!(first.path, other.path);
        drop(first);
        Draft::open(&out, "cid/a").unwrap();
    }

    #[test]
    fn links_stay_links_directories_are_refused_and_the_longest_name_has_a_draft() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        save(read(b"new"), &link, Some(3), "cid").unwrap();
        assert!(link.is_symlink() && fs::read(&target).unwrap() == b"new");
        save(read(b"new"), &dir.path().join("n".repeat(255)), None, "cid").unwrap();
        assert!(save(read(b"new"), dir.path(), None, "cid").is_err());
        save(read(b"new"), Path::new("/dev/null"), Some(3), "cid").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
