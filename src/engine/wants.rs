//! Blocks that are asked for now: who has them, whose turn it is to send them, and which is next.

use super::{ConnId, JobId, Moment, Order, WantError, lean::push};
use barrow_wire::{Multihash, limits::BLOCK_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Owners of a block at most: one, and another when it is late or nothing else is left to do.
pub(super) const OWNERS_MAX: usize = 2;

/// What is known of a peer and a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Knows {
    /// It was asked; a small block may come as the answer.
    Asked { inline: bool },
    /// It says so (`said`), or likely has it; its length, 0 if it did not say.
    Has { len: u32, said: bool },
    /// It has it not, so far.
    Not,
    /// It has it, for more than those who want it may spend.
    Dear,
    /// It sent something else under this name.
    Bad,
}

/// A [`Knows`] in four bytes, for there is one for each block and neighbour: which it is in the
/// lowest bits, the length above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Packed(u32);

impl Packed {
    const WHICH_BITS: u32 = 3;
    const LEN_MAX: u32 = u32::MAX >> Self::WHICH_BITS;

    fn new(knows: Knows) -> Self {
        let (which, len) = match knows {
            Knows::Asked { inline: false } => (0, 0),
            Knows::Asked { inline: true } => (1, 0),
            Knows::Not => (2, 0),
            Knows::Bad => (3, 0),
            Knows::Has { len, said: false } => (4, len),
            Knows::Has { len, said: true } => (5, len),
            Knows::Dear => (6, 0),
        };
        Self(len.min(Self::LEN_MAX) << Self::WHICH_BITS | which)
    }

    fn get(self) -> Knows {
        let len = self.0 >> Self::WHICH_BITS;
        match self.0 & ((1 << Self::WHICH_BITS) - 1) {
            0 => Knows::Asked { inline: false },
            1 => Knows::Asked { inline: true },
            2 => Knows::Not,
            3 => Knows::Bad,
            4 => Knows::Has { len, said: false },
            5 => Knows::Has { len, said: true },
            _ => Knows::Dear,
        }
    }
}

// No length of a block is cut.
const _: () = assert!(BLOCK_BYTES_MAX <= Packed::LEN_MAX as usize);

#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Holder {
    pub conn: ConnId,
    knows: Packed,
}

impl Holder {
    pub(super) fn knows(&self) -> Knows {
        self.knows.get()
    }
}

/// Which block goes first: smaller is sooner. Streams before bulk, streams in their order, bulk
/// by rarity and then by chance, so that downloaders of one dataset do not all ask for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    bulk: bool,
    rank: u64,
    chance: u32,
}

/// Connections that a block is requested on, in the want itself: each has one before long.
#[derive(Clone, Debug, Hash)]
struct Owners {
    conns: [ConnId; OWNERS_MAX],
    len: u8,
}

impl Owners {
    /// What stands in a place that is free, so that equal lists are equal.
    const NONE: ConnId = ConnId(0);

    const fn new() -> Self {
        Self { conns: [Self::NONE; OWNERS_MAX], len: 0 }
    }

    fn get(&self) -> &[ConnId] {
        self.conns.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn add(&mut self, conn: ConnId) {
        assert!(!self.get().contains(&conn), "a block is asked for once of a peer");
        let free = self.conns.get_mut(usize::from(self.len));
        *free.expect("a block has at most two owners") = conn;
        self.len += 1;
    }

    fn remove(&mut self, conn: ConnId) {
        let rest = self.clone();
        *self = Self::new();
        rest.get().iter().filter(|owner| **owner != conn).for_each(|owner| self.add(*owner));
    }
}

/// A block that somebody here waits for.
#[derive(Clone, Debug, Hash)]
pub(super) struct Want {
    pub jobs: Vec<JobId>,
    pub asked_at: Moment,
    holders: Vec<Holder>,
    owners: Owners,
    /// Somebody said to have it, at some time.
    pub seen: bool,
    /// The same, for more than may be paid.
    pub dear: bool,
    bulk: bool,
    sequence: u64,
    chance: u32,
}

impl Want {
    pub(super) fn holders(&self) -> &[Holder] {
        &self.holders
    }

    pub(super) fn owners(&self) -> &[ConnId] {
        self.owners.get()
    }

