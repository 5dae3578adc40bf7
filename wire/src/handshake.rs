//! Noise XX with the identity in its payload: who answers is known before anything else is said.

use crate::{
    Identity, PeerId,
    limits::HANDSHAKE_BYTES_MAX,
    resolver::{Resolver, X25519},
};
use ring::digest;
use snow::{Builder, HandshakeState, TransportState, params::NoiseParams, types::Dh as _};
use std::fmt;
use zeroize::Zeroizing;

/// Begins every prologue: the protocol and its version.
const PROTOCOL: &[u8] = b"barrow/1";
/// Begins what an identity signs for its static key.
const STATIC_KEY_DOMAIN: &[u8] = b"barrow noise static key\0";
/// Public key and signature.
const PAYLOAD_BYTES: usize = 32 + 64;
/// What the responder says of the offer that it read: the SHA-256 of flight 1.
const OFFER_HASH_BYTES: usize = 32;

/// The AEAD of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Suite {
    /// `Noise_XX_25519_ChaChaPoly_SHA256`, which everyone has.
    ChaChaPoly = 1,
    /// `Noise_XX_25519_AESGCM_SHA256`, for processors with AES instructions.
    AesGcm = 2,
}

impl Suite {
    fn params(self, swarm: bool) -> NoiseParams {
        let name = match (self, swarm) {
            (Self::ChaChaPoly, false) => "Noise_XX_25519_ChaChaPoly_SHA256",
            (Self::ChaChaPoly, true) => "Noise_XXpsk0_25519_ChaChaPoly_SHA256",
            (Self::AesGcm, false) => "Noise_XX_25519_AESGCM_SHA256",
            (Self::AesGcm, true) => "Noise_XXpsk0_25519_AESGCM_SHA256",
        };
        name.parse().expect("the names are Noise's own")
    }

    fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::ChaChaPoly),
            2 => Some(Self::AesGcm),
            _ => None,
        }
    }
}

/// Which suites a side offers or takes, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suites {
    /// Whether AES-GCM is among them.
    pub aes_gcm: bool,
}

impl Default for Suites {
    /// What this processor is good at.
    fn default() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let aes_gcm = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let aes_gcm = std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let aes_gcm = false;
        Self { aes_gcm }
    }
}

impl Suites {
    fn list(self) -> &'static [Suite] {
        if self.aes_gcm { &[Suite::AesGcm, Suite::ChaChaPoly] } else { &[Suite::ChaChaPoly] }
    }
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not the shape that SPEC.md gives.
    Malformed,
    /// No suite in common.
    NoSuite,
    /// A Noise message does not authenticate: another swarm key, or somebody in between.
    Noise,
    /// The identity did not sign the static key.
    Signature,
    /// Another peer answers than was expected.
    WrongPeer,
    /// It is ourselves.
    OurselvesDialed,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it does not speak barrow's handshake",
            Self::NoSuite => "no cipher suite in common",
            Self::Noise => "the handshake does not authenticate (another swarm key?)",
            Self::Signature => "the identity did not sign its Noise key",
            Self::WrongPeer => "another peer answers there",
            Self::OurselvesDialed => "it is this very node",
        })
    }
}

impl std::error::Error for HandshakeError {}

/// A node's X25519 key for Noise, signed by its identity. Made anew at each start.
///
/// ```
/// use barrow_wire::{Identity, StaticKey};
/// let identity = Identity::from_seed([7; 32]);
/// let key = StaticKey::generate(&identity);
/// assert_eq!(format!("{key:?}"), format!("StaticKey({})", identity.peer_id()));
/// ```
pub struct StaticKey {
    private: Zeroizing<Vec<u8>>,
    payload: [u8; PAYLOAD_BYTES],
    peer: PeerId,
}

impl StaticKey {
    /// Makes a key, and signs it.
    ///
    /// # Panics
    /// If the operating system has no randomness.
    pub fn generate(identity: &Identity) -> Self {
        let pair = Builder::with_resolver(Suite::ChaChaPoly.params(false), Box::new(Resolver))
            .generate_keypair()
            .expect("the operating system gives randomness");
        Self::signed(identity, pair.private, &pair.public)
    }

