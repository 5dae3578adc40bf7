//! Plain facilities that every other folder may use.
//!
//! Lives here: the configuration of a node ([`config`]), its counters ([`metrics`]), the pool of
//! buffers that bounds the memory of blocks in flight ([`pool`]), the rayon threads that hash and
//! encode ([`workers`]), and the guarded time of day ([`clock`]).
//!
//! May use: nothing of this crate.
//!
//! Begin with [`config`], which names everything that can be set, then [`pool`], because most
//! questions about memory end there.

pub mod clock;
pub mod config;
pub mod metrics;
pub mod pool;
pub mod workers;
