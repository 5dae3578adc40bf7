//! Spreading the slots of a protected dataset over the peers on the allow-list.

use super::Node;
use crate::{
    content::store_stream::{GetError, Scope},
    engine::Input,
    erasure::{Manifest, Shape},
    store::local_store::Slot,
};
use barrow_wire::{Cid, Message, PeerId, SlotState};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A peer that is not connected is waited for so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that fetches a slot says so every few seconds; after this time it is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// So often it is looked who is connected.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Datasets whose holders are remembered, the latest last.
const REMEMBERED_MAX: usize = 1_000;

/// Why nothing was spread.
#[derive(Debug)]
pub enum SpreadError {
    /// There is nobody to ask.
    NoPeers,
    /// A peer that was named is not on the allow-list.
    NotAllowed(PeerId),
    /// The block that was named protects nothing.
    NotProtected,
    /// The manifest cannot be had, or the node stops.
    Get(GetError),
}

impl fmt::Display for SpreadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPeers => {
                f.write_str("nobody is on the allow-list; `barrow serve --allow-peer ID` adds one")
            }
            Self::NotAllowed(peer) => write!(f, "{peer} is not on the allow-list (--allow-peer)"),
            Self::NotProtected => {
                f.write_str("it is not protected; `barrow protect CID` gives the CID that is")
            }
            Self::Get(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SpreadError {}

impl From<GetError> for SpreadError {
    fn from(error: GetError) -> Self {
        Self::Get(error)
    }
}

/// How a slot stands with its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderState {
    /// The peer is not connected.
    Unreachable,
    /// The peer does not trust us, or has too much to do.
    Refused,
    /// It is being fetched.
    Fetching,
    /// All of it is verified and synced there.
    Held,
    /// It could not be fetched.
    Failed,
}

impl fmt::Display for HolderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Fetching => "fetching",
            Self::Held => "held",
            Self::Failed => "failed",
        })
    }
}

/// Who is to hold a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Which slot.
    pub slot: u16,
    /// Who.
    #[serde(with = "as_text")]
    pub peer: PeerId,
    /// How it stands.
    pub state: HolderState,
}

/// Who holds which slot of a protected dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The protected manifest.
    #[serde(with = "as_text")]
    pub cid: Cid,
    /// Data shards of a stripe.
    pub data: u16,
    /// Parity shards of a stripe.
    pub parity: u16,
    /// One holder a slot, in order.
    pub holders: Vec<Holder>,
}

impl Spread {
    /// Whether each slot is held.
    pub fn is_whole(&self) -> bool {
        self.holders.iter().all(|holder| holder.state == HolderState::Held)
    }

    /// How many of those who hold a slot may be lost, whichever they are; none if what they hold
    /// does not give all.
    pub fn bears(&self) -> Option<usize> {
        let shards = usize::from(self.data + self.parity);
        let held = self.holders.iter().filter(|holder| holder.state == HolderState::Held);
        let mut held: Vec<usize> =
            held.map(|holder| self.slot(holder.slot).places(shards).len()).collect();
        let mut lost = shards - held.iter().sum::<usize>();
        held.sort_unstable();
        let mut bears = None;
        while lost <= usize::from(self.parity) {
            bears = Some(bears.map_or(0, |bears| bears + 1));
            let Some(most) = held.pop() else { break };
            lost += most;
        }
        bears
    }

    /// What the command line and the API tell.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!(self);
        json["slots"] = self.holders.len().into();
        json["whole"] = self.is_whole().into();
        json["bears"] = self.bears().into();
        json
    }

    fn slot(&self, index: u16) -> Slot {
        Slot { index, slots: u16::try_from(self.holders.len()).expect("at most 256 slots") }
    }
}

/// Gives each slot a holder: as many slots as there are shards, or peers if those are fewer.
/// Whoever had one before keeps it, as long as the number of slots is the same.
fn assign(cid: Cid, shape: Shape, peers: &[PeerId], before: Option<&Spread>) -> Spread {
    let slots = peers.len().min(shape.shards());
    let before = before.filter(|before| before.holders.len() == slots);
    let kept = |slot: usize| before.map(|b| b.holders[slot].peer).filter(|p| peers.contains(p));
    let kept: Vec<Option<PeerId>> = (0..slots).map(kept).collect();
    let mut free = peers.iter().filter(|peer| !kept.contains(&Some(**peer)));
    let holders = kept.iter().enumerate().filter_map(|(slot, kept)| {
        let peer = kept.or_else(|| free.next().copied())?;
        let slot = u16::try_from(slot).ok()?;
        Some(Holder { slot, peer, state: HolderState::Unreachable })
    });
    let small = |n: usize| u16::try_from(n).expect("a shape has at most 256 shards");
    let (data, parity) = (small(shape.data()), small(shape.parity()));
    Spread { cid, data, parity, holders: holders.collect() }
}