    /// A key that is not random, for test vectors.
    #[doc(hidden)]
    pub fn from_private_for_testing_only(identity: &Identity, private: [u8; 32]) -> Self {
        let mut key = X25519::default();
        key.set(&private);
        Self::signed(identity, private.to_vec(), key.pubkey())
    }

    fn signed(identity: &Identity, private: Vec<u8>, public: &[u8]) -> Self {
        let peer = identity.peer_id();
        let mut payload = [0; PAYLOAD_BYTES];
        let (key, signature) = payload.split_at_mut(32);
        key.copy_from_slice(peer.public_key());
        signature.copy_from_slice(&identity.sign(&signed_bytes(public)));
        Self { private: Zeroizing::new(private), payload, peer }
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({})", self.peer)
    }
}

fn signed_bytes(static_key: &[u8]) -> Vec<u8> {
    [STATIC_KEY_DOMAIN, static_key].concat()
}

/// What both sides of a handshake need to know.
///
/// ```
/// use barrow_wire::{Identity, Session, SessionConfig, StaticKey, Suites};
/// let ours = StaticKey::generate(&Identity::from_seed([1; 32]));
/// let theirs = Identity::from_seed([2; 32]).peer_id();
/// let config = SessionConfig {
///     static_key: &ours,
///     swarm_key: Some(&[9; 32]),
///     expected: Some(theirs),
///     suites: Suites::default(),
/// };
/// let dialing = Session::<Vec<u8>>::initiator(&config);
/// assert!(dialing.wants_transmit() && !dialing.is_established());
/// ```
#[derive(Clone, Copy)]
pub struct SessionConfig<'a> {
    /// Our key.
    pub static_key: &'a StaticKey,
    /// The swarm's secret, if it has one: without it no peer gets an answer.
    pub swarm_key: Option<&'a [u8; 32]>,
    /// Who must be at the other end, if it matters.
    pub expected: Option<PeerId>,
    /// What we offer or take.
    pub suites: Suites,
}

/// A handshake under way: flights in, flights out, at the end the transport.
pub(crate) struct Handshake {
    payload: [u8; PAYLOAD_BYTES],
    ourselves: PeerId,
    expected: Option<PeerId>,
    stage: Stage,
}

enum Stage {
    /// We offered these, and wait for the choice.
    Offered(Offer),
    /// We wait for an offer.
    Awaiting(Responder),
    /// We chose, and wait for the last flight.
    Chosen(Box<HandshakeState>),
    /// It is over.
    Over,
}

struct Offer {
    states: Vec<(Suite, HandshakeState)>,
    hash: [u8; OFFER_HASH_BYTES],
}

struct Responder {
    private: Zeroizing<Vec<u8>>,
    swarm_key: Option<Zeroizing<[u8; 32]>>,
    suites: Suites,
    ephemeral: Option<[u8; 32]>,
}

/// What a flight of the other side led to.
pub(crate) struct Progress {
    /// Our answer.
    pub(crate) reply: Option<Vec<u8>>,
    /// The end.
    pub(crate) done: Option<(PeerId, Box<TransportState>)>,
}

impl Handshake {
    /// Begins as the one who dials; gives the first flight. Only tests fix the ephemeral key.
    pub(crate) fn initiator(
        config: &SessionConfig<'_>,
        ephemeral: Option<&[u8; 32]>,
    ) -> (Self, Vec<u8>) {
        let suites = config.suites.list();
        let ids: Vec<u8> = suites.iter().map(|suite| *suite as u8).collect();
        let mut flight = vec![1, u8::try_from(ids.len()).expect("two suites at most")];
        let mut states = Vec::new();
        for &suite in suites {
            let keys = Keys {
                private: &config.static_key.private,
                swarm_key: config.swarm_key,
                ephemeral,
            };
            let mut state =
                build(suite, &ids, keys, true).expect("our own key and parameters are sound");
            let mut message = [0; 64];
            let len = state.write_message(&[], &mut message).expect("the first message is short");
            flight.push(suite as u8);
            flight.push(u8::try_from(len).expect("at most 48 bytes"));
            flight.extend(message.iter().take(len));
            states.push((suite, state));
        }
        let offer = Offer { states, hash: hash_offer(&flight) };
        (Self::new(config, Stage::Offered(offer)), flight)
    }

