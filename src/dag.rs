//! Links of a block, by its codec.
