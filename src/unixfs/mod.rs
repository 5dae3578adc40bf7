//! UnixFS: building and walking files and directories.
