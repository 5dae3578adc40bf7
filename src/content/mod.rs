//! Whole datasets: storing, finding, reading, rebuilding and keeping them.
//!
//! Lives here: what joins the store and the network. [`network_store`] finds a block here or asks
//! the engine for it; [`store_stream`] reads a file through it, and [`mend`] rebuilds the missing
//! shards of a protected one; [`resolve`] follows a path; [`fetch`] completes a dataset for a pin;
//! [`import`], [`protect`], [`block_stream`] and [`car_import`] store; [`car_stream`] sends a CAR.
//!
//! May use: `wire`, [`crate::base`], [`crate::data`], [`crate::engine`], [`crate::erasure`],
//! [`crate::store`], [`crate::net`].
//!
//! Begin with [`network_store`] and [`store_stream`].

pub mod block_stream;
pub mod car_import;
pub mod car_stream;
pub mod fetch;
pub mod import;
pub mod mend;
pub mod network_store;
pub mod protect;
pub mod resolve;
pub mod store_stream;
