//! barrow, a content-addressed storage node: threads and no async runtime.

pub mod block;
pub mod config;
pub mod metrics;
pub mod pool;

pub mod car;
pub mod dag;
pub mod dag_cbor;
pub mod dag_json;
pub mod engine;
pub mod erasure;
pub mod local_store;
pub mod unixfs;

pub mod discovery;
pub mod disk;
pub mod gate;
pub mod http_client;
pub mod identity;
pub mod ledger;
pub mod reactor;
pub mod workers;

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

pub mod node;

pub mod cli;
pub mod http;

pub use barrow_wire as wire;
pub use barrow_wire::{Cid, Codec, Identity, Multihash, PeerId};
pub use block::Block;
pub use config::Config;
pub use node::Node;
pub use pool::Pool;
