//! What can go wrong in the store, for programs and for people.

use std::{fmt, io, path::PathBuf};

/// What went wrong in the store.
#[derive(Debug)]
pub enum StoreError {
    /// The file system failed; nothing that was acknowledged is lost.
    Io(io::Error),
    /// SQLite failed.
    Index(rusqlite::Error),
    /// The index holds something impossible; it is made anew when the store is opened next.
    BadIndex,
    /// The drive did not return a block just now. Nothing was changed, and a later read may succeed.
    Unreadable(io::Error),
    /// The index and this pack disagree about where blocks are. The pack is right.
    Misplaced(u32),
    /// Another process has the store open.
    Locked,
    /// There is no store in this directory.
    Missing(PathBuf),
    /// The directory was written by a newer barrow.
    Newer(String),
    /// A sync failed: nothing is written until the store is opened again.
    ReadOnly(String),
    /// It would take more bytes than the quota allows.
    OverQuota,
    /// An identity CID has no block to be stored.
    NotStorable,
    /// The node is stopping.
    Closed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the store's files: {error}"),
            Self::Index(error) => write!(f, "the store's index: {error}"),
            Self::BadIndex => {
                f.write_str("the store's index is damaged; it is made anew at the next start")
            }
            Self::Unreadable(error) => write!(f, "the drive cannot read a block now: {error}"),
            Self::Misplaced(pack) => {
                write!(f, "the store's index disagrees with pack {pack}; it is being corrected")
            }
            Self::Locked => f.write_str("another process has this store open"),
            Self::Missing(dir) => write!(f, "there is no store in {}", dir.display()),
            Self::Newer(version) => write!(
                f,
                "the store was written by a newer barrow (format {version}); nothing was touched"
            ),
            Self::ReadOnly(reason) => write!(
                f,
                "the store takes no writes since {reason}; start the node again and run verify"
            ),
            Self::OverQuota => f.write_str("the quota is used up"),
            Self::NotStorable => f.write_str("an identity CID carries its bytes itself"),
            Self::Closed => f.write_str("the node is stopping"),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// Whether the index is damaged.
    pub(crate) fn is_damaged_index(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            Self::Index(error) => {
                matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
                    // A field of another kind or size than was ever written.
                    || matches!(
                        error,
                        rusqlite::Error::IntegralValueOutOfRange(..)
                            | rusqlite::Error::InvalidColumnType(..)
                            | rusqlite::Error::FromSqlConversionFailure(..)
                    )
            }
            Self::BadIndex => true,
            Self::Io(_)
            | Self::Unreadable(_)
            | Self::Misplaced(_)
            | Self::Locked
            | Self::Missing(_)
            | Self::Newer(_)
            | Self::ReadOnly(_)
            | Self::OverQuota
            | Self::NotStorable
            | Self::Closed => false,
        }
    }

    /// Whether there is no space left on the disk.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == io::ErrorKind::StorageFull,
            Self::Index(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::BadIndex
            | Self::Unreadable(_)
            | Self::Misplaced(_)
            | Self::Locked
            | Self::Missing(_)
            | Self::Newer(_)
            | Self::ReadOnly(_)
            | Self::OverQuota
            | Self::NotStorable
            | Self::Closed => false,
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Index(error)
    }
}