/// The file `spread.json`: who was asked for which slot, so that running it again asks the same
/// ones. Without the file nothing but that is lost, so it need not be synced.
pub(super) struct Spreads {
    path: PathBuf,
    known: Mutex<Vec<Spread>>,
}

impl Spreads {
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("spread.json");
        let known = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { path, known: Mutex::new(known.unwrap_or_default()) }
    }

    fn of(&self, cid: &Cid) -> Option<Spread> {
        self.known.lock().iter().find(|spread| spread.cid == *cid).cloned()
    }

    fn remember(&self, spread: &Spread) {
        let mut known = self.known.lock();
        known.retain(|other| other.cid != spread.cid);
        if known.len() == REMEMBERED_MAX {
            known.remove(0);
        }
        known.push(spread.clone());
        let draft = self.path.with_extension("new");
        let text = serde_json::to_vec(&*known).expect("plain data becomes JSON");
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.path));
        if let Err(error) = written {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// A slot whose holder has not said the last word.
struct Open {
    /// Its place among the holders.
    at: usize,
    /// When its peer was given it.
    since: Instant,
    is_asked: bool,
}

impl Node {
    /// Asks peers on the allow-list to hold a slot each, those of `to` or all; returns when each
    /// has answered. `progress` hears how it stands, and ends it with `false`.
    ///
    /// # Errors
    /// As [`SpreadError`] says. A slot that nobody holds is none: its state tells.
    pub fn spread(
        &self,
        cid: &Cid,
        to: &[PeerId],
        progress: &mut dyn FnMut(&Spread) -> bool,
    ) -> Result<Spread, SpreadError> {
        let allowed = &self.inner.config.allow_peers;
        if let Some(stranger) = to.iter().find(|peer| !allowed.contains(peer)) {
            return Err(SpreadError::NotAllowed(*stranger));
        }
        let mut peers: Vec<PeerId> = Vec::new();
        for peer in if to.is_empty() { allowed } else { to } {
            if *peer != self.inner.peer_id && !peers.contains(peer) {
                peers.push(*peer);
            }
        }
        if peers.is_empty() {
            return Err(SpreadError::NoPeers);
        }
        let manifest: Manifest =
            self.manifest(cid, Scope::Network)?.ok_or(SpreadError::NotProtected)?;
        let before = self.inner.spreads.of(cid);
        let mut spread = assign(*cid, manifest.shape, &peers, before.as_ref());
        self.inner.spreads.remember(&spread);
        let holds = |peer: &PeerId| spread.holders.iter().any(|holder| holder.peer == *peer);
        let spares = peers.iter().copied().filter(|peer| !holds(peer)).collect();
        let done = self.ask_holders(&mut spread, spares, progress);
        for holder in &spread.holders {
            self.inner.slots.forget(&(holder.peer, *cid, holder.slot));
        }
        self.inner.spreads.remember(&spread);
        done.map(|()| spread)
    }

    /// Who was last asked to hold the slots of a dataset, and what they said then.
    pub fn last_spread(&self, cid: &Cid) -> Option<Spread> {
        self.inner.spreads.of(cid)
    }

    fn ask_holders(
        &self,
        spread: &mut Spread,
        mut spares: VecDeque<PeerId>,
        progress: &mut dyn FnMut(&Spread) -> bool,
    ) -> Result<(), SpreadError> {
        let open = |at| Open { at, since: Instant::now(), is_asked: false };
        let mut open: Vec<Open> = (0..spread.holders.len()).map(open).collect();
        loop {
            let peers: Vec<PeerId> = open.iter().map(|open| spread.holders[open.at].peer).collect();
            let connected = self.inspect(move |engine| {
                peers.iter().map(|peer| engine.is_connected(peer)).collect::<Vec<_>>()
            });
            let connected = connected.ok_or(GetError::Cancelled)?;
            for (open, connected) in open.iter_mut().zip(connected) {
                self.ask_holder(spread, open, connected);
            }
            open.retain_mut(|open| match spread.holders[open.at].state {
                HolderState::Held => false,
                HolderState::Fetching => true,
                HolderState::Unreachable if open.since.elapsed() < CONNECT_TIMEOUT => true,
                HolderState::Unreachable | HolderState::Refused | HolderState::Failed => {
                    let holder = &mut spread.holders[open.at];
                    let Some(spare) = spares.pop_front() else { return false };
                    self.inner.slots.forget(&(holder.peer, spread.cid, holder.slot));
                    (holder.peer, holder.state) = (spare, HolderState::Unreachable);
                    *open = Open { at: open.at, since: Instant::now(), is_asked: false };
                    true
                }
            });
            if !progress(spread) {
                return Err(GetError::Cancelled.into());
            }
            if open.is_empty() {
                return Ok(());
            }
            self.inner.slots.wait(LOOK_INTERVAL);
        }
    }

    /// Asks the holder of a slot once it is connected, and notes what it says.
    fn ask_holder(&self, spread: &mut Spread, open: &mut Open, is_connected: bool) {
        let slot = spread.slot(spread.holders[open.at].slot);
        let holder = &mut spread.holders[open.at];
        let question = (holder.peer, spread.cid, holder.slot);
        if !open.is_asked {
            if is_connected {
                self.inner.slots.expect(question);
                let message = Message::HoldSlot {
                    manifest: spread.cid,
                    index: slot.index,
                    slots: slot.slots,
                };
                self.inner.reactor.send(Input::TellSlot { peer: holder.peer, message });
                (open.is_asked, open.since) = (true, Instant::now());
                holder.state = HolderState::Fetching;
            }
            return;
        }
        let (said, heard) =
            self.inner.slots.word(&question).unwrap_or((SlotState::Fetching, open.since));
        holder.state = match said {
            SlotState::Held => HolderState::Held,
            SlotState::Refused => HolderState::Refused,
            SlotState::Failed => HolderState::Failed,
            SlotState::Fetching if !is_connected => HolderState::Failed,
            SlotState::Fetching if heard.elapsed() > SILENCE_MAX => HolderState::Failed,
            SlotState::Fetching => HolderState::Fetching,
        };
    }
}

mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::{Codec, HashCode, Identity, Multihash};

    fn peers(count: u8) -> Vec<PeerId> {
        (0..count).map(|seed| Identity::from_seed([seed; 32]).peer_id()).collect()
    }

    fn spread(peers: &[PeerId], before: Option<&Spread>) -> Spread {
        let cid = Cid::v1(Codec::DagCbor, Multihash::of(HashCode::Sha2_256, b"manifest"));
        assign(cid, Shape::new(4, 2).unwrap(), peers, before)
    }

    fn holders(spread: &Spread) -> Vec<PeerId> {
        spread.holders.iter().map(|holder| holder.peer).collect()
    }

    #[test]
    fn each_slot_has_one_holder_who_keeps_it_when_others_change() {
        let all = peers(8);
        let first = spread(&all[..6], None);
        assert_eq!(holders(&first), all[..6]);
        // One of them has left the list, and two others came: they take what is free.
        let changed = [&all[6..], &all[..2], &all[3..6]].concat();
        let second = spread(&changed, Some(&first));
        assert_eq!(holders(&second), [all[0], all[1], all[6], all[3], all[4], all[5]]);
        // With fewer peers there are fewer slots, each of more shards.
        assert_eq!(holders(&spread(&all[3..6], Some(&first))), all[3..6]);
    }

    #[test]
    fn what_may_be_lost_counts_the_fullest_slots() {
        for (count, held, bears) in [
            (6, 6, Some(2)),
            (6, 5, Some(1)),
            (6, 4, Some(0)),
            (6, 3, None),
            (3, 3, Some(1)),
            (3, 2, Some(0)),
            (4, 4, Some(1)),
            (1, 1, Some(0)),
        ] {
            let mut spread = spread(&peers(count), None);
            spread.holders[..held].iter_mut().for_each(|h| h.state = HolderState::Held);
            assert_eq!(spread.bears(), bears, "{count} slots, {held} held");
            assert_eq!(spread.is_whole(), held == usize::from(count));
        }
    }

    #[test]
    fn holders_are_remembered_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = spread(&peers(6), None);
        Spreads::open(dir.path()).remember(&first);
        assert_eq!(Spreads::open(dir.path()).of(&first.cid), Some(first));
    }
}
