//! The BitTorrent Mainline DHT: who announced a dataset's root.
//!
//! The crate's answers are futures; one thread polls them all, and is woken through its own
//! queue, so that no runtime is needed. The client joins on the first need of it, and its names
//! are looked up on that thread, as a resolver may take long.

use super::{
    Answers, Hint, LookUpId, Mapped, Provider, SOURCE_QUEUE_MAX,
    announcer::{Announcer, KEY_BYTES, Key},
};
use barrow_wire::Multihash;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use futures_core::Stream;
use mainline::{
    Dht, Id, RequestFilter, RequestSpecific, ServerSettings,
    async_dht::{AsyncDht, GetStream},
};
use parking_lot::Mutex;
use ring::digest::{self, SHA256};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs as _, UdpSocket},
    ops::ControlFlow,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

/// What stands before a multihash when its name in the DHT is made: nobody else's names are ours.
const NAMESPACE: &[u8] = b"barrow dht provider 1\0";
/// Announcements under way; each takes a few seconds, and 125 begin in a second at most.
const ANNOUNCING_MAX: usize = 512;
/// Names that one client of the crate announces, 14 a second. Each datagram costs it a look at all
/// that it has under way, and the answers that its socket holds are about a hundred: those of a few
/// announcements at one time. One that is lost is waited for two seconds.
const KEYS_PER_CLIENT: usize = 12_500;
/// As many as the highest rate needs.
const CLIENTS_MAX: usize = 9;
/// A look-up that took so long ends.
const LOOK_UP_TIME: Duration = Duration::from_secs(15);
/// The same for an announcement: the crate never ends one that no node gave a token for.
const ANNOUNCE_TIME: Duration = Duration::from_secs(30);
/// At a stop, the thread's queue has this time to take one thing more.
const STOP_TIME: Duration = Duration::from_millis(100);
/// The wait after the DHT could not be entered; it doubles.
const REJOIN_MIN: Duration = Duration::from_secs(5);
/// The longest such wait.
const REJOIN_MAX: Duration = Duration::from_secs(300);
/// What a reachable node keeps for others: names, and addresses of each (8 MiB by default).
const KEPT_NAMES_MAX: usize = 500;
const KEPT_ADDRESSES_MAX: usize = 50;
/// Requests of others that a reachable node answers in a second.
const ANSWERS_PER_SECOND_MAX: u64 = 25;

/// How the DHT is used.
#[derive(Clone, Debug)]
pub struct DhtSettings {
    /// Where it is entered; empty: at its well-known nodes.
    pub bootstrap: Vec<String>,
    /// Where peers reach us; its first IPv4 address is announced, if it has one.
    pub listen: Vec<SocketAddr>,
    /// The port of a router that leads to us is announced in place of our own.
    pub mapped: Mapped,
    /// Nothing is announced before that can be known.
    pub announce_after: Duration,
    /// What is announced from the start.
    pub roots: Vec<Multihash>,
    /// Spreads announcements.
    pub seed: u64,
}

/// The DHT client's thread.
pub(super) struct DhtClient {
    commands: Sender<Command>,
    /// Changed at once, also while the thread waits for a name to be looked up.
    announcer: Arc<Mutex<Announcer>>,
}

enum Command {
    LookUp(LookUpId, Key),
    /// Something that was waited for has come, or there is something to announce.
    Wake,
    Stop,
}

impl DhtClient {
    pub(super) fn start(settings: DhtSettings, answers: Answers) -> io::Result<Self> {
        let (commands, inbox) = bounded(SOURCE_QUEUE_MAX);
        let waker = Waker::from(Arc::new(Bell(commands.clone())));
        let first = Instant::now() + settings.announce_after;
        let roots = settings.roots.iter().map(key);
        let announcer = Arc::new(Mutex::new(Announcer::new(first, roots, settings.seed)));
        let worker = Worker::new(settings, answers, inbox, waker, announcer.clone());
        std::thread::Builder::new().name("dht".into()).spawn(move || worker.run())?;
        Ok(Self { commands, announcer })
    }
}

