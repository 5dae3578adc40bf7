//! The formats of content: verified blocks, and the graphs that are built of them.
//!
//! Lives here: [`block`] (bytes that match their hash), the codecs of DAG nodes ([`dag_cbor`],
//! [`dag_json`], [`unixfs`]), the links of a block of any codec ([`dag`]), and CAR archives
//! ([`car`]). Everything here is a pure function or a state machine: no thread, file, socket or
//! clock.
//!
//! May use: `wire` and [`crate::base`].
//!
//! Begin with [`block`], then [`unixfs`], whose builders turn a file into blocks and whose walk
//! reads it back.

pub mod block;
pub mod car;
pub mod dag;
pub mod dag_cbor;
pub mod dag_json;
pub mod unixfs;