    /// Begins as the one who was dialed. Only tests fix the ephemeral key.
    pub(crate) fn responder(config: &SessionConfig<'_>, ephemeral: Option<&[u8; 32]>) -> Self {
        let responder = Responder {
            private: config.static_key.private.clone(),
            swarm_key: config.swarm_key.map(|key| Zeroizing::new(*key)),
            suites: config.suites,
            ephemeral: ephemeral.copied(),
        };
        Self::new(config, Stage::Awaiting(responder))
    }

    fn new(config: &SessionConfig<'_>, stage: Stage) -> Self {
        Self {
            payload: config.static_key.payload,
            ourselves: config.static_key.peer,
            expected: config.expected,
            stage,
        }
    }

    /// Takes the other side's next flight.
    pub(crate) fn handle(&mut self, flight: &[u8]) -> Result<Progress, HandshakeError> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Offered(offer) => self.on_choice(offer, flight),
            Stage::Awaiting(responder) => self.on_offer(&responder, flight),
            Stage::Chosen(state) => self.on_last(*state, flight),
            Stage::Over => Err(HandshakeError::Malformed),
        }
    }

    fn on_offer(&mut self, own: &Responder, flight: &[u8]) -> Result<Progress, HandshakeError> {
        let offers = parse_offers(flight)?;
        let ids: Vec<u8> = offers.iter().map(|(id, _)| *id).collect();
        let (suite, message) = own
            .suites
            .list()
            .iter()
            .find_map(|&suite| {
                offers.iter().find(|(id, _)| *id == suite as u8).map(|(_, m)| (suite, *m))
            })
            .ok_or(HandshakeError::NoSuite)?;
        let keys = Keys {
            private: &own.private,
            swarm_key: own.swarm_key.as_deref(),
            ephemeral: own.ephemeral.as_ref(),
        };
        let mut state = build(suite, &ids, keys, false)?;
        if !read(&mut state, message)?.is_empty() {
            // Without a swarm key, the tag of one who has it is read as a payload.
            return Err(HandshakeError::Noise);
        }
        let mut reply = vec![suite as u8];
        let payload = [&self.payload[..], &hash_offer(flight)].concat();
        reply.extend(write(&mut state, &payload)?);
        self.stage = Stage::Chosen(Box::new(state));
        Ok(Progress { reply: Some(reply), done: None })
    }

    fn on_choice(&mut self, offer: Offer, flight: &[u8]) -> Result<Progress, HandshakeError> {
        let (id, message) = flight.split_first().ok_or(HandshakeError::Malformed)?;
        let chosen = Suite::from_id(*id).ok_or(HandshakeError::Malformed)?;
        let (_, mut state) = offer
            .states
            .into_iter()
            .find(|(suite, _)| *suite == chosen)
            .ok_or(HandshakeError::NoSuite)?;
        let payload = read(&mut state, message)?;
        let (identity, offer_hash) =
            payload.split_last_chunk::<OFFER_HASH_BYTES>().ok_or(HandshakeError::Malformed)?;
        if identity.len() != PAYLOAD_BYTES {
            return Err(HandshakeError::Malformed);
        }
        if *offer_hash != offer.hash {
            // Noise binds the message of the chosen suite alone; somebody changed another.
            return Err(HandshakeError::Noise);
        }
        let peer = self.check_identity(&state, identity)?;
        let reply = write(&mut state, &self.payload)?;
        let transport = state.into_transport_mode().map_err(|_| HandshakeError::Noise)?;
        Ok(Progress { reply: Some(reply), done: Some((peer, Box::new(transport))) })
    }

    fn on_last(
        &mut self,
        mut state: HandshakeState,
        flight: &[u8],
    ) -> Result<Progress, HandshakeError> {
        let payload = read(&mut state, flight)?;
        let peer = self.check_identity(&state, &payload)?;
        let transport = state.into_transport_mode().map_err(|_| HandshakeError::Noise)?;
        Ok(Progress { reply: None, done: Some((peer, Box::new(transport))) })
    }

    fn check_identity(
        &self,
        state: &HandshakeState,
        payload: &[u8],
    ) -> Result<PeerId, HandshakeError> {
        // The key and the signature, and nothing behind them.
        let (key, signature) = payload.split_first_chunk().ok_or(HandshakeError::Malformed)?;
        let signature = signature.try_into().map_err(|_| HandshakeError::Malformed)?;
        let peer = PeerId::from_public_key(*key);
        let static_key = state.get_remote_static().ok_or(HandshakeError::Noise)?;
        if !peer.verifies(&signed_bytes(static_key), signature) {
            return Err(HandshakeError::Signature);
        }
        if peer == self.ourselves {
            return Err(HandshakeError::OurselvesDialed);
        }
        if self.expected.is_some_and(|expected| expected != peer) {
            return Err(HandshakeError::WrongPeer);
        }
        Ok(peer)
    }
}