impl Provider for DhtClient {
    fn look_up(&mut self, look_up: LookUpId, hash: Multihash) -> bool {
        self.commands.try_send(Command::LookUp(look_up, key(&hash))).is_ok()
    }

    fn answers_others(&self) -> bool {
        true
    }

    fn announce(&mut self, hash: &Multihash) {
        self.announcer.lock().add(Instant::now(), key(hash));
        // With a full queue the thread is awake anyway.
        let _ = self.commands.try_send(Command::Wake);
    }

    fn withdraw(&mut self, hash: &Multihash) {
        self.announcer.lock().remove(&key(hash));
    }

    fn stop(&mut self) {
        let _ = self.commands.send_timeout(Command::Stop, STOP_TIME);
    }
}

/// The DHT's name for a dataset.
fn key(hash: &Multihash) -> Key {
    let digest = digest::digest(&SHA256, &[NAMESPACE, &hash.to_bytes()].concat());
    let mut key = [0; 20];
    key.copy_from_slice(&digest.as_ref()[..20]);
    key
}

/// Wakes the thread through its queue.
struct Bell(Sender<Command>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        match self.0.try_send(Command::Wake) {
            // With a full queue it is awake anyway.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

struct LookUp {
    id: LookUpId,
    peers: GetStream<Vec<SocketAddrV4>>,
    until: Instant,
}

struct Announcement {
    key: Key,
    /// True once some node took it.
    done: Pin<Box<dyn Future<Output = bool> + Send>>,
    until: Instant,
}

struct Worker {
    settings: DhtSettings,
    answers: Answers,
    inbox: Receiver<Command>,
    waker: Waker,
    dht: Option<AsyncDht>,
    /// Clients that only announce, each with a socket and a thread of its own.
    helpers: Vec<AsyncDht>,
    /// Whether any node answered, until that is known.
    entering: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    rejoin_at: Instant,
    rejoin_wait: Duration,
    port: Option<u16>,
    announcer: Arc<Mutex<Announcer>>,
    look_ups: Vec<LookUp>,
    announcements: Vec<Announcement>,
}

impl Worker {
    fn new(
        settings: DhtSettings,
        answers: Answers,
        inbox: Receiver<Command>,
        waker: Waker,
        announcer: Arc<Mutex<Announcer>>,
    ) -> Self {
        let now = Instant::now();
        let port = ours(&settings).map(|address| address.port());
        Self {
            answers,
            inbox,
            waker,
            dht: None,
            helpers: Vec::new(),
            entering: None,
            rejoin_at: now,
            rejoin_wait: REJOIN_MIN,
            announcer,
            port,
            settings,
            look_ups: Vec::new(),
            announcements: Vec::new(),
        }
    }

    fn run(mut self) {
        loop {
            // A node that serves joins at once, so that its first look-up does not wait for that.
            if self.port.is_some() {
                self.join(Instant::now());
            }
            self.poll_entering();
            let command = match self.next_moment() {
                Some(at) => self.inbox.recv_deadline(at),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut next = match command {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // All that waits is done before anything is polled.
            while let Some(command) = next {
                if self.on_command(command).is_break() {
                    return;
                }
                next = self.inbox.try_recv().ok();
            }
            self.poll_look_ups();
            self.poll_announcements();
        }
    }

    fn next_moment(&self) -> Option<Instant> {
        let look_ups = self.look_ups.iter().map(|look_up| look_up.until);
        let free = self.announcements.len() < ANNOUNCING_MAX && self.port.is_some();
        let announcer = match self.dht {
            Some(_) => self.announcer.lock().next_due().filter(|_| free),
            None => self.port.map(|_| self.rejoin_at),
        };
        let announcements = self.announcements.iter().map(|announcement| announcement.until);
        look_ups.chain(announcements).chain(announcer).min()
    }

    fn on_command(&mut self, command: Command) -> ControlFlow<()> {
        let now = Instant::now();
        match command {
            Command::LookUp(id, key) => {
                self.join(now);
                match &self.dht {
                    Some(dht) => {
                        let peers = dht.get_peers(Id::from(key));
                        self.look_ups.push(LookUp { id, peers, until: now + LOOK_UP_TIME });
                    }
                    None => self.answers.finished(id),
                }
            }
            Command::Wake => {}
            Command::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Enters the DHT, unless that was tried in vain a moment ago.
    fn join(&mut self, now: Instant) {
        if self.dht.is_some() || now < self.rejoin_at {
            return;
        }
        match client(&self.settings, Role::Node) {
            Ok(dht) => {
                let asked = dht.clone();
                self.entering = Some(Box::pin(async move { asked.bootstrapped().await }));
                self.dht = Some(dht);
            }
            Err(error) => self.leave(&error.to_string()),
        }
    }

    fn leave(&mut self, reason: &str) {
        let again = self.rejoin_wait > REJOIN_MIN;
        let level = if again { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "the DHT cannot be entered: {reason}; it is tried again later");
        (self.dht, self.entering) = (None, None);
        self.helpers.clear();
        self.rejoin_at = Instant::now() + self.rejoin_wait;
        self.rejoin_wait = (self.rejoin_wait * 2).min(REJOIN_MAX);
    }

    /// The crate asks its bootstrap nodes every two seconds for as long as none answers: a node
    /// without a network must not, so it leaves and comes back later.
    fn poll_entering(&mut self) {
        let Some(entering) = &mut self.entering else { return };
        match entering.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Pending => {}
            Poll::Ready(true) => {
                log::debug!("the DHT is entered");
                (self.entering, self.rejoin_wait) = (None, REJOIN_MIN);
            }
            Poll::Ready(false) => self.leave("no node answers"),
        }
    }

    fn poll_look_ups(&mut self) {
        let (now, mut context) = (Instant::now(), Context::from_waker(&self.waker));
        let answers = &self.answers;
        self.look_ups.retain_mut(|look_up| {
            loop {
                match Pin::new(&mut look_up.peers).poll_next(&mut context) {
                    Poll::Ready(Some(peers)) => {
                        let hints = peers
                            .into_iter()
                            .map(|address| Hint { address: address.into(), peer: None });
                        answers.found(look_up.id, hints);
                    }
                    Poll::Pending if now < look_up.until => return true,
                    Poll::Pending | Poll::Ready(None) => {
                        answers.finished(look_up.id);
                        return false;
                    }
                }
            }
        });
    }

    /// As many helpers as the number of names asks for, once the DHT is entered.
    fn match_helpers(&mut self) {
        let wanted = (self.announcer.lock().len() / KEYS_PER_CLIENT).min(CLIENTS_MAX - 1);
        self.helpers.truncate(wanted);
        if self.dht.is_none() || self.entering.is_some() || Instant::now() < self.rejoin_at {
            return;
        }
        while self.helpers.len() < wanted {
            match client(&self.settings, Role::Helper) {
                Ok(helper) => self.helpers.push(helper),
                Err(error) => {
                    log::debug!("announcing goes on with fewer sockets: {error}");
                    self.rejoin_at = Instant::now() + REJOIN_MIN;
                    return;
                }
            }
        }
    }

    fn poll_announcements(&mut self) {
        let now = Instant::now();
        let Some(port) = self.port else { return };
        self.match_helpers();
        let Some(dht) = &self.dht else { return };
        let mapping = *self.settings.mapped.lock();
        let port = mapping.map_or(port, |mapping| mapping.external.port());
        let mut announcer = self.announcer.lock();
        while self.announcements.len() < ANNOUNCING_MAX
            && let Some(key) = announcer.take_due(now)
        {
            // Names follow each other in their order, so that the next goes to another client.
            let nth = usize::from(key[KEY_BYTES - 1]) % (1 + self.helpers.len());
            let dht = self.helpers.get(nth).unwrap_or(dht).clone();
            let done = async move { dht.announce_peer(Id::from(key), Some(port)).await.is_ok() };
            let until = now + ANNOUNCE_TIME;
            self.announcements.push(Announcement { key, done: Box::pin(done), until });
        }
        let mut context = Context::from_waker(&self.waker);
        self.announcements.retain_mut(|announcement| {
            match announcement.done.as_mut().poll(&mut context) {
                Poll::Pending if now < announcement.until => return true,
                Poll::Ready(true) => log::debug!("a dataset is announced in the DHT"),
                Poll::Pending | Poll::Ready(false) => announcer.failed(now, announcement.key),
            }
            false
        });
    }
}

/// The address that is announced. One that this machine alone reaches is so only in a network of
/// DHT nodes that a person named, as tests have it.
fn ours(settings: &DhtSettings) -> Option<SocketAddrV4> {
    let addresses = settings.listen.iter().filter_map(|address| match address {
        SocketAddr::V4(v4) => Some(*v4),
        SocketAddr::V6(_) => None,
    });
    let named = !settings.bootstrap.is_empty();
    addresses.into_iter().find(|address| named || !address.ip().is_loopback())
}

/// What a client of the crate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It looks up, announces, and answers others.
    Node,
    /// It takes part in announcing.
    Helper,
}

/// Looks the bootstrap nodes up and binds a socket. The crate would take an empty list for good.
fn client(settings: &DhtSettings, role: Role) -> io::Result<AsyncDht> {
    let names: Vec<&str> = match &settings.bootstrap[..] {
        [] => mainline::DEFAULT_BOOTSTRAP_NODES.to_vec(),
        given => given.iter().map(|name| &name[..]).collect(),
    };
    let mut nodes = Vec::new();
    for name in &names {
        match name.to_socket_addrs() {
            Ok(addresses) => nodes.extend(addresses.filter(SocketAddr::is_ipv4)),
            Err(error) => log::debug!("{name}: {error}"),
        }
    }
    if nodes.is_empty() {
        return Err(io::Error::other(format!("none of {} is known", names.join(", "))));
    }
    let mut builder = Dht::builder();
    let (names, per_second) = match role {
        Role::Node => (KEPT_NAMES_MAX, ANSWERS_PER_SECOND_MAX),
        Role::Helper => (1, 0),
    };
    builder.bootstrap(&nodes).server_settings(ServerSettings {
        max_info_hashes: names,
        max_peers_per_info_hash: KEPT_ADDRESSES_MAX,
        max_immutable_values: names,
        max_mutable_values: names,
        filter: Box::new(AnswerRate { per_second, count: Arc::default() }),
    });
    let ours = ours(settings);
    let ip = ours.map_or(Ipv4Addr::UNSPECIFIED, |address| *address.ip());
    builder.bind_address(ip);
    // The port that is announced, so that one hole in a NAT or firewall serves both. The crate
    // panics where it cannot bind, so that is tried first.
    match ours.filter(|address| role == Role::Node && UdpSocket::bind(address).is_ok()) {
        Some(address) => drop(builder.port(address.port())),
        None if role == Role::Helper => drop(builder.port(0)),
        None => {}
    }
    Ok(builder.build()?.as_async())
}

/// Answers so many requests a second and ignores the rest: a node that others found reachable is
/// made part of the DHT, and must not be worn out by that, nor made to reflect a flood.
#[derive(Clone, Debug)]
struct AnswerRate {
    per_second: u64,
    /// The second, in the upper half, and the answers in it.
    count: Arc<AtomicU64>,
}

impl RequestFilter for AnswerRate {
    fn allow_request(&self, _request: &RequestSpecific, _from: SocketAddrV4) -> bool {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let second = START.get_or_init(Instant::now).elapsed().as_secs() << 32;
        let before = self.count.load(Ordering::Relaxed);
        let count = if before & !0xffff_ffff == second { before + 1 } else { second + 1 };
        self.count.store(count, Ordering::Relaxed);
        count & 0xffff_ffff <= self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::discovery::{Event, Mapping, Source};
    use barrow_wire::HashCode;

    #[test]
    fn a_name_in_the_dht_is_no_hash_of_anybody_else() {
        let hash = Multihash::of(HashCode::Sha2_256, b"hello world");
        let name = key(&hash);
        assert!(!hash.to_bytes().windows(20).any(|part| part == name));
        assert_eq!(data_encoding::HEXLOWER.encode(&name).len(), 40);
        assert_ne!(name, key(&Multihash::of(HashCode::Sha2_256, b"hello")));
    }

    fn settings_of(testnet: &mainline::Testnet, roots: Vec<Multihash>) -> DhtSettings {
        DhtSettings {
            bootstrap: testnet.bootstrap.clone(),
            listen: vec![UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()],
            mapped: Mapped::default(),
            announce_after: Duration::from_millis(300),
            roots,
            seed: 1,
        }
    }

    fn client_of(settings: DhtSettings) -> (DhtClient, Receiver<Event>) {
        let (events, inbox) = bounded(64);
        let answers = Answers { events, number: 0, source: Source::Dht };
        (DhtClient::start(settings, answers).unwrap(), inbox)
    }

    #[test]
    fn the_port_that_a_router_maps_is_announced_in_place_of_our_own() {
        let testnet = mainline::Testnet::builder(5).build().unwrap();
        let hash = Multihash::of(HashCode::Sha2_256, b"hello world");
        let external = SocketAddrV4::new(Ipv4Addr::new(51, 15, 7, 1), 5_555);
        let mapping = Mapping { external, by: "a test" };
        let settings = settings_of(&testnet, vec![hash]);
        let mapped = settings.mapped.clone();
        let (mut provider, _events) = client_of(settings.clone());
        // Later than the start, as a router answers, and before anything is announced.
        *mapped.lock() = Some(mapping);
        let (mut client, found) =
            client_of(DhtSettings { listen: Vec::new(), roots: Vec::new(), ..settings });
        let until = Instant::now() + Duration::from_secs(20);
        let address = loop {
            assert!(client.look_up(LookUpId::default(), hash) && Instant::now() < until);
            match found.recv_timeout(Duration::from_millis(500)) {
                Ok(Event::Found { hint, .. }) => break hint.address,
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        assert_eq!(address, "127.0.0.1:5555".parse().unwrap());
        provider.stop();
        client.stop();
    }

    #[test]
    fn many_names_are_announced_from_more_sockets_and_few_from_one() {
        let testnet = mainline::Testnet::builder(5).build().unwrap();
        let settings = settings_of(&testnet, Vec::new());
        let names = (0..2 * KEYS_PER_CLIENT as u64).map(|n| {
            let mut key = [0; KEY_BYTES];
            key[12..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            key
        });
        let names: Vec<Key> = names.collect();
        let announcer = Announcer::new(Instant::now(), names.iter().copied(), 1);
        let announcer = Arc::new(Mutex::new(announcer));
        let (events, _inbox) = bounded(64);
        let (commands, inbox) = bounded(64);
        let waker = Waker::from(Arc::new(Bell(commands)));
        let answers = Answers { events, number: 0, source: Source::Dht };
        let mut worker = Worker::new(settings, answers, inbox, waker, announcer.clone());
        worker.join(Instant::now());
        worker.match_helpers();
        assert_eq!(worker.helpers.len(), 0, "the DHT is not entered yet");
        while worker.entering.is_some() {
            let _ = worker.inbox.recv_timeout(Duration::from_secs(1));
            worker.poll_entering();
        }
        worker.match_helpers();
        assert_eq!(worker.helpers.len(), 2);
        announcer.lock().remove(&names[0]);
        worker.match_helpers();
        assert_eq!(worker.helpers.len(), 1);
        for name in &names[..=KEYS_PER_CLIENT] {
            announcer.lock().remove(name);
        }
        worker.match_helpers();
        assert_eq!(worker.helpers.len(), 0);
        worker.leave("a test ends it");
        worker.match_helpers();
        assert_eq!(worker.helpers.len(), 0);
    }
}
