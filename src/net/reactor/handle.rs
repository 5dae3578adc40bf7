//! How the other threads reach the reactor: bounded queues and one waker.

use crate::data::block::{Block, BlockError};
use crate::engine::{ConnId, Input, JobId, WantError};
use barrow_wire::{Cid, Message, Multihash, PeerId, Presence};
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use mio::Waker;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Commands that may wait; whoever sends more waits until the reactor has taken some.
const COMMANDS_MAX: usize = 1_024;

/// Where verified blocks and failed wants go.
pub trait Delivery: Send + Sync {
    /// Stores a block and hands it to everyone who waits for it; `false` if it is not stored, as all
    /// of these need it in passing. Called on a worker.
    fn deliver(&self, block: Block) -> bool;
    /// Leaves of `blocks` those that the job still waits for: others were delivered since it asked.
    /// Called on the reactor; must not wait.
    fn retain_waited(&self, job: JobId, blocks: &mut Vec<Multihash>);
    /// The jobs that wait for a block. Called on the reactor; must not wait.
    fn waiting(&self, hash: &Multihash) -> Vec<JobId>;
    /// A want ended without its block. Called on the reactor; must not wait.
    fn fail(&self, job: JobId, hash: Multihash, error: WantError);
}

/// Where addresses of providers come from. Called on the reactor; must not wait.
pub trait Finder: Send + Sync {
    /// Begins a search for providers of `root`, whose answers come as [`Input::Address`] and end
    /// with [`Input::DiscoveryDone`]; false if it does not, and nothing comes.
    fn look_up(&self, job: JobId, root: &Cid) -> bool;
    /// A peer has dialed us, from there.
    fn visited(&self, remote: SocketAddr);
    /// A dial led to a peer, or to nobody.
    fn dialed(&self, address: SocketAddr, peer: Option<PeerId>);
}

/// Who keeps slots of protected datasets for others. Called on the reactor; must not wait.
pub trait Keeper: Send + Sync {
    /// A peer said something of slots; gives what is answered at once, if anything is.
    fn told(&self, peer: PeerId, message: &Message) -> Option<Message>;
}

/// What the node asks of the reactor.
pub(crate) enum Command {
    /// For the engine.
    Input(Input),
    /// Run this on the reactor's thread, between two polls. It must not wait.
    Inspect(Box<dyn FnOnce(&crate::engine::Engine) + Send>),
    /// Close every connection and end.
    Shutdown,
}

/// What a worker or a disk thread has done for the reactor.
pub(super) enum Completion {
    Verified {
        conn: ConnId,
        hash: Multihash,
        len: u32,
        /// Whether it is stored, or was needed in passing.
        result: Result<bool, BlockError>,
    },
    LookedUp {
        conn: ConnId,
        found: Vec<(Multihash, Presence)>,
    },
    Read {
        conn: ConnId,
        hash: Multihash,
        block: Option<Block>,
    },
    /// Buffers came back to the pool.
    PoolReturned,
}

/// A waker that is rung once until the reactor has looked.
pub(super) struct Bell {
    waker: Waker,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new(waker: Waker) -> Self {
        Self { waker, rung: AtomicBool::new(false) }
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            log::error!("the reactor cannot be woken: {error}");
        }
    }

    /// To be called before the queues are looked at.
    pub(super) fn heard(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

/// A way to the reactor for any thread.
#[derive(Clone)]
pub struct ReactorHandle {
    pub(super) commands: Sender<Command>,
    pub(super) bell: Arc<Bell>,
}

impl ReactorHandle {
    /// Tells the engine something. Waits while 1,024 commands stand before it; after
    /// the reactor's end nothing happens.
    pub fn send(&self, input: Input) {
        self.command(Command::Input(input));
    }

    /// Looks at the engine on the reactor's thread; `None` once the reactor has ended.
    pub fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&crate::engine::Engine) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = bounded(1);
        self.command(Command::Inspect(Box::new(move |engine| {
            let _ = answer.send(look(engine));
        })));
        answered.recv().ok()
    }

    pub(crate) fn shutdown(&self) {
        self.command(Command::Shutdown);
    }

    fn command(&self, command: Command) {
        let sent = match self.commands.try_send(command) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(command)) => {
                self.bell.ring();
                self.commands.send(command)
            }
        };
        if sent.is_ok() {
            self.bell.ring();
        }
    }
}

/// The reactor's ends of its queues.
pub(super) struct Queues {
    pub(super) commands: Receiver<Command>,
    pub(super) completions: Receiver<Completion>,
    pub(super) complete: Completer,
}

/// The way back for workers and disk threads.
#[derive(Clone)]
pub(super) struct Completer {
    completions: Sender<Completion>,
    bell: Arc<Bell>,
}

impl Completer {
    pub(super) fn send(&self, completion: Completion) {
        // The reactor may have ended: then nobody wants to know.
        let _ = self.completions.send(completion);
        self.bell.ring();
    }
}

pub(super) fn queues(waker: Waker) -> (ReactorHandle, Queues, Arc<Bell>) {
    let bell = Arc::new(Bell::new(waker));
    let (commands, commands_in) = bounded(COMMANDS_MAX);
    // Each completion stands for a block in the pool, of which there are at most 8,192, or for a
    // look-up, of which a peer has one at a time. That is the bound; a queue that keeps a place
    // for each from the start would take 2 MiB of an idle node.
    let (completions, completions_in) = unbounded();
    let handle = ReactorHandle { commands, bell: bell.clone() };
    let complete = Completer { completions, bell: bell.clone() };
    (handle, Queues { commands: commands_in, completions: completions_in, complete }, bell)
}
