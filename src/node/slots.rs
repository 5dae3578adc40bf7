//! Slots of protected datasets that the node keeps for peers on its allow-list, and what peers
//! say of those that it asked them to keep.

use super::Node;
use crate::{
    content::store_stream::GetError, engine::Input, net::reactor::Keeper, store::local_store::Slot,
};
use barrow_wire::{Cid, Message, PeerId, SlotState};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    time::{Duration, Instant},
};

/// Slots that peers wait for; whoever asks for one more is refused.
const ASKED_MAX: usize = 64;
/// A peer that waits hears so often that its slot is still being fetched.
const NEWS_INTERVAL: Duration = Duration::from_secs(5);

/// A slot that a peer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    peer: PeerId,
    manifest: Cid,
    slot: Slot,
}

impl Asked {
    fn answer(&self, state: SlotState) -> Message {
        Message::SlotHeld { manifest: self.manifest, index: self.slot.index, state }
    }
}

/// Whose word is waited for, on which slot of which dataset.
pub(super) type Question = (PeerId, Cid, u16);
/// What a peer said of a slot, and when.
pub(super) type Word = (SlotState, Instant);

#[derive(Default)]
struct State {
    /// What peers wait for; the first is being fetched.
    asked: VecDeque<Asked>,
    /// What was asked of peers, and the last that they said of it.
    words: BTreeMap<Question, Option<Word>>,
    /// The node stops.
    closed: bool,
}

/// What stands between the reactor, which must not wait, and the thread that fetches slots.
pub(super) struct Slots {
    /// Whose requests are heard.
    trusted: Vec<PeerId>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Slots {
    pub(super) fn new(trusted: Vec<PeerId>) -> Self {
        Self { trusted, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Whether the request is taken; one that waits already is.
    fn take(&self, asked: Asked) -> bool {
        if !self.trusted.contains(&asked.peer) || usize::from(asked.slot.slots) > Slot::SLOTS_MAX {
            return false;
        }
        let mut state = self.state.lock();
        if state.closed || state.asked.len() >= ASKED_MAX {
            return state.asked.contains(&asked);
        }
        if !state.asked.contains(&asked) {
            state.asked.push_back(asked);
            self.changed.notify_all();
        }
        true
    }

    /// The next request, which stays in the queue while it is worked on; none once the node stops.
    fn next(&self) -> Option<Asked> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            match state.asked.front() {
                Some(asked) => return Some(*asked),
                None => self.changed.wait(&mut state),
            }
        }
    }

    // --- What peers are asked for ---

    /// From now on a peer's word on this slot is kept.
    pub(super) fn expect(&self, question: Question) {
        self.state.lock().words.insert(question, None);
    }

    pub(super) fn word(&self, question: &Question) -> Option<Word> {
        self.state.lock().words.get(question).copied().flatten()
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&self, question: &Question) {
        self.state.lock().words.remove(question);
    }

    /// Waits until a peer says something, for so long at most.
    pub(super) fn wait(&self, time: Duration) {
        let mut state: MutexGuard<'_, State> = self.state.lock();
        if !state.closed {
            self.changed.wait_for(&mut state, time);
        }
    }
}

impl Keeper for Slots {
    fn told(&self, peer: PeerId, message: &Message) -> Option<Message> {
        if let Message::HoldSlot { manifest, index, slots } = *message {
            let asked = Asked { peer, manifest, slot: Slot { index, slots } };
            let taken = self.take(asked);
            return Some(asked.answer(if taken {
                SlotState::Fetching
            } else {
                SlotState::Refused
            }));
        }
        if let Message::SlotHeld { manifest, index, state: said } = *message
            && let Some(word) = self.state.lock().words.get_mut(&(peer, manifest, index))
        {
            *word = Some((said, Instant::now()));
            self.changed.notify_all();
        }
        None
    }
}

impl Node {
    /// Starts to keep slots for the peers on the allow-list, if there are any.
    pub(super) fn keep_slots(&self) -> io::Result<()> {
        if self.inner.config.allow_peers.is_empty() {
            return Ok(());
        }
        let node = self.clone();
        let run = move || {
            while let Some(asked) = node.inner.slots.next() {
                let state = node.keep_for(&asked);
                node.tell(&asked, state);
                node.inner.slots.state.lock().asked.pop_front();
            }
        };
        std::thread::Builder::new().name("slots".into()).spawn(run).map(|_| ())
    }

