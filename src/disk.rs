//! The disk threads: one writer, a few readers.
