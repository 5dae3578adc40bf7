//! A mender's questions to peers: what it asks for, whom it still waits for, and what came.

use super::{Asked, Mender, Wish, punctuality::most_punctual};
use crate::{
    content::{
        network_store::{Arrival, HeldBlock},
        store_stream::{GetError, wait_until},
    },
    engine::{Order, WantError},
};
use barrow_wire::Multihash;
use std::{
    collections::hash_map::Entry,
    task::Poll,
    time::{Duration, Instant},
};

/// Whoever waits looks so often whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Stripes asked for ahead at most.
const AHEAD_MAX: u64 = 64;

impl Mender {
    /// Asks for what lacks, and for as many others as it takes where some of it will not come.
    /// Returns whether some of it turned out to be here.
    pub(super) fn ask(&mut self, wish: &mut Wish, lacking: &[usize]) -> Result<bool, GetError> {
        let (given_up, mut places): (Vec<usize>, Vec<usize>) =
            lacking.iter().partition(|place| self.is_given_up(wish, **place));
        let mut others = Vec::new();
        if !given_up.is_empty() {
            let more = self.manifest.shape.data().saturating_sub(wish.count() + places.len());
            let lacks = |place: &usize| {
                !wish.here[*place] && !places.contains(place) && !self.has_failed(wish, *place)
            };
            let lacks: Vec<usize> = (0..wish.here.len()).filter(lacks).collect();
            let chosen = most_punctual(lacks, &self.slots, &wish.given_up, more);
            let (data, parity): (Vec<usize>, Vec<usize>) =
                chosen.into_iter().partition(|place| lacking.contains(place));
            places.extend(data);
            others.extend(parity);
        }
        // Where shards are equal, one of them may be what is to be kept.
        let is_kept =
            |place: &usize| lacking.iter().any(|at| wish.hashes[*at] == wish.hashes[*place]);
        let (kept, others): (Vec<usize>, Vec<usize>) = others.into_iter().partition(is_kept);
        places.extend(kept);
        let mut here = self.want(wish, &places, false)?;
        here |= self.want(wish, &others, true)?;
        let tried: Vec<usize> = given_up
            .into_iter()
            .filter(|place| {
                !self.has_failed(wish, *place) && self.slots[*place].try_for(wish.number)
            })
            .collect();
        here |= self.want(wish, &tried, false)?;
        let waits = wish.hashes.iter().flatten().any(|hash| self.asked.contains_key(hash));
        if here || waits || wish.count() >= self.manifest.shape.data() {
            Ok(here)
        } else {
            Err(self.lost(wish))
        }
    }

    /// Asks for shards, or only for their bytes to rebuild others of. Returns whether one of them
    /// is here.
    fn want(
        &mut self,
        wish: &mut Wish,
        places: &[usize],
        in_passing: bool,
    ) -> Result<bool, GetError> {
        let (now, mut new) = (Instant::now(), Vec::new());
        for &place in places {
            let Some(hash) = wish.hashes[place].filter(|hash| !self.failed.contains_key(hash))
            else {
                continue;
            };
            if let Entry::Vacant(entry) = self.asked.entry(hash) {
                entry.insert(Asked { stripe: wish.number, place, at: now });
                new.push(hash);
            }
        }
        if new.is_empty() {
            return Ok(false);
        }
        let (store, cid, dataset) = (&self.store, self.cid, self.dataset);
        let retrieval =
            self.retrieval.get_or_insert_with(|| store.retrieve(cid, Order::Sequential, dataset));
        let here = match in_passing {
            true => retrieval.want_in_passing(&new)?,
            false => retrieval.want(&new)?,
        };
        for (hash, _) in &here {
            self.asked.remove(hash);
            for place in wish.places_of(hash) {
                wish.here[place] = true;
            }
        }
        Ok(!here.is_empty())
    }

    /// Takes back what was asked for.
    fn unwant(&mut self, is_meant: impl Fn(&Asked) -> bool) {
        let meant = self.asked.iter().filter(|(_, asked)| is_meant(asked));
        let meant: Vec<Multihash> = meant.map(|(hash, _)| *hash).collect();
        self.asked.retain(|_, asked| !is_meant(asked));
        if let Some(retrieval) = self.retrieval.as_mut().filter(|_| !meant.is_empty()) {
            retrieval.unwant(meant);
        }
    }

    /// A stripe is brought, or cannot be: whatever of it is still to come is not needed.
    pub(super) fn let_go(&mut self, wish: &Wish) {
        self.unwant(|asked| asked.stripe == wish.number);
        self.slots.iter_mut().for_each(|slot| slot.end(wish.number));
        // Somebody reads, or the store has what was asked for.
        let read = wish.stripe.data.iter().filter(|_| self.dataset.is_none());
        self.hand.close(wish.number, &read.filter_map(|(cid, _)| cid.multihash()).collect());
    }

