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

pub mod base;
pub mod content;
pub mod data;
pub mod erasure;
pub mod net;
pub mod node;
pub mod store;
pub mod web;

#[cfg(feature = "capi")]
pub mod capi;
pub mod cli;

pub use barrow_engine as engine;
pub use barrow_wire as wire;
pub use barrow_wire::{Cid, Codec, Identity, Multihash, PeerId};
pub use base::{config::Config, pool::Pool};
pub use data::block::Block;
pub use node::Node;
pub use store::local_store::LocalStore;
