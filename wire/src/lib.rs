//! The wire format of barrow: Cids, peer ids, messages, frames and the Noise session.
//!
//! No I/O, no clock, no thread and no policy: bytes in, events out. `SPEC.md` beside this crate
//! is normative; `vectors/` holds a vector for each MUST of it.
//!
//! ```
//! use barrow_wire::{Cid, Codec, HashCode, Message, Multihash};
//!
//! let hash = Multihash::of(HashCode::Sha2_256, b"hello world");
//! let cid = Cid::v1(Codec::Raw, hash);
//! assert_eq!(cid.to_string(), "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
//! let mut frame = Vec::new();
//! Message::WantBlock { blocks: vec![hash] }.encode(&mut frame);
//! assert!(frame.len() > 32);
//! ```

#![forbid(unsafe_code)]

pub mod cid;
mod codec;
mod handshake;
pub mod limits;
pub mod message;
mod multibase;
pub mod peer_id;
mod resolver;
mod session;
pub mod voucher;

pub use crate::cid::{Cid, CidError, Codec, HashCode, Multihash};
pub use codec::DecodeError;
pub use handshake::{HandshakeError, SessionConfig, StaticKey, Suite, Suites};
pub use limits::AGENT_BYTES_MAX;
pub use message::{Message, PeerAddress, Presence, SlotState};
pub use peer_id::{Identity, PeerId, PeerIdError};
pub use session::{Event, Session, SessionError};
pub use voucher::{Voucher, VoucherError};
