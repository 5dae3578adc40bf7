//! The wire format of barrow: Cids, peer ids, messages, frames and the Noise session.
//!
//! No I/O, no clock, no thread and no policy: bytes in, events out. `SPEC.md` beside this crate
//! is normative; `vectors/` holds a vector for each MUST of it.

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
