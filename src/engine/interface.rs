//! What the shell tells the engine, and what the engine tells the shell to do.

use super::Account;
use barrow_wire::{Cid, Message, Multihash, PeerId};
use std::{net::SocketAddr, time::Duration};

/// A moment of a monotonic clock, given by the shell. In nanoseconds, for the engine keeps many:
/// the last is 584 years after the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// So long after the clock began.
    #[must_use]
    pub const fn at(time: Duration) -> Self {
        let seconds = time.as_secs().saturating_mul(1_000_000_000);
        Self(seconds.saturating_add(time.subsec_nanos() as u64))
    }

    /// How long after the clock began it is.
    pub const fn time(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The moment `wait` later.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(Self::at(wait).0))
    }

    /// The moment `wait` earlier, or the first.
    #[must_use]
    pub const fn before(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(Self::at(wait).0))
    }

    /// How long ago `earlier` was, zero if it is still to come.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A connection, not used again for another before four billion more have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// A retrieval: one stream or one bulk fetch, and what is known of where its blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// What the retrievals of one download pay from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PurseId(pub u64);

/// In which order a retrieval wants its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// As they were asked for: somebody reads them in this order.
    Sequential,
    /// Rarest first.
    Bulk,
}

/// Why a connection ends, for the log and the score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The remote end closed it, or the network did.
    Remote(String),
    /// A second connection to the same peer took its place.
    Replaced,
    /// Nothing was said for too long.
    Idle,
    /// It let us wait for too long.
    Stalled,
    /// It broke the protocol.
    Protocol(String),
    /// It is banned.
    Banned,
    /// It is over a limit.
    Limit,
    /// The node stops, or its user asked.
    Shutdown,
}

/// Why a want ended without its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantError {
    /// Nobody who could be asked has it.
    NoProvider,
    /// Somebody has it, but did not deliver in time.
    ProviderFailed,
    /// It would cost more than the download may spend.
    OverBudget,
    /// It could not be checked here; the engine never says so itself.
    Unverifiable,
    /// Somebody ended the job; the engine never says so itself.
    Cancelled,
}

/// What happened.
#[expect(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug)]
pub enum Input {
    /// A retrieval begins; discovery may be asked for `root`.
    JobStarted { job: JobId, root: Cid, order: Order, purse: PurseId },
    /// It wants these too (never one twice while it is open).
    Want { job: JobId, blocks: Vec<Multihash> },
    /// It no longer wants these.
    Unwant { job: JobId, blocks: Vec<Multihash> },
    /// It ended; all its wants with it.
    JobEnded { job: JobId },
    /// An earlier run of the download has cost this much already, in price times bytes.
    Spent { purse: PurseId, cost: u128 },
    /// The download is over: all its retrievals have ended, and none will begin.
    PurseClosed { purse: PurseId },

    /// An address was given, by a person or by discovery; `peer` if it is known.
    Address { address: SocketAddr, peer: Option<PeerId>, job: Option<JobId>, keep: bool },
    /// Everything that discovery had for the job's root has been said.
    DiscoveryDone { job: JobId },

    /// A handshake is done. `dialed` is the address that was dialed, if we did.
    Connected { conn: ConnId, peer: PeerId, remote: SocketAddr, dialed: Option<SocketAddr> },
    /// A dial failed, or a handshake did.
    DialFailed { address: SocketAddr, reason: String },
    /// A connection ended (also after [`Output::Close`]).
    Disconnected { conn: ConnId, reason: CloseReason },
    /// A control message came.
    Received { conn: ConnId, message: Message },
    /// A block is whole and has its hash; it is stored and delivered already.
    BlockVerified { conn: ConnId, hash: Multihash, len: u32 },
    /// The same of a block that was delivered and is not stored: no peer can have it from here.
    BlockPassed { conn: ConnId, hash: Multihash, len: u32 },
    /// A block came with a wrong hash, or one came that was not asked for.
    BlockRejected { conn: ConnId, hash: Multihash, len: u32, wanted: bool },
    /// Block bytes arrived (progress of a transfer under way).
    Progress { conn: ConnId, bytes: u32 },
    /// What the store knows of the blocks asked by [`Output::LookUp`].
    LookedUp { conn: ConnId, found: Vec<(Multihash, barrow_wire::Presence)> },
    /// A block of [`Output::SendBlock`] was read and handed to the session, or could not be read.
    BlockQueued { conn: ConnId, hash: Multihash, len: Option<u32> },
    /// All of a block's bytes were given to the socket.
    BlockSent { conn: ConnId, hash: Multihash, len: u32 },
    /// The node says something of slots to a peer; lost if that is not connected.
    TellSlot { peer: PeerId, message: Message },
}

/// What the shell is to do.
#[expect(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial; answer with `Connected` or `DialFailed`.
    Connect { address: SocketAddr, peer: Option<PeerId> },
    /// Close; answer with `Disconnected`.
    Close { conn: ConnId, reason: CloseReason },
    /// Send a control message.
    Send { conn: ConnId, message: Message },
    /// Ask the store which of these are here; answer with `LookedUp`.
    LookUp { conn: ConnId, blocks: Vec<Multihash> },
    /// Read the block and send it; answer with `BlockQueued`, and `BlockSent` later.
    SendBlock { conn: ConnId, hash: Multihash },
    /// A queued block needs not be sent any more, if none of it was.
    CancelBlock { conn: ConnId, hash: Multihash },
    /// Ask discovery who provides this; answer with `Address`… and `DiscoveryDone`.
    Discover { job: JobId, root: Cid },
    /// A want ended without its block (delivery itself is the shell's, before `BlockVerified`).
    Failed { job: JobId, hash: Multihash, error: WantError },
    /// Refuse this peer until then, also after a restart.
    Ban { peer: PeerId, until: Moment, reason: String },
    /// Remember how often this peer offended, also after a restart.
    Score { peer: PeerId, offences: u32 },
    /// Sign a voucher of this total for the peer, and send it.
    Pay { conn: ConnId, payee: PeerId, sequence: u64, total: u64 },
    /// A peer said something of slots, which are the node's: they move no blocks.
    SlotTold { conn: ConnId, peer: PeerId, message: Message },
    /// Keep what this peer and we owe each other, also after a restart.
    Keep { peer: PeerId, account: Box<Account> },
}
