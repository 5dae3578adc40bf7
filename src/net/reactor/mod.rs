//! The event loop of the peers' sockets: one thread with mio's Poll, the Sessions, the Engine,
//! the timers and the clock.
//!
//! It never blocks on a send, never touches the disk and never hashes a block. What it may wait
//! for is bounded: a block comes only into a buffer of the pool, and while none is free the
//! connection is not read, so that TCP holds the sender back.

mod connection;
mod handle;
mod opening;
mod setup;

pub use handle::{Delivery, Finder, Keeper, ReactorHandle};
pub use setup::{Keys, Parts, Setup};

use crate::{
    base::pool::Buffer,
    data::block::Block,
    engine::{CloseReason, ConnId, Input, Moment, Output},
};
use barrow_wire::{Event, Message, Multihash};
use connection::{Connection, Next, ReadBuffer};
use handle::{Command, Completer, Completion, Queues};
use mio::{Events, Poll, Token, event::Event as Readiness, net::TcpListener};
use opening::Begun;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    time::{Duration, Instant},
};

/// A handshake must be done in this time, dial included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A dial that has no TCP connection after this time is given up: hints often lead nowhere, and
/// each holds one of few places.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// The same for the handshake on a connection that we dialed, dial included.
const DIALED_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that takes none of what waits for it is closed after this time.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Reads or writes of a connection before the others get their turn.
const TURNS_MAX: usize = 16;

const WAKER: Token = Token(usize::MAX);
/// Tokens below are listeners; connections have their id and this added.
const FIRST_CONNECTION: usize = 1_024;

struct Reactor {
    poll: Poll,
    queues: Queues,
    bell: std::sync::Arc<handle::Bell>,
    listeners: Vec<TcpListener>,
    parts: Parts,
    started: Instant,
    connections: BTreeMap<ConnId, Connection>,
    next_conn: u32,
    /// Connections that may have more to read than one turn took.
    ready: VecDeque<ConnId>,
    /// Connections that wait for a buffer.
    starved: BTreeSet<ConnId>,
    /// Connections with something new to send.
    to_write: BTreeSet<ConnId>,
    /// What happened and was not yet told to the engine.
    inputs: VecDeque<Input>,
    input: ReadBuffer,
    scratch: Vec<u8>,
    /// Handshakes that others have begun of late.
    begun: Begun,
    /// When the system, which had no more descriptors, is asked for connections again.
    accept_again: Option<Moment>,
    stopping: bool,
}