fn hash_offer(flight: &[u8]) -> [u8; OFFER_HASH_BYTES] {
    let hash = digest::digest(&digest::SHA256, flight);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The offers of a first flight: suite ids, known or not, with their Noise messages.
fn parse_offers(flight: &[u8]) -> Result<Vec<(u8, &[u8])>, HandshakeError> {
    let [1, count, rest @ ..] = flight else { return Err(HandshakeError::Malformed) };
    let (mut offers, mut rest) = (Vec::new(), rest);
    for _ in 0..*count {
        let [id, len, tail @ ..] = rest else { return Err(HandshakeError::Malformed) };
        let (message, tail) =
            tail.split_at_checked((*len).into()).ok_or(HandshakeError::Malformed)?;
        if offers.iter().any(|(other, _)| other == id) {
            return Err(HandshakeError::Malformed);
        }
        offers.push((*id, message));
        rest = tail;
    }
    if rest.is_empty() { Ok(offers) } else { Err(HandshakeError::Malformed) }
}

/// The keys of a Noise state.
#[derive(Clone, Copy)]
struct Keys<'a> {
    private: &'a [u8],
    swarm_key: Option<&'a [u8; 32]>,
    /// Random, unless a test fixes it.
    ephemeral: Option<&'a [u8; 32]>,
}

/// A Noise state whose prologue binds the protocol and every suite that was offered, so that an
/// offer that somebody strips on the way fails the handshake.
fn build(
    suite: Suite,
    offered: &[u8],
    keys: Keys<'_>,
    initiator: bool,
) -> Result<HandshakeState, HandshakeError> {
    let prologue = [PROTOCOL, offered].concat();
    let params = suite.params(keys.swarm_key.is_some());
    let mut builder = Builder::with_resolver(params, Box::new(Resolver))
        .local_private_key(keys.private)
        .and_then(|builder| builder.prologue(&prologue))
        .map_err(|_| HandshakeError::Noise)?;
    if let Some(key) = keys.swarm_key {
        builder = builder.psk(0, key).map_err(|_| HandshakeError::Noise)?;
    }
    if let Some(key) = keys.ephemeral {
        builder = builder.fixed_ephemeral_key_for_testing_only(key);
    }
    let built = if initiator { builder.build_initiator() } else { builder.build_responder() };
    built.map_err(|_| HandshakeError::Noise)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut payload = vec![0; HANDSHAKE_BYTES_MAX];
    let len = state.read_message(message, &mut payload).map_err(|_| HandshakeError::Noise)?;
    payload.truncate(len);
    Ok(payload)
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut message = vec![0; HANDSHAKE_BYTES_MAX];
    let len = state.write_message(payload, &mut message).map_err(|_| HandshakeError::Noise)?;
    message.truncate(len);
    Ok(message)
}
