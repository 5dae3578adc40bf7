//! What peers say to each other.

use crate::{Multihash, PeerId, Voucher};
use std::net::SocketAddr;

/// What a peer says of one block that it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It does not have the block, or will not give it.
    DontHave,
    /// It has the block, of this many bytes.
    Have {
        /// Bytes of the block.
        len: u32,
    },
    /// It has the block, and every block of the DAG below it, so none needs asking again.
    Complete {
        /// Bytes of the block.
        len: u32,
    },
}

/// An address at which a peer may be met: a hint, until a handshake proved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    /// Who is said to listen there.
    pub peer: PeerId,
    /// Where.
    pub address: SocketAddr,
}

/// A control message. Blocks travel apart from them (see [`crate::Session`]).
///
/// ```
/// use barrow_wire::{DecodeError, HashCode, Message, Multihash};
/// let wanted = Multihash::of(HashCode::Sha2_256, b"hello world");
/// let message = Message::WantBlock { blocks: vec![wanted] };
/// let mut frame = Vec::new();
/// message.encode(&mut frame);
/// let (frame_type, body) = frame.split_first().unwrap();
/// assert_eq!(Message::decode(*frame_type, body), Ok(message));
/// assert_eq!(Message::decode(*frame_type, &body[1..]), Err(DecodeError::Truncated));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First of all, both ways: what the sender is, and the port it listens on (0: none).
    Hello {
        /// Port at the address that the connection comes from.
        listen_port: u16,
        /// A name and version for people, at most 64 bytes of printable ASCII.
        agent: String,
    },
    /// Who has these? `inline` asks for blocks of a few KiB in the place of an answer.
    WantHave {
        /// Whether a small block may come at once.
        inline: bool,
        /// The blocks, at most [`crate::limits::WANTS_MAX`].
        blocks: Vec<Multihash>,
    },
    /// The answer to [`Message::WantHave`], and to wants that cannot be served (any more).
    BlockPresence {
        /// What a MiB costs here.
        price: u64,
        /// Each block with what is known of it.
        blocks: Vec<(Multihash, Presence)>,
    },
    /// Send these, in this order.
    WantBlock {
        /// The blocks.
        blocks: Vec<Multihash>,
    },
    /// Do not send these any more.
    Cancel {
        /// The blocks.
        blocks: Vec<Multihash>,
    },
    /// Pays for verified blocks.
    Payment {
        /// The newest voucher.
        voucher: Voucher,
    },
    /// Others who may have what was asked for, or are simply known.
    PeerAddresses {
        /// The hints, at most [`crate::limits::PEER_ADDRESSES_MAX`].
        peers: Vec<PeerAddress>,
    },
    /// Answer with the same number at once.
    Ping {
        /// Any number.
        nonce: u64,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's number.
        nonce: u64,
    },
    /// Hold slot `index` of `slots` of this protected dataset.
    HoldSlot {
        /// The protected manifest.
        manifest: crate::Cid,
        /// The slot, less than `slots`.
        index: u16,
        /// The number of slots.
        slots: u16,
    },
    /// How a [`Message::HoldSlot`] went.
    SlotHeld {
        /// The protected manifest.
        manifest: crate::Cid,
        /// The slot.
        index: u16,
        /// Whether the slot is held now, verified and synced; else it is still being fetched,
        /// was refused, or failed.
        state: SlotState,
    },
}

/// How holding a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// The sender does not trust the asker, or has no room.
    Refused,
    /// It is being fetched.
    Fetching,
    /// All of it is verified and synced.
    Held,
    /// It could not be fetched.
    Failed,
}
