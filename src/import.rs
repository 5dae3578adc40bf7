//! From a file, a directory or a stream to blocks.
