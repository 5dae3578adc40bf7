//! Who may have a CID: one seam to the engine, many sources behind it, side by side.
//!
//! Whoever asks hears of each address as it comes and of the end at a fixed time at the latest,
//! so that no slow source delays a fast one. All that sources say are hints of strangers: what
//! may be dialed is capped and filtered here, and only the handshake is believed.

#[cfg(feature = "dht")]
mod announcer;
mod book;
#[cfg(feature = "dht")]
mod dht;
mod look_ups;
#[cfg(feature = "mdns")]
mod mdns;
pub(crate) mod multiaddr;
#[cfg(feature = "portmap")]
mod port_map;
mod ranges;
mod router;
mod settings;

#[cfg(feature = "dht")]
pub use dht::DhtSettings;
#[cfg(feature = "mdns")]
pub use mdns::MdnsSettings;
#[cfg(feature = "portmap")]
pub use port_map::PortMapSettings;
pub(crate) use router::{PROTOCOL, check as check_router};
pub use settings::Settings;
pub(crate) use settings::check_bootstrap;

use crate::{
    engine::{Input, JobId},
    net::reactor::{Finder, ReactorHandle},
};
use barrow_wire::{Cid, Multihash, PeerId};
use book::Book;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use look_ups::{Asker, LookUpId, LookUps, Said, Subject};
use parking_lot::Mutex;
use ranges::Ranges;
use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Events that may wait for the discovery thread. The reactor drops what finds no room, sources
/// wait: none of them is waited for.
const EVENTS_MAX: usize = 1_024;
/// Look-ups that may wait for one source; it answers nothing to more.
const SOURCE_QUEUE_MAX: usize = 64;
/// Addresses taken of one answer of a source.
const HINTS_PER_ANSWER_MAX: usize = 16;

/// Who told of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A person, by `--peer` or `connect`.
    Given,
    /// Another peer.
    Exchange,
    /// A delegated router.
    Router,
    /// The local network.
    Mdns,
    /// The DHT.
    Dht,
}

impl Source {
    const ALL: [Self; 5] = [Self::Given, Self::Exchange, Self::Router, Self::Mdns, Self::Dht];

    /// A word for people and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Exchange => "exchange",
            Self::Router => "router",
            Self::Mdns => "mdns",
            Self::Dht => "dht",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }

    /// Whether it says who has what was asked for, and not only who is there.
    const fn provides(self) -> bool {
        match self {
            Self::Router | Self::Dht => true,
            Self::Given | Self::Exchange | Self::Mdns => false,
        }
    }
}

/// Where a peer may be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The address.
    pub address: SocketAddr,
    /// Who is said to be there.
    pub peer: Option<PeerId>,
}

/// What a router does for us: who comes to `external` comes to our port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The router's address and port towards the internet.
    pub external: SocketAddrV4,
    /// How it was asked for that.
    pub by: &'static str,
}

/// The mapping as it stands.
pub type Mapped = Arc<Mutex<Option<Mapping>>>;

/// What happens to the discovery thread.
enum Event {
    LookUp { subject: Subject, asker: Asker },
    Found { look_up: LookUpId, source: Source, hint: Hint },
    Finished { look_up: LookUpId, number: usize },
    Given { address: SocketAddr },
    Announce { hash: Multihash },
    Withdraw { hash: Multihash },
    Dialed { address: SocketAddr, peer: Option<PeerId> },
    Stop,
}

/// A source of addresses, with a thread of its own.
trait Provider: Send {
    /// Begins a look-up without waiting for anything; false if that cannot be done now.
    fn look_up(&mut self, look_up: LookUpId, hash: Multihash) -> bool;

    /// Whether it may be asked for others.
    fn answers_others(&self) -> bool;

    /// Tells others that we provide this, where the source has a place for that.
    fn announce(&mut self, _hash: &Multihash) {}

    /// No longer tells them.
    fn withdraw(&mut self, _hash: &Multihash) {}

    /// Ends it, and waits for its thread only where that ends at once.
    fn stop(&mut self);
}

/// The way back for a source.
#[derive(Clone)]
struct Answers {
    events: Sender<Event>,
    number: usize,
    source: Source,
}

