//! The node's secret files: its identity, and how such files are written.

use barrow_wire::Identity;
use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Reads the identity of a data directory, or makes one.
///
/// # Errors
/// If the file cannot be read or made, or is none.
pub fn identity(data_dir: &Path) -> io::Result<Identity> {
    let path = data_dir.join("identity");
    match fs::read(&path) {
        Ok(seed) => {
            let seed = seed.try_into().map_err(|_| {
                io::Error::other(format!("{} is no key of 32 bytes", path.display()))
            })?;
            Ok(Identity::from_seed(seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
            write_secret(&path, &seed)?;
            Ok(Identity::from_seed(seed))
        }
        Err(error) => Err(error),
    }
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}
