//! The exchange: who has a block, whom to ask for it, whom to serve. Pure: no clock, no socket,
//! no thread, no bytes of blocks; one seed gives one trace.
//!
//! After each [`Engine::handle`] or [`Engine::handle_timeout`], take all of
//! [`Engine::poll_output`]; then wait for the next input or for [`Engine::next_timeout`].

mod accounts;
mod arrivals;
mod bucket;
mod config;
mod connections;
mod dials;
mod exchange;
mod fetching;
mod giving_up;
mod interface;
mod jobs;
mod lean;
mod pace;
mod peers;
mod presence;
mod purses;
mod rng;
mod scheduler;
mod serving;
mod snapshot;
mod timers;
mod wants;
mod withdrawals;

pub use accounts::Account;
pub use config::EngineConfig;
pub use interface::{CloseReason, ConnId, Input, JobId, Moment, Order, Output, PurseId, WantError};
pub use rng::Rng;
pub use snapshot::{JobSnapshot, PeerSnapshot};

use accounts::Accounts;
use barrow_wire::{
    Message, Multihash,
    limits::{BLOCK_BYTES_MAX, INLINE_BLOCK_BYTES_MAX},
};
use bucket::Bucket;
use dials::Dials;
use exchange::Exchange;
use jobs::Jobs;
use peers::Peers;
use purses::Purses;
use serving::Serving;
use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
};
use timers::{Timer, Timers};
use wants::{Knows, Wants};

/// Places that the outputs keep when all were taken.
const OUTPUTS_KEPT: usize = 4;

/// The exchange of one node. A clone goes its own way from there, for tests that try both.
///
/// ```
/// use barrow_engine::{Engine, EngineConfig, Input, Moment, Output};
/// let me = barrow_wire::Identity::from_seed([1; 32]).peer_id();
/// let mut engine = Engine::new(EngineConfig::new(me, 7));
/// let address = "192.0.2.1:4780".parse().unwrap();
/// let told = Input::Address { address, peer: None, job: None, keep: true };
/// engine.handle(Moment::default(), told);
/// assert_eq!(engine.poll_output(), Some(Output::Connect { address, peer: None }));
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    config: EngineConfig,
    rng: Rng,
    now: Moment,
    outputs: VecDeque<Output>,
    timers: Timers,
    peers: Peers,
    dials: Dials,
    exchange: Exchange,
    jobs: Jobs,
    purses: Purses,
    wants: Wants,
    serving: Serving,
    accounts: Accounts,
    up: Option<Bucket>,
    down: Option<Bucket>,
    /// Bytes asked for and not yet verified, of all peers together.
    inflight_bytes: u64,
    /// Wants failed, and blocks that waited for their room may be asked for.
    room_left: bool,
}

impl Engine {
    /// An engine that knows nobody and wants nothing.
    pub fn new(mut config: EngineConfig) -> Self {
        let mut peers = Peers::default();
        for (peer, offences) in &config.offences {
            peers.recall(*peer, *offences);
        }
        for (peer, until) in &config.bans {
            peers.ban(*peer, *until);
        }
        Self {
            rng: Rng::new(config.seed),
            now: Moment::default(),
            outputs: VecDeque::new(),
            timers: Timers::default(),
            peers,
            dials: Dials::default(),
            exchange: Exchange::default(),
            jobs: Jobs::default(),
            purses: Purses::default(),
            wants: Wants::default(),
            serving: Serving::new(config.limit_up_peer),
            accounts: Accounts::new(std::mem::take(&mut config.accounts)),
            up: config.limit_up.map(Bucket::new),
            down: config.limit_down.map(Bucket::new),
            inflight_bytes: 0,
            room_left: false,
            config,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::JobStarted { job, root, order, purse } => {
                self.on_job_started(job, root, order, purse);
            }
            Input::Want { job, blocks } => self.on_want(job, blocks),
            Input::Unwant { job, blocks } => self.on_unwant(job, &blocks),
            Input::JobEnded { job } => self.on_job_ended(job),
            Input::Spent { purse, cost } => self.on_spent(purse, cost),
            Input::PurseClosed { purse } => self.on_purse_closed(purse),
            Input::Address { address, peer, job, keep } => {
                self.on_address(address, peer, job, keep);
            }
            Input::DiscoveryDone { job } => self.on_discovery_done(job),
            Input::Connected { conn, peer, remote, dialed } => {
                self.on_connected(conn, peer, remote, dialed);
            }
            Input::DialFailed { address, reason: _ } => self.on_dial_failed(address),
            Input::Disconnected { conn, reason: _ } => self.on_disconnected(conn),
            Input::Received { conn, message } => self.on_message(conn, message),
            Input::BlockVerified { conn, hash, len } => {
                self.announce(&hash, len);
                self.on_verified(conn, hash, len);
            }
            Input::BlockPassed { conn, hash, len } => self.on_verified(conn, hash, len),
            Input::BlockRejected { conn, hash, len, wanted } => {
                self.on_rejected(conn, hash, len, wanted);
            }
            Input::Progress { conn, bytes } => {
                // The commonest input by far, and it seldom changes what can be asked for.
                if !self.on_progress(conn, bytes) {
                    return;
                }
            }
            Input::LookedUp { conn, found } => self.on_looked_up(conn, found),
            Input::BlockQueued { conn, hash, len } => self.on_block_queued(conn, hash, len),
            Input::BlockSent { conn, hash, len } => self.on_block_sent(conn, hash, len),
            Input::TellSlot { peer, message } => {
                if let Some(conn) = self.peers.conn_of(&peer) {
                    self.send(conn, message);
                }
            }
        }
        self.fill_room();
        self.schedule();
    }

