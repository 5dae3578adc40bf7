//! Blocks on the disk of this machine.
//!
//! Lives here: [`local_store`], which keeps blocks in append-only packs and finds them by an index
//! in SQLite that can be rebuilt from the packs; and [`disk`], the threads that own it: one writer
//! that commits in groups, and readers that never write.
//!
//! May use: `wire`, [`crate::base`], [`crate::data`].
//!
//! Begin with `docs/DURABILITY.md` (what is promised) and `docs/PACK_FORMAT.md` (the bytes), then
//! [`local_store`].

pub mod disk;
pub mod local_store;
