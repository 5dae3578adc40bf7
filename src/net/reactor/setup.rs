//! What a reactor is made of, and its start.

use super::{
    Reactor, WAKER,
    connection::ReadBuffer,
    handle::{Bell, Completion, Delivery, Finder, Keeper, Queues, ReactorHandle, queues},
    opening::Begun,
};
use crate::{
    base::{metrics::Metrics, pool::Pool},
    engine::Engine,
    net::ledger::Ledger,
    store::disk::Disk,
};
use barrow_wire::StaticKey;
use mio::{Interest, Poll, Token, net::TcpListener};
use rayon::ThreadPool;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
    thread::JoinHandle,
    time::Instant,
};

/// Who the node is to its peers.
pub struct Keys {
    /// The Noise key that the identity signed.
    pub static_key: StaticKey,
    /// The secret of the swarm, if it has one.
    pub swarm_key: Option<[u8; 32]>,
}

/// What the reactor works with.
pub struct Parts {
    /// Who we are.
    pub keys: Keys,
    /// The exchange.
    pub engine: Engine,
    /// Where blocks for peers are read.
    pub disk: Disk,
    /// Where blocks from peers go.
    pub delivery: Arc<dyn Delivery>,
    /// Who finds providers.
    pub finder: Arc<dyn Finder>,
    /// Who keeps slots for peers.
    pub keeper: Arc<dyn Keeper>,
    /// Buffers.
    pub pool: Pool,
    /// Workers that hash.
    pub workers: Arc<ThreadPool>,
    /// What is remembered of peers.
    pub ledger: Arc<Ledger>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Connections to peers at most.
    pub connections_max: usize,
}

/// A reactor that is set up and not yet running: its handle can be given out first.
pub struct Setup {
    poll: Poll,
    queues: Queues,
    bell: Arc<Bell>,
    handle: ReactorHandle,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Setup {
    /// Binds the listeners; port 0 takes a free one, the same for all that ask for one.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub fn bind(listen: &[SocketAddr]) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (handle, queues, bell) = queues(mio::Waker::new(poll.registry(), WAKER)?);
        let mut setup =
            Self { poll, queues, bell, handle, listeners: Vec::new(), addresses: Vec::new() };
        for &address in listen {
            setup.listen(address)?;
        }
        Ok(setup)
    }

    fn listen(&mut self, mut address: SocketAddr) -> io::Result<()> {
        use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
        if address.port() == 0
            && let Some(first) = self.addresses.first()
        {
            address.set_port(first.port());
        }
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        if address.is_ipv6() {
            // Else [::] takes the IPv4 port as well, and 0.0.0.0 beside it fails.
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &address).and_then(|()| net::listen(&socket, 1_024)).map_err(
            |error| {
                let error = io::Error::from(error);
                io::Error::new(error.kind(), format!("{address}: {error}"))
            },
        )?;
        let mut listener = TcpListener::from_std(socket.into());
        self.addresses.push(listener.local_addr()?);
        let token = Token(self.listeners.len());
        self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push(listener);
        Ok(())
    }

    /// Where peers reach us.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The way in for other threads.
    pub fn handle(&self) -> ReactorHandle {
        self.handle.clone()
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn run(self, parts: Parts) -> io::Result<JoinHandle<()>> {
        let complete = self.queues.complete.clone();
        parts.pool.on_return(move || complete.send(Completion::PoolReturned));
        let reactor = Reactor {
            poll: self.poll,
            queues: self.queues,
            bell: self.bell,
            listeners: self.listeners,
            parts,
            started: Instant::now(),
            connections: BTreeMap::new(),
            next_conn: 0,
            ready: VecDeque::new(),
            starved: BTreeSet::new(),
            to_write: BTreeSet::new(),
            inputs: VecDeque::new(),
            input: ReadBuffer::new(),
            scratch: Vec::new(),
            begun: Begun::default(),
            accept_again: None,
            stopping: false,
        };
        std::thread::Builder::new().name("reactor".into()).spawn(move || reactor.run())
    }
}
