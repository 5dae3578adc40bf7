//! A data directory: its version, and the lock by which one process has it.

use super::StoreError;
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// The version of the data directory, kept in its file VERSION.
const DIRECTORY_VERSION: &str = "1";
/// Bytes of another version that are told, whatever stands there.
const VERSION_SHOWN_MAX: usize = 32;

/// Makes or checks the directory, and locks it.
pub(super) fn prepare(dir: &Path, create: bool) -> Result<File, StoreError> {
    let version = dir.join("VERSION");
    match fs::read(&version) {
        Ok(text) if text.trim_ascii() == DIRECTORY_VERSION.as_bytes() => {}
        Ok(text) => {
            let text = text.trim_ascii().escape_ascii().take(VERSION_SHOWN_MAX);
            return Err(StoreError::Newer(text.map(char::from).collect()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            create_lasting(&dir.join("packs"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::Missing(dir.into()));
        }
        Err(error) => return Err(error.into()),
    }
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"))?;
    lock.try_lock().map_err(|_| StoreError::Locked)?;
    if !version.exists() {
        // Whole or not there at all: without it nothing that was stored would be found again.
        let draft = version.with_extension("new");
        let mut file = File::create(&draft)?;
        file.write_all(format!("{DIRECTORY_VERSION}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &version)?;
        File::open(dir)?.sync_all()?;
    }
    Ok(lock)
}

/// Makes a directory and those above it, and their names last.
fn create_lasting(dir: &Path) -> io::Result<()> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing = dir.ancestors().take_while(is_missing).count();
    fs::create_dir_all(dir)?;
    for parent in dir.canonicalize()?.ancestors().skip(1).take(missing) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_left_half_made_is_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("not/there/yet");
        assert!(matches!(prepare(&store, false), Err(StoreError::Missing(_))));
        drop(prepare(&store, true).unwrap());
        // As a process that was killed leaves it.
        fs::remove_file(store.join("VERSION")).unwrap();
        fs::write(store.join("VERSION.new"), "").unwrap();
        let lock = prepare(&store, true).unwrap();
        assert_eq!(fs::read(store.join("VERSION")).unwrap(), b"1\n");
        assert!(matches!(prepare(&store, false), Err(StoreError::Locked)));
        drop(lock);
        drop(prepare(&store, false).unwrap());
    }
}