impl Reactor {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stopping {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("the reactor stops: {error}");
                    break;
                }
            }
            self.bell.heard();
            for event in &events {
                self.on_readiness(event);
            }
            self.accept_late();
            self.take_completions();
            self.take_commands();
            for _ in 0..self.ready.len() {
                if let Some(conn) = self.ready.pop_front() {
                    self.read(conn);
                }
            }
            self.sweep();
            self.settle(true);
        }
        let open: Vec<ConnId> = self.connections.keys().copied().collect();
        for conn in open {
            self.close(conn, CloseReason::Shutdown);
        }
    }

    fn now(&self) -> Moment {
        Moment::at(self.started.elapsed())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadlines = self.connections.values().filter_map(deadline);
        let next =
            deadlines.chain(self.parts.engine.next_timeout()).chain(self.accept_again).min()?;
        // Poll counts whole milliseconds downwards; one more avoids spinning before the moment.
        let wait = next.since(self.now());
        Some(if wait.is_zero() { wait } else { wait + Duration::from_millis(1) })
    }

    // --- Sockets ---

    fn on_readiness(&mut self, event: &Readiness) {
        let Token(token) = event.token();
        if event.token() == WAKER {
            return;
        }
        let Some(conn) = token.checked_sub(FIRST_CONNECTION).map(|id| ConnId(id as u32)) else {
            self.accept(token);
            return;
        };
        // Events of connections closed in this very batch still stand in it.
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if !connection.open {
            self.on_connect(conn);
            return;
        }
        if event.is_writable() {
            self.to_write.insert(conn);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(conn);
        }
    }

    fn read(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.ready = false;
        self.input.load(connection);
        let mut progress = 0_u32;
        let mut turns = 0;
        let outcome = loop {
            match connection.next_event(&mut self.input, &self.parts.pool) {
                Ok(Next::Event(event)) => {
                    Self::on_event(
                        connection,
                        event,
                        &mut self.parts,
                        &mut self.inputs,
                        &self.queues.complete,
                    );
                }
                Ok(Next::NeedsBuffer) => {
                    self.starved.insert(conn);
                    break Ok(());
                }
                Ok(Next::Empty) if turns == TURNS_MAX => {
                    connection.ready = true;
                    self.ready.push_back(conn);
                    break Ok(());
                }
                Ok(Next::Empty) => match connection.fill(&mut self.input, &self.parts.pool) {
                    Ok(Some(read)) => {
                        turns += 1;
                        progress = progress.saturating_add(u32::try_from(read).unwrap_or(u32::MAX));
                    }
                    Ok(None) => break Ok(()),
                    Err(reason) => break Err(reason),
                },
                Err(reason) => break Err(reason),
            }
        };
        self.input.store(connection);
        if connection.session.wants_transmit() {
            self.to_write.insert(conn);
        }
        if progress > 0 {
            self.parts.metrics.peer_bytes_received_total.add(progress.into());
            if connection.peer.is_some() {
                self.inputs.push_back(Input::Progress { conn, bytes: progress });
            }
        }
        if let Err(reason) = outcome {
            self.close(conn, reason);
        }
    }

    fn on_event(
        connection: &mut Connection,
        event: Event<Buffer>,
        parts: &mut Parts,
        inputs: &mut VecDeque<Input>,
        complete: &Completer,
    ) {
        let conn = connection.id;
        match event {
            Event::Established { peer } => {
                connection.peer = Some(peer);
                let (remote, dialed) = (connection.remote, connection.dialed);
                match dialed {
                    Some(address) => parts.finder.dialed(address, Some(peer)),
                    None => parts.finder.visited(remote),
                }
                inputs.push_back(Input::Connected { conn, peer, remote, dialed });
            }
            Event::Message(message) => {
                inputs.push_back(Input::Received { conn, message });
            }
            Event::BlockComing { hash, len } => {
                if parts.engine.expects(conn, &hash, len) {
                    connection.accept_block(len, &parts.pool);
                } else {
                    connection.session.skip_block();
                }
            }
            Event::BlockSkipped { hash, len } => {
                let len = u32::try_from(len).expect("a block is at most 2 MiB");
                parts.metrics.blocks_duplicate_total.add(1);
                inputs.push_back(Input::BlockRejected { conn, hash, len, wanted: false });
            }
            Event::Block { hash, len, data } => {
                let (delivery, complete) = (parts.delivery.clone(), complete.clone());
                parts.workers.spawn(move || {
                    let result = Block::verify(hash, data.freeze(0..len));
                    let len = u32::try_from(len).expect("a block is at most 2 MiB");
                    let result = result.map(|block| delivery.deliver(block));
                    complete.send(Completion::Verified { conn, hash, len, result });
                });
            }
        }
    }

    fn write(&mut self, conn: ConnId) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if !connection.open {
            return;
        }
        let mut sent = 0;
        let mut outcome = Ok(());
        for turn in 0..=TURNS_MAX {
            if turn == TURNS_MAX {
                self.to_write.insert(conn);
                break;
            }
            match connection.write(&mut self.scratch, now) {
                Ok(Some(written)) => sent += written,
                Ok(None) => break,
                Err(reason) => {
                    outcome = Err(reason);
                    break;
                }
            }
        }
        while let Some((hash, len)) = connection.next_sent() {
            self.parts.metrics.blocks_sent_total.add(1);
            if let Some(peer) = connection.peer {
                self.parts.ledger.count(peer, len.into(), 0);
            }
            self.inputs.push_back(Input::BlockSent { conn, hash, len });
        }
        self.parts.metrics.peer_bytes_sent_total.add(sent as u64);
        if let Err(reason) = outcome {
            self.close(conn, reason);
        }
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(mut connection) = self.connections.remove(&conn) else { return };
        self.starved.remove(&conn);
        self.to_write.remove(&conn);
        let _ = self.poll.registry().deregister(&mut connection.stream);
        let name = connection.peer.map_or_else(|| "no peer yet".into(), |peer| peer.to_string());
        match &reason {
            CloseReason::Remote(why) if connection.session.is_within() => {
                log::warn!("{name} at {}: closed within a block, {why}", connection.remote);
            }
            CloseReason::Protocol(_) | CloseReason::Stalled | CloseReason::Banned => {
                log::warn!("{name} at {}: closed, {reason:?}", connection.remote);
            }
            CloseReason::Remote(_)
            | CloseReason::Replaced
            | CloseReason::Idle
            | CloseReason::Limit
            | CloseReason::Shutdown => {
                log::debug!("{name} at {}: closed, {reason:?}", connection.remote);
            }
        }
        match (connection.peer, connection.dialed) {
            (Some(_), _) => self.inputs.push_back(Input::Disconnected { conn, reason }),
            (None, Some(address)) => {
                self.fail_dial(address, format!("{reason:?}"));
            }
            (None, None) => {}
        }
    }

    // --- Deadlines ---

    fn sweep(&mut self) {
        let now = self.now();
        let late = |c: &&Connection| deadline(c).is_some_and(|at| at <= now);
        let late: Vec<ConnId> = self.connections.values().filter(late).map(|c| c.id).collect();
        for conn in late {
            self.close(conn, CloseReason::Stalled);
        }
    }

    // --- Queues ---

    fn take_completions(&mut self) {
        while let Ok(completion) = self.queues.completions.try_recv() {
            match completion {
                Completion::Verified { conn, hash, len, result } => {
                    self.on_verified(conn, hash, len, result);
                }
                Completion::LookedUp { conn, found } => {
                    self.inputs.push_back(Input::LookedUp { conn, found });
                }
                Completion::Read { conn, hash, block } => self.queue_block(conn, hash, block),
                Completion::PoolReturned => {
                    for conn in std::mem::take(&mut self.starved) {
                        self.read(conn);
                    }
                }
            }
        }
    }

    fn on_verified(
        &mut self,
        conn: ConnId,
        hash: Multihash,
        len: u32,
        result: Result<bool, crate::data::block::BlockError>,
    ) {
        let is_stored = match result {
            Ok(is_stored) => is_stored,
            Err(error) => {
                self.parts.metrics.blocks_rejected_total.add(1);
                self.warn_of_wrong_block(conn, &hash, &error);
                self.inputs.push_back(Input::BlockRejected { conn, hash, len, wanted: true });
                return;
            }
        };
        self.parts.metrics.blocks_received_total.add(1);
        if let Some(peer) = self.connections.get(&conn).and_then(|connection| connection.peer) {
            self.parts.ledger.count(peer, 0, len.into());
        }
        self.inputs.push_back(match is_stored {
            true => Input::BlockVerified { conn, hash, len },
            false => Input::BlockPassed { conn, hash, len },
        });
        // The engine takes every want of it for answered. Who asked after it was handed over,
        // and was heard before this, waits on.
        for job in self.parts.delivery.waiting(&hash) {
            self.inputs.push_back(Input::Want { job, blocks: vec![hash] });
        }
    }

    fn warn_of_wrong_block(
        &self,
        conn: ConnId,
        hash: &Multihash,
        error: &crate::data::block::BlockError,
    ) {
        if let Some(connection) = self.connections.get(&conn)
            && let Some(peer) = connection.peer
        {
            log::warn!("{peer} at {} sent a wrong block for {hash:?}: {error}", connection.remote);
        }
    }

    fn queue_block(&mut self, conn: ConnId, hash: Multihash, block: Option<Block>) {
        let len = block.as_ref().and_then(|block| u32::try_from(block.len()).ok());
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(block) = block {
            connection.send_block(hash, block.into_data());
            self.to_write.insert(conn);
        }
        self.inputs.push_back(Input::BlockQueued { conn, hash, len });
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.queues.commands.try_recv() {
            match command {
                Command::Input(mut input) => {
                    // What was delivered since would be fetched once more, for nobody.
                    if let Input::Want { job, blocks } = &mut input {
                        self.parts.delivery.retain_waited(*job, blocks);
                    }
                    self.inputs.push_back(input);
                }
                Command::Inspect(look) => {
                    // Rates and times are of now, however long nothing has happened.
                    let now = self.now();
                    self.parts.engine.handle_timeout(now);
                    self.settle(false);
                    look(&self.parts.engine);
                }
                Command::Shutdown => self.stopping = true,
            }
        }
    }

    // --- The engine ---

    /// Tells the engine all that happened, does what it says, and writes what came of it.
    fn settle(&mut self, write: bool) {
        loop {
            let now = self.now();
            if self.parts.engine.next_timeout().is_some_and(|at| at <= now) {
                self.parts.engine.handle_timeout(now);
            }
            while let Some(input) = self.inputs.pop_front() {
                self.parts.engine.handle(now, input);
            }
            while let Some(output) = self.parts.engine.poll_output() {
                self.act(output);
            }
            if write {
                for conn in std::mem::take(&mut self.to_write) {
                    self.write(conn);
                }
            }
            // What still has to be written goes on after the next poll, so that nobody starves.
            if self.inputs.is_empty() {
                break;
            }
        }
        self.parts.metrics.peers.set(self.parts.engine.connections() as u64);
        if !self.to_write.is_empty() {
            self.bell.ring();
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Connect { address, peer } => self.dial(address, peer),
            Output::Close { conn, reason } => self.close(conn, reason),
            Output::Send { conn, message } => self.send(conn, &message),
            Output::LookUp { conn, blocks } => {
                let complete = self.queues.complete.clone();
                let hashes = blocks.clone();
                self.parts.disk.presence_then(
                    hashes,
                    Box::new(move |found| {
                        let found = found.unwrap_or_else(|error| {
                            log::error!("a look-up for a peer failed: {error}");
                            vec![barrow_wire::Presence::DontHave; blocks.len()]
                        });
                        let found = blocks.into_iter().zip(found).collect();
                        complete.send(Completion::LookedUp { conn, found });
                    }),
                );
            }
            Output::SendBlock { conn, hash } => {
                let complete = self.queues.complete.clone();
                self.parts.disk.read_then(
                    hash,
                    Box::new(move |block| {
                        let block = block.unwrap_or_else(|error| {
                            log::error!("a block for a peer could not be read: {error}");
                            None
                        });
                        complete.send(Completion::Read { conn, hash, block });
                    }),
                );
            }
            Output::CancelBlock { conn, hash } => {
                if let Some(connection) = self.connections.get_mut(&conn)
                    && connection.cancel_block(hash)
                {
                    self.inputs.push_back(Input::BlockSent { conn, hash, len: 0 });
                }
            }
            Output::Discover { job, root } => {
                if !self.parts.finder.look_up(job, &root) {
                    self.inputs.push_back(Input::DiscoveryDone { job });
                }
            }
            Output::Failed { job, hash, error } => self.parts.delivery.fail(job, hash, error),
            Output::Ban { peer, until, reason } => {
                let time = until.since(self.now());
                log::warn!("{peer} is banned for {} s: {reason}", time.as_secs());
                self.parts.ledger.ban(peer, time, reason);
            }
            Output::Score { peer, offences } => self.parts.ledger.score(peer, offences),
            Output::Pay { conn, payee, sequence, total } => {
                let voucher = self.parts.ledger.sign(payee, sequence, total);
                self.send(conn, &Message::Payment { voucher });
            }
            Output::SlotTold { conn, peer, message } => {
                if let Some(answer) = self.parts.keeper.told(peer, &message) {
                    self.send(conn, &answer);
                }
            }
            Output::Keep { peer, account } => self.parts.ledger.keep(peer, *account),
        }
    }

    fn send(&mut self, conn: ConnId, message: &Message) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.session.send(message);
            self.to_write.insert(conn);
        }
    }
}

/// When a connection that goes on as it is will be given up.
fn deadline(connection: &Connection) -> Option<Moment> {
    let handshake = connection.peer.is_none().then(|| handshake_timeout(connection));
    let handshake = handshake.map(|limit| connection.since.after(limit));
    let unread = connection.blocked_since.map(|since| since.after(UNREAD_TIMEOUT));
    handshake.into_iter().chain(unread).min()
}

fn handshake_timeout(connection: &Connection) -> Duration {
    match (connection.dialed, connection.open) {
        (Some(_), false) => DIAL_TIMEOUT,
        (Some(_), true) => DIALED_HANDSHAKE_TIMEOUT,
        (None, _) => HANDSHAKE_TIMEOUT,
    }
}