    fn tell(&self, asked: &Asked, state: SlotState) {
        let message = asked.answer(state);
        self.inner.reactor.send(Input::TellSlot { peer: asked.peer, message });
    }

    /// Fetches what lacks of a slot.
    fn keep_for(&self, asked: &Asked) -> SlotState {
        let Asked { peer, manifest, slot } = asked;
        match self.holds_slot(manifest, *slot) {
            Ok(true) => return SlotState::Held,
            Ok(false) => log::info!("keeping slot {slot} of {manifest} for {peer}"),
            Err(error) => {
                log::warn!("slot {slot} of {manifest}, for {peer}: {error}");
                return SlotState::Failed;
            }
        }
        let mut told = Instant::now();
        let kept = self.pin_slot(manifest, *slot, &mut |_| {
            if told.elapsed() >= NEWS_INTERVAL {
                told = Instant::now();
                let waiting = self.inner.slots.state.lock().asked.clone();
                waiting.iter().for_each(|asked| self.tell(asked, SlotState::Fetching));
            }
            !self.inner.slots.state.lock().closed
        });
        match kept {
            Ok(_) => SlotState::Held,
            Err(error) => {
                log::warn!("slot {slot} of {manifest}, for {peer}: {error}");
                SlotState::Failed
            }
        }
    }

    /// Whether this slot, or more, is pinned and all of it here.
    fn holds_slot(&self, manifest: &Cid, slot: Slot) -> Result<bool, GetError> {
        let Some(dataset) = self.inner.disk.dataset(manifest)? else { return Ok(false) };
        let Some(protection) = &dataset.info.protection else { return Ok(false) };
        if protection.slot.is_some_and(|own| own != slot) {
            return Ok(false);
        }
        if self.lacks_something(&dataset)? {
            self.repair(manifest, &mut |_| !self.inner.slots.state.lock().closed)?;
        }
        if !dataset.info.is_kept(u64::MAX) {
            self.inner.disk.set_pinned(manifest, true)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::{Codec, HashCode, Identity, Multihash};

    fn peer(seed: u8) -> PeerId {
        Identity::from_seed([seed; 32]).peer_id()
    }

    fn hold(seed: u8, index: u16, slots: u16) -> Message {
        let hash = Multihash::of(HashCode::Sha2_256, &[seed]);
        Message::HoldSlot { manifest: Cid::v1(Codec::DagCbor, hash), index, slots }
    }

    fn state_of(answer: Option<Message>) -> SlotState {
        let Some(Message::SlotHeld { state, .. }) = answer else { panic!("{answer:?}") };
        state
    }

    #[test]
    fn nobody_but_those_on_the_list_is_heard_and_no_more_than_may_wait() {
        let slots = Slots::new(vec![peer(1)]);
        assert_eq!(state_of(slots.told(peer(2), &hold(1, 0, 4))), SlotState::Refused);
        assert_eq!(state_of(slots.told(peer(1), &hold(1, 0, 257))), SlotState::Refused);
        for seed in 0..ASKED_MAX as u8 {
            assert_eq!(state_of(slots.told(peer(1), &hold(seed, 1, 4))), SlotState::Fetching);
            assert_eq!(state_of(slots.told(peer(1), &hold(seed, 1, 4))), SlotState::Fetching);
        }
        assert_eq!(slots.state.lock().asked.len(), ASKED_MAX);
        assert_eq!(state_of(slots.told(peer(1), &hold(200, 1, 4))), SlotState::Refused);
    }

    #[test]
    fn a_word_that_nobody_waits_for_is_not_kept() {
        let slots = Slots::new(Vec::new());
        let Message::HoldSlot { manifest, .. } = hold(1, 0, 4) else { unreachable!() };
        let held = Message::SlotHeld { manifest, index: 2, state: SlotState::Held };
        let question = (peer(1), manifest, 2);
        assert_eq!(slots.told(peer(1), &held), None);
        assert!(slots.state.lock().words.is_empty());
        slots.expect(question);
        slots.told(peer(2), &held);
        assert_eq!(slots.word(&question), None);
        slots.told(peer(1), &held);
        assert_eq!(slots.word(&question).unwrap().0, SlotState::Held);
    }
}