    /// Asks for the stripes behind this one, so that peers are never idle, and for no more of what
    /// is needed in passing than may be held: the rest would be stored.
    pub(super) fn ask_ahead(&mut self, wish: &Wish, places: &[usize]) -> Result<(), GetError> {
        // Before anything came, others may have to be asked, and not behind what is less urgent.
        if !self.waiting.is_measured() {
            return Ok(());
        }
        let wanted = wish.number;
        let (mut bytes, mut passing) = (0, self.passing_bytes(wish, places));
        let end = self.manifest.stripes().min(wanted + 1 + AHEAD_MAX).min(self.ahead_end);
        for next in wanted + 1..end {
            let passing_max = self.store.passing_bytes_max();
            if bytes >= self.ahead_bytes || passing >= passing_max {
                break;
            }
            // What keeps one from what is ahead is told to its reader once it comes to it.
            let Ok(mut wish) = self.wish(next) else { break };
            bytes += (places.len() * wish.stripe.longest()) as u64;
            passing += self.passing_bytes(&wish, places);
            // The first may be too much by a part of it: else nothing would be asked for ahead.
            if passing > passing_max && next > wanted + 1 {
                break;
            }
            let lacking: Vec<usize> =
                places.iter().copied().filter(|place| !wish.here[*place]).collect();
            let enough = wish.count() >= self.manifest.shape.data();
            if !lacking.is_empty() && !enough {
                match self.ask(&mut wish, &lacking) {
                    Err(GetError::Erasure(_) | GetError::OverBudget) => break,
                    asked => asked?,
                };
            }
        }
        Ok(())
    }

    /// Bytes of a stripe that are needed to rebuild those places that are given up.
    fn passing_bytes(&self, wish: &Wish, places: &[usize]) -> usize {
        let given_up = places.iter().filter(|place| self.is_given_up(wish, **place)).count();
        let others = match given_up {
            0 => 0,
            _ => self.manifest.shape.data().saturating_sub(places.len() - given_up),
        };
        others * wish.stripe.longest()
    }

    /// Waits for shards, or until those that lack are stragglers.
    pub(super) fn wait(
        &mut self,
        wish: &mut Wish,
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        let since = Instant::now();
        loop {
            let waited_for = self.waited_for(wish);
            let next = waited_for.iter().map(|(_, at)| *at).min();
            let look_at = Instant::now() + LOOK_AGAIN;
            let Some(retrieval) = &mut self.retrieval else { return self.look_again(wish) };
            // What came while nobody looked is not late: it is taken before anything is given up.
            let arrivals = wait_until(next.map_or(look_at, |at| at.min(look_at)), |waker| {
                match retrieval.arrivals(waker) {
                    arrivals if arrivals.is_empty() => Poll::Pending,
                    arrivals => Poll::Ready(arrivals),
                }
            });
            if let Some(arrivals) = arrivals {
                return self.take(wish, arrivals, tell);
            }
            if !tell(&self.cid.multihash().expect("a manifest has a hash")) {
                return Err(GetError::Cancelled);
            }
            let now = Instant::now();
            let late = waited_for.iter().filter(|(_, at)| *at <= now);
            let late: Vec<usize> = late.map(|(place, _)| *place).collect();
            if !late.is_empty() {
                self.give_up(wish, &late);
                return self.look_again(wish);
            }
            if waited_for.is_empty() && now - since >= LOOK_AGAIN {
                return self.look_again(wish);
            }
        }
    }

    /// The places of a stripe whose shards were asked for and neither came nor were given up, and
    /// when they are late.
    fn waited_for(&self, wish: &Wish) -> Vec<(usize, Instant)> {
        let waits = |place: &usize| !wish.here[*place] && !wish.given_up.contains(place);
        let late_at = |place| {
            let asked = self.asked.get(&wish.hashes[place]?)?;
            Some((place, self.waiting.late_at(place, asked.at)))
        };
        (0..wish.here.len()).filter(waits).filter_map(late_at).collect()
    }

    /// Waits for these no longer; those of the next stripes would be as late, which whoever is
    /// patient waits to see.
    fn give_up(&mut self, wish: &mut Wish, late: &[usize]) {
        for &place in late {
            wish.given_up.insert(place);
            self.slots[place].note_late(wish.number);
        }
        let number = wish.number;
        if !self.is_patient {
            self.unwant(|asked| asked.stripe > number && late.contains(&asked.place));
        }
    }

    /// What came by another way, for instance for another reader.
    fn look_again(&mut self, wish: &mut Wish) -> Result<(), GetError> {
        let given_up = std::mem::take(&mut wish.given_up);
        *wish = self.wish(wish.number)?;
        wish.given_up = given_up;
        Ok(())
    }

    fn take(
        &mut self,
        wish: &mut Wish,
        arrivals: Vec<Arrival>,
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        for arrival in arrivals {
            match arrival {
                Arrival::Here { hash, block, at, .. } => {
                    self.note_arrival(wish, hash, block, at);
                    if !tell(&hash) {
                        return Err(GetError::Cancelled);
                    }
                }
                Arrival::Failed { error: WantError::Cancelled, .. } => {
                    return Err(GetError::Cancelled);
                }
                Arrival::Failed { hash, error } => {
                    self.failed.insert(hash, error);
                    if let Some(asked) = self.asked.remove(&hash) {
                        self.slots[asked.place].note_late(asked.stripe);
                    }
                }
            }
        }
        Ok(())
    }

    fn note_arrival(
        &mut self,
        wish: &mut Wish,
        hash: Multihash,
        block: Option<HeldBlock>,
        came_at: Instant,
    ) {
        // What was taken back just before is in the store, or was needed in passing.
        let Some(Asked { stripe, place, at }) = self.asked.remove(&hash) else { return };
        self.waiting.note(place, at, came_at);
        let given_up = stripe == wish.number && wish.given_up.contains(&place);
        self.slots[place].note_here(given_up, self.is_patient);
        if let Some(block) = block {
            self.hand.put(stripe, hash, block);
        }
        for place in wish.places_of(&hash) {
            wish.here[place] = true;
            wish.given_up.remove(&place);
        }
    }
}
