//! barrow, a content-addressed storage node: threads and no async runtime.
//!
//! A node inside a program of yours puts a file, and gets it by its CID, from its own store or from
//! whoever has the blocks:
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # let data_dir = dir.path();
//! use std::io::Read as _;
//!
//! let mut config = barrow::Config::new(data_dir);
//! config.listen = vec!["127.0.0.1:0".parse()?];
//! config.dht = false;
//! let node = barrow::Node::start(config)?;
//! let cid = node.put(&mut &b"hello world"[..])?;
//! let mut text = String::new();
//! node.get(&cid)?.read_to_string(&mut text)?;
//! node.shutdown();
//! # assert_eq!(text, "hello world");
//! # assert_eq!(cid.to_string(), "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Node`] is all that a node can do, [`Config`] all that it can be told, [`LocalStore`] its blocks
//! on the disk without any network, [`wire`] the messages between nodes. Programs in other languages
//! take the feature `capi` and `include/barrow.h`.

pub mod block;
pub mod clock;
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

#[cfg(feature = "capi")]
pub mod capi;
pub mod cli;
pub mod http;

pub use barrow_wire as wire;
pub use barrow_wire::{Cid, Codec, Identity, Multihash, PeerId};
pub use block::Block;
pub use config::Config;
pub use local_store::LocalStore;
pub use node::Node;
pub use pool::Pool;