    pub(super) fn knows(&self, conn: ConnId) -> Option<Knows> {
        self.holders.iter().find(|holder| holder.conn == conn).map(Holder::knows)
    }

    /// Whether nobody has it, and nobody may still say so.
    pub(super) fn is_exhausted(&self) -> bool {
        self.owners().is_empty()
            && self.holders.iter().all(|holder| match holder.knows() {
                Knows::Asked { .. } | Knows::Has { .. } => false,
                Knows::Not | Knows::Dear | Knows::Bad => true,
            })
    }

    /// Why it is given up, if it is.
    pub(super) const fn failure(&self) -> WantError {
        match (self.dear, self.seen) {
            (true, _) => WantError::OverBudget,
            (false, true) => WantError::ProviderFailed,
            (false, false) => WantError::NoProvider,
        }
    }

    /// Whether somebody has it or sends it.
    pub(super) fn has_provider(&self) -> bool {
        !self.owners().is_empty() || self.count_has() > 0
    }

    fn count_has(&self) -> u64 {
        self.holders.iter().filter(|holder| matches!(holder.knows(), Knows::Has { .. })).count()
            as u64
    }

    fn wanted_key(&self) -> Option<Key> {
        let holders = self.count_has();
        let ready = self.owners().is_empty() && holders > 0;
        let rank = if self.bulk { holders } else { self.sequence };
        ready.then_some(Key { bulk: self.bulk, rank, chance: self.chance })
    }
}

/// All wants, and the order of those that have a holder and no owner.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Wants {
    /// Boxed, for a tree keeps room for half as many again as it holds.
    wants: BTreeMap<Multihash, Box<Want>>,
    ready: BTreeSet<(Key, Multihash)>,
    sequence: u64,
}

impl Wants {
    /// A job wants a block. Returns whether peers are to be asked for it: it is new here, or was
    /// too dear for those who wanted it before.
    pub(super) fn add(
        &mut self,
        now: Moment,
        hash: Multihash,
        job: JobId,
        order: Order,
        chance: u32,
    ) -> bool {
        self.sequence += 1;
        let sequence = self.sequence;
        let bulk = match order {
            Order::Sequential => false,
            Order::Bulk => true,
        };
        let mut fresh = false;
        self.wants.entry(hash).or_insert_with(|| {
            fresh = true;
            Box::new(Want {
                jobs: Vec::new(),
                asked_at: now,
                holders: Vec::new(),
                owners: Owners::new(),
                seen: false,
                dear: false,
                bulk,
                sequence,
                chance,
            })
        });
        self.change(&hash, |want| {
            if !want.jobs.contains(&job) {
                push(&mut want.jobs, job);
            }
            // Who was too dear for others is asked anew.
            let holders = want.holders.len();
            want.holders.retain(|holder| holder.knows() != Knows::Dear);
            fresh |= want.holders.len() < holders;
            // A stream that waits for it takes it out of the crowd.
            if want.bulk && !bulk {
                (want.bulk, want.sequence) = (false, sequence);
            }
        });
        fresh
    }

    pub(super) fn get(&self, hash: &Multihash) -> Option<&Want> {
        self.wants.get(hash).map(Box::as_ref)
    }

    pub(super) fn remove(&mut self, hash: &Multihash) -> Option<Want> {
        let want = *self.wants.remove(hash)?;
        if let Some(key) = want.wanted_key() {
            self.ready.remove(&(key, *hash));
        }
        Some(want)
    }

    /// Takes a job off a want; the want, if nobody else waits for it.
    pub(super) fn remove_job(&mut self, hash: &Multihash, job: JobId) -> Option<Want> {
        let want = self.wants.get_mut(hash)?;
        want.jobs.retain(|other| *other != job);
        if want.jobs.is_empty() { self.remove(hash) } else { None }
    }

    /// Notes what a peer says of a block. Returns what was known before, if it is wanted.
    pub(super) fn learn(&mut self, hash: &Multihash, conn: ConnId, knows: Knows) -> Option<Knows> {
        let mut before = None;
        self.change(hash, |want| {
            want.seen |= matches!(knows, Knows::Has { said: true, .. });
            match want.holders.iter_mut().find(|holder| holder.conn == conn) {
                Some(holder) => {
                    before = Some(holder.knows());
                    holder.knows = Packed::new(knows);
                }
                None => push(&mut want.holders, Holder { conn, knows: Packed::new(knows) }),
            }
        });
        before
    }