    /// Does what is due; call it when [`Self::next_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.now = self.now.max(now);
        while let Some(timer) = self.timers.pop(self.now) {
            match timer {
                Timer::Transfer(conn) => self.on_transfer_timer(conn),
                Timer::Idle(conn) => self.on_idle_timer(conn),
                Timer::Job(job) => self.on_job_timer(job),
                Timer::Search(job) => self.on_search_timer(job),
                Timer::Exchange => self.on_exchange_timer(),
                Timer::Dials => self.pump_dials(),
                Timer::Upload => self.serve(),
                // What could not be asked for is tried again below.
                Timer::Download => {}
            }
        }
        self.fill_room();
        self.schedule();
    }

    /// Asks for more in the place of wants that failed. What is asked for so may fail as well,
    /// at once; each time that is one block less.
    fn fill_room(&mut self) {
        let any = self.room_left;
        while std::mem::take(&mut self.room_left) {
            self.activate_all();
        }
        if any {
            self.flush_cancels();
        }
    }

    fn on_message(&mut self, conn: ConnId, message: Message) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(conn) else { return };
        peer.heard_at = now;
        if !peer.count_message(now) {
            return self.close(conn, CloseReason::Protocol("too many messages".into()));
        }
        match message {
            Message::Hello { listen_port, agent } => self.on_hello(conn, listen_port, agent),
            Message::WantHave { inline, blocks } => self.on_want_have(conn, inline, blocks),
            Message::BlockPresence { price, blocks } => self.on_presence(conn, price, &blocks),
            Message::WantBlock { blocks } => self.on_want_block(conn, &blocks),
            Message::Cancel { blocks } => self.on_cancel(conn, &blocks),
            Message::PeerAddresses { peers } => self.on_peer_addresses(conn, &peers),
            Message::Ping { nonce } => self.send(conn, Message::Pong { nonce }),
            Message::Pong { nonce } => {
                peer.pace.ponged(now, nonce);
                self.on_exchange_pong(conn, nonce);
            }
            Message::Payment { voucher } => self.on_payment(conn, voucher),
            Message::HoldSlot { .. } | Message::SlotHeld { .. } => {
                let peer = peer.id;
                self.outputs.push_back(Output::SlotTold { conn, peer, message });
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() {
            self.outputs.shrink_to(OUTPUTS_KEPT);
        }
        output
    }

    /// When [`Self::handle_timeout`] wants to be called, if ever.
    pub fn next_timeout(&self) -> Option<Moment> {
        self.timers.next()
    }

    /// Whether a block of this hash and length may come on this connection now: asked for there,
    /// or small and asked for in the place of an answer, or asked for until just now and still
    /// wanted of others.
    pub fn expects(&self, conn: ConnId, hash: &Multihash, len: usize) -> bool {
        let Some(peer) = self.peers.get(conn) else { return false };
        if let Some(request) = peer.request_of(hash) {
            // What costs more than was set aside for it is not taken.
            return request.cost().is_none() || len as u64 <= request.bytes;
        }
        let Some(want) = self.wants.get(hash) else { return false };
        let inline = want.knows(conn) == Some(Knows::Asked { inline: true });
        let crossed = peer.may_have_crossed();
        (inline && len <= INLINE_BLOCK_BYTES_MAX) || (crossed && len <= BLOCK_BYTES_MAX)
    }

    fn send(&mut self, conn: ConnId, message: Message) {
        self.outputs.push_back(Output::Send { conn, message });
    }
}

/// Of all that decides what the engine does next, but its configuration and the outputs that
/// were not taken: a model checker knows a state by it.
impl Hash for Engine {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { config: _, outputs: _, rng, now, timers, peers, dials, jobs, purses, .. } = self;
        (rng, now, timers, peers, dials, jobs, purses).hash(hasher);
        let Self { wants, serving, accounts, up, down, inflight_bytes, room_left, .. } = self;
        (wants, serving, accounts, up, down, inflight_bytes, room_left).hash(hasher);
    }
}

#[cfg(test)]
mod tests;