impl Answers {
    fn found(&self, look_up: LookUpId, hints: impl IntoIterator<Item = Hint>) {
        for hint in hints.into_iter().take(HINTS_PER_ANSWER_MAX) {
            let _ = self.events.send(Event::Found { look_up, source: self.source, hint });
        }
    }

    fn finished(&self, look_up: LookUpId) {
        let _ = self.events.send(Event::Finished { look_up, number: self.number });
    }
}

/// A way to discovery for any thread.
#[derive(Clone)]
pub struct Discovery {
    events: Sender<Event>,
    book: Arc<Mutex<Book>>,
    reached: Arc<AtomicBool>,
    mapped: Mapped,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Discovery {
    /// Starts the threads.
    ///
    /// # Errors
    /// If a thread cannot be made.
    pub fn start(settings: &Settings, reactor: ReactorHandle) -> io::Result<Self> {
        let (events, inbox) = bounded(EVENTS_MAX);
        let book = Arc::new(Mutex::new(Book::open(&settings.book)));
        let now = Instant::now();
        let worker = Worker {
            look_ups: LookUps::new(now, Ranges::of(settings.configured())),
            providers: providers(settings, &events)?,
            #[cfg(feature = "portmap")]
            port_map: match &settings.port_map {
                Some(port) => {
                    Some(port_map::PortMap::start(port.clone(), settings.mapped.clone())?)
                }
                None => None,
            },
            book: book.clone(),
            inbox,
            reactor,
        };
        let thread = std::thread::Builder::new().name("discovery".into());
        let thread = thread.spawn(move || worker.run())?;
        let (reached, thread) = (Arc::default(), Arc::new(Mutex::new(Some(thread))));
        Ok(Self { events, book, reached, mapped: settings.mapped.clone(), thread })
    }

    /// Notes that a person gave an address.
    pub fn given(&self, address: SocketAddr) {
        let _ = self.events.send(Event::Given { address });
    }

    /// Tells others, again and again, that we have all of `root`.
    pub fn announce(&self, root: &Cid) {
        if let Some(hash) = root.multihash() {
            let _ = self.events.send(Event::Announce { hash });
        }
    }

    /// No longer tells others of `root`; what they heard they forget by themselves.
    pub fn withdraw(&self, root: &Cid) {
        if let Some(hash) = root.multihash() {
            let _ = self.events.send(Event::Withdraw { hash });
        }
    }

    /// Who is said to provide `cid`, for a client that asks; takes `limit` at most.
    pub fn providers(&self, cid: &Cid, limit: Duration) -> Vec<Hint> {
        let Some(hash) = cid.multihash() else { return Vec::new() };
        let (asker, answers) = bounded(look_ups::DIALS_PER_LOOK_UP_MAX);
        let subject = Subject { hash, for_others: true };
        let event = Event::LookUp { subject, asker: Asker::Query(asker) };
        if self.events.try_send(event).is_err() {
            return Vec::new();
        }
        let until = Instant::now() + limit;
        let mut hints = Vec::new();
        while let Ok(hint) = answers.recv_deadline(until) {
            hints.push(hint);
        }
        let book = self.book.lock();
        for hint in &mut hints {
            hint.peer = hint.peer.or_else(|| book.peer(hint.address));
        }
        hints
    }

    /// Who told of an address that was dialed.
    pub fn source(&self, address: SocketAddr) -> Option<Source> {
        self.book.lock().source(address)
    }

    /// Whether somebody from the internet has reached us; without that it is not known.
    pub fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// The port of a router that leads to us.
    pub fn mapping(&self) -> Option<Mapping> {
        *self.mapped.lock()
    }

    /// Ends the threads.
    pub fn shutdown(&self) {
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Finder for Discovery {
    fn look_up(&self, job: JobId, root: &Cid) -> bool {
        let Some(hash) = root.multihash() else { return false };
        let subject = Subject { hash, for_others: false };
        self.events.try_send(Event::LookUp { subject, asker: Asker::Job(job) }).is_ok()
    }

    fn visited(&self, remote: SocketAddr) {
        let public = Ranges::default().may_dial(remote, false);
        if public && !self.reached.swap(true, Ordering::Relaxed) {
            log::info!("this node is reachable: {remote} has connected to it");
        }
    }

    fn dialed(&self, address: SocketAddr, peer: Option<PeerId>) {
        // Without room it goes unremembered.
        let _ = self.events.try_send(Event::Dialed { address, peer });
    }
}

fn providers(settings: &Settings, events: &Sender<Event>) -> io::Result<Vec<Box<dyn Provider>>> {
    let mut providers: Vec<Box<dyn Provider>> = Vec::new();
    for url in &settings.routers {
        let number = providers.len();
        let answers = Answers { events: events.clone(), number, source: Source::Router };
        providers.push(Box::new(router::Router::start(url, answers)?));
    }
    #[cfg(feature = "mdns")]
    if let Some(mdns) = &settings.mdns {
        let number = providers.len();
        let answers = Answers { events: events.clone(), number, source: Source::Mdns };
        providers.push(Box::new(mdns::Mdns::start(mdns.clone(), answers)?));
    }
    #[cfg(feature = "dht")]
    if let Some(dht) = &settings.dht {
        let number = providers.len();
        let answers = Answers { events: events.clone(), number, source: Source::Dht };
        providers.push(Box::new(dht::DhtClient::start(dht.clone(), answers)?));
    }
    Ok(providers)
}

/// The discovery thread.
struct Worker {
    look_ups: LookUps,
    providers: Vec<Box<dyn Provider>>,
    #[cfg(feature = "portmap")]
    port_map: Option<port_map::PortMap>,
    book: Arc<Mutex<Book>>,
    inbox: Receiver<Event>,
    reactor: ReactorHandle,
}

impl Worker {
    fn run(mut self) {
        loop {
            let event = match self.look_ups.next_timeout() {
                Some(at) => self.inbox.recv_deadline(at),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let now = Instant::now();
            match event {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => self.on_event(now, event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look_ups.handle_timeout(now);
            while let Some(said) = self.look_ups.poll() {
                self.say(said);
            }
        }
        // Sources that still have something to say are not to wait for us.
        drop(self.inbox);
        for provider in &mut self.providers {
            provider.stop();
        }
        #[cfg(feature = "portmap")]
        if let Some(port_map) = &mut self.port_map {
            port_map.stop();
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::LookUp { subject, asker } => self.on_look_up(now, subject, asker),
            Event::Found { look_up, source, hint } => {
                self.book.lock().heard(hint, source);
                if self.book.lock().is_dead(now, hint.address) {
                    return;
                }
                self.look_ups.found(now, look_up, source, hint);
            }
            Event::Finished { look_up, number } => self.look_ups.finished(look_up, number),
            Event::Given { address } => {
                self.book.lock().heard(Hint { address, peer: None }, Source::Given);
            }
            Event::Announce { hash } => self.providers.iter_mut().for_each(|p| p.announce(&hash)),
            Event::Withdraw { hash } => self.providers.iter_mut().for_each(|p| p.withdraw(&hash)),
            Event::Dialed { address, peer: Some(peer) } => self.book.lock().met(address, peer),
            Event::Dialed { address, peer: None } => {
                self.book.lock().failed(now, address);
                self.look_ups.failed(address);
            }
            Event::Stop => {}
        }
    }

    fn on_look_up(&mut self, now: Instant, subject: Subject, asker: Asker) {
        // One more than the sources: the book, which has said all once it was read below.
        let book = self.providers.len();
        let Some(look_up) = self.look_ups.start(now, subject, asker, book + 1) else { return };
        for (number, provider) in self.providers.iter_mut().enumerate() {
            let may = provider.answers_others() || !subject.for_others;
            if !may || !provider.look_up(look_up, subject.hash) {
                self.look_ups.finished(look_up, number);
            }
        }
        let best = self.book.lock().best(now);
        for hint in best {
            self.look_ups.found(now, look_up, Source::Exchange, hint);
        }
        self.look_ups.finished(look_up, book);
    }

    fn say(&self, said: Said) {
        match said {
            Said::Hint(Asker::Job(job), Hint { address, peer }) => {
                self.reactor.send(Input::Address { address, peer, job: Some(job), keep: false });
            }
            Said::Hint(Asker::Query(hints), hint) => _ = hints.try_send(hint),
            Said::Done(Asker::Job(job)) => self.reactor.send(Input::DiscoveryDone { job }),
            // With its last sender the channel ends.
            Said::Done(Asker::Query(_)) => {}
        }
    }
}