    /// A peer has a block, and sells it for more than may be paid.
    pub(super) fn too_dear(&mut self, hash: &Multihash, conn: ConnId) {
        self.learn(hash, conn, Knows::Dear);
        self.change(hash, |want| want.dear = true);
    }

    pub(super) fn own(&mut self, hash: &Multihash, conn: ConnId) {
        self.change(hash, |want| want.owners.add(conn));
    }

    pub(super) fn disown(&mut self, hash: &Multihash, conn: ConnId) {
        self.change(hash, |want| want.owners.remove(conn));
    }

    /// A connection is gone. Returns the blocks that it held or was asked for.
    pub(super) fn forget(&mut self, conn: ConnId) -> Vec<Multihash> {
        let known = self.wants.iter().filter(|(_, want)| want.knows(conn).is_some());
        let hashes: Vec<_> = known.map(|(hash, _)| *hash).collect();
        for hash in &hashes {
            self.change(hash, |want| {
                want.owners.remove(conn);
                want.holders.retain(|holder| holder.conn != conn);
            });
        }
        hashes
    }

    /// The blocks that have a holder and no owner, the most urgent first.
    pub(super) fn ready(&self) -> impl Iterator<Item = Multihash> {
        self.ready.iter().map(|(_, hash)| *hash)
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Multihash, &Want)> {
        self.wants.iter().map(|(hash, want)| (hash, &**want))
    }

    pub(super) fn len(&self) -> usize {
        self.wants.len()
    }

    /// Every change goes through here, so that the order always follows from the wants.
    fn change(&mut self, hash: &Multihash, change: impl FnOnce(&mut Want)) {
        let Some(want) = self.wants.get_mut(hash) else { return };
        let before = want.wanted_key();
        change(want);
        let after = want.wanted_key();
        if before != after {
            if let Some(key) = before {
                self.ready.remove(&(key, *hash));
            }
            if let Some(key) = after {
                self.ready.insert((key, *hash));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::HashCode;

    fn hash(n: u8) -> Multihash {
        Multihash::of(HashCode::Sha2_256, &[n])
    }

    const HAS: Knows = Knows::Has { len: 1, said: true };

    #[test]
    fn what_is_known_of_a_holder_is_kept_whole() {
        let mut all = vec![Knows::Not, Knows::Dear, Knows::Bad];
        for yes in [false, true] {
            all.push(Knows::Asked { inline: yes });
            for len in [0, 1, 4_096, BLOCK_BYTES_MAX as u32] {
                all.push(Knows::Has { len, said: yes });
            }
        }
        for knows in all {
            assert_eq!(Packed::new(knows).get(), knows);
        }
    }

    #[test]
    fn streams_go_first_in_their_order_and_bulk_goes_by_rarity() {
        let mut wants = Wants::default();
        let now = Moment::default();
        wants.add(now, hash(1), JobId(1), Order::Bulk, 0);
        wants.add(now, hash(2), JobId(1), Order::Bulk, 9);
        wants.add(now, hash(3), JobId(2), Order::Sequential, 5);
        wants.add(now, hash(4), JobId(2), Order::Sequential, 1);
        for n in 1..=4 {
            wants.learn(&hash(n), ConnId(1), HAS);
        }
        wants.learn(&hash(1), ConnId(2), HAS);
        let order: Vec<_> = wants.ready().collect();
        assert_eq!(order, [hash(3), hash(4), hash(2), hash(1)]);
        // A block that has its owner waits for it.
        wants.own(&hash(3), ConnId(1));
        assert_eq!(wants.ready().next(), Some(hash(4)));
        wants.forget(ConnId(1));
        assert_eq!(wants.ready().collect::<Vec<_>>(), [hash(1)]);
    }

    #[test]
    fn a_want_lives_as_long_as_its_last_job() {
        let mut wants = Wants::default();
        assert!(wants.add(Moment::default(), hash(1), JobId(1), Order::Bulk, 0));
        assert!(!wants.add(Moment::default(), hash(1), JobId(2), Order::Sequential, 0));
        assert!(wants.remove_job(&hash(1), JobId(1)).is_none());
        assert!(wants.remove_job(&hash(1), JobId(2)).is_some());
        assert_eq!(wants.len(), 0);
    }
}
