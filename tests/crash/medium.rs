//! A medium in memory that forgets, at a crash, what a disk may forget.

use crate::database::{Commit, Lent, Shelf};
use barrow::store::local_store::{
    StoreError,
    medium::{Index, Medium, PackFile},
};
use rusqlite::Connection;
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4_096;

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// All of it is gone.
    All,
    /// All of it is there.
    Nothing,
    /// Of each write some sectors are there, by this seed.
    Some(u64),
}

/// Faults that are put in on purpose, as a store would have them that left a call out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// No sync of a pack does anything.
    EverySync,
    /// The one before a dataset's record is written: its blocks may be lost without it.
    SyncBeforeDataset,
    /// The one behind a dataset's record.
    SyncOfDataset,
    /// The one behind a forget record, before the dataset's blocks go.
    SyncOfForget,
    /// The one of a full pack, before the next is begun.
    SyncOfFullPack,
    /// It is not made to last which packs there are.
    NameUnsynced,
    /// A sync that fails is taken for done.
    FailureSwallowed,
    /// A page behind a deleted block goes with it.
    HoleTooWide,
}

impl Plant {
    /// Whether this sync of a pack is left out.
    fn leaves_out(self, pack: &Pack) -> bool {
        let writes = |kind: u8| {
            let head = [kind, b'b', b'r', b'w'];
            pack.since.iter().any(|change| match change {
                Change::Write(_, bytes) => bytes.windows(4).any(|window| window == head),
                Change::SetLen(_) | Change::Punch(_) => false,
            })
        };
        match self {
            Self::EverySync => true,
            Self::SyncBeforeDataset => writes(1) && !writes(4) && !writes(5),
            Self::SyncOfDataset => writes(4),
            Self::SyncOfForget => writes(5),
            Self::SyncOfFullPack => pack.now.len() as u64 >= super::model::PACK_BYTES_MAX,
            Self::NameUnsynced | Self::FailureSwallowed | Self::HoleTooWide => false,
        }
    }
}

#[derive(Clone, Default)]
struct Pack {
    /// Its name outlives a crash.
    is_named: bool,
    /// As of the last sync.
    synced: Vec<u8>,
    now: Vec<u8>,
    since: Vec<Change>,
    holes: Vec<Range<u64>>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Punch(Range<u64>),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>, mut keeps: impl FnMut() -> bool) {
        match self {
            Self::Write(offset, bytes) => {
                let mut at = 0;
                while at < bytes.len() {
                    let place = offset + at as u64;
                    let room = (SECTOR_BYTES - place % SECTOR_BYTES) as usize;
                    let len = room.min(bytes.len() - at);
                    if keeps() {
                        let end = place as usize + len;
                        file.resize(file.len().max(end), 0);
                        file[place as usize..end].copy_from_slice(&bytes[at..at + len]);
                    }
                    at += len;
                }
            }
            Self::SetLen(len) => {
                if keeps() {
                    file.resize(*len as usize, 0);
                }
            }
            Self::Punch(range) => {
                if keeps() {
                    let end = (range.end as usize).min(file.len());
                    file[(range.start as usize).min(end)..end].fill(0);
                }
            }
        }
    }
}

#[derive(Default)]
struct State {
    packs: BTreeMap<u32, Pack>,
    /// Copies of the packs' headers.
    headers: BTreeMap<u32, Vec<u8>>,
    /// Packs that were removed, and may come back.
    removed: BTreeMap<u32, Pack>,
    /// What cannot be read of a pack.
    unreadable: Option<(u32, Range<u64>)>,
    /// Every commit of the index.
    commits: Vec<Commit>,
    /// The index does not hold the last of them.
    is_rolled_back: bool,
    /// The index was found to be wrong, and is not used when it is opened next.
    is_doubted: bool,
    /// What the index refuses.
    refused: Option<usize>,
    /// Calls that change something, so far.
    calls: u64,
    /// This call fails, once.
    fails_at: Option<u64>,
    /// This call and all behind it do nothing and fail: the power is gone.
    dies_at: Option<u64>,
    /// What is broken on purpose.
    plant: Option<Plant>,
}

#[derive(Clone)]
pub struct Forgetful {
    state: Arc<Mutex<State>>,
    shelf: Arc<Shelf>,
}

impl Forgetful {
    /// Packs and an index that hold nothing yet; connections to it are taken from `shelf`.
    pub fn new(shelf: &Arc<Shelf>) -> Self {
        let state = State { is_rolled_back: true, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), shelf: shelf.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    pub fn fail_at(&self, call: u64) {
        self.state().fails_at = Some(call);
    }

    pub fn die_at(&self, call: u64) {
        self.state().dies_at = Some(call);
    }

    pub fn plant(&self, plant: Plant) {
        self.state().plant = Some(plant);
    }

    pub fn commits(&self) -> usize {
        self.state().commits.len()
    }

    /// The power goes and comes back. The index is at the commit `commits_back` before the last.
    pub fn crash(&self, loss: Loss, commits_back: usize) {
        self.refuse_index(None);
        let mut state = self.state();
        let mut random = match loss {
            Loss::Some(seed) => seed | 1,
            Loss::All | Loss::Nothing => 1,
        };
        let mut keeps = move || match loss {
            Loss::All => false,
            Loss::Nothing => true,
            Loss::Some(_) => {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random & 1 == 0
            }
        };
        state.packs.retain(|_, pack| pack.is_named || keeps());
        let came_back = std::mem::take(&mut state.removed);
        state.packs.extend(came_back.into_iter().filter(|_| !keeps()));
        for pack in state.packs.values_mut() {
            pack.is_named = true;
            let mut file = std::mem::take(&mut pack.synced);
            for change in pack.since.drain(..) {
                change.apply(&mut file, &mut keeps);
            }
            pack.synced = file.clone();
            pack.now = file;
        }
        let kept = state.commits.len().saturating_sub(commits_back);
        state.is_rolled_back |= kept < state.commits.len();
        state.commits.truncate(kept);
        state.fails_at = None;
        state.dies_at = None;
    }

    /// From now on a range of a pack cannot be read.
    pub fn spoil(&self, number: u32, range: Range<u64>) {
        self.state().unreadable = Some((number, range));
    }

    /// All of it can be read again.
    pub fn heal(&self) {
        self.state().unreadable = None;
    }

    /// Flips a bit of a pack.
    pub fn flip(&self, pack: usize, bit: u64) {
        let mut state = self.state();
        let packs = state.packs.len();
        let Some(pack) = state.packs.values_mut().nth(pack % packs.max(1)) else { return };
        let at = (bit / 8) as usize % pack.now.len().max(1);
        for file in [&mut pack.now, &mut pack.synced] {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// From now on each transaction of the index is undone in which it is changed in this way, as
    /// SQLite does where the disk is full; or no longer. Nothing happens while one is open.
    pub fn refuse_index(&self, change: Option<usize>) {
        let mut state = self.state();
        if state.refused.is_some() != change.is_some() && self.shelf.refuse(change) {
            state.refused = change;
        }
    }

    /// Counts a call that changes something.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.calls += 1;
        if state.dies_at.is_some_and(|at| state.calls >= at) {
            return Err(io::Error::other("the power is gone"));
        }
        if state.fails_at == Some(state.calls) {
            return Err(io::Error::other("an injected fault"));
        }
        Ok(state)
    }

    fn file(&self, number: u32) -> io::Result<Box<dyn PackFile>> {
        match self.state().packs.contains_key(&number) {
            true => Ok(Box::new(Handle { medium: self.clone(), number })),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Medium for Forgetful {
    fn packs(&self) -> io::Result<Vec<u32>> {
        Ok(self.state().packs.keys().copied().collect())
    }

    fn create_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>> {
        let mut state = self.call()?;
        if state.packs.contains_key(&number) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.packs.insert(number, Pack::default());
        drop(state);
        self.file(number)
    }

    fn open_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>> {
        self.file(number)
    }

    fn read_pack(&self, number: u32) -> io::Result<Box<dyn PackFile>> {
        self.file(number)
    }

    fn remove_pack(&self, number: u32) -> io::Result<()> {
        let mut state = self.call()?;
        let pack = state.packs.remove(&number).ok_or(io::ErrorKind::NotFound)?;
        if pack.is_named {
            state.removed.insert(number, pack);
        }
        Ok(())
    }

    fn keep_header(&self, number: u32, header: &[u8]) -> io::Result<()> {
        self.call()?.headers.insert(number, header.into());
        Ok(())
    }

    fn kept_header(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().headers.get(&number).cloned())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.call()?;
        if state.plant != Some(Plant::NameUnsynced) {
            state.removed.clear();
            state.packs.values_mut().for_each(|pack| pack.is_named = true);
        }
        Ok(())
    }

    fn open_index(&self) -> Result<Option<Index>, StoreError> {
        let index = Lent::writer(&self.shelf);
        let mut state = self.state();
        if state.is_doubted {
            return Ok(None);
        }
        if std::mem::take(&mut state.is_rolled_back) {
            self.shelf.restore(&index, state.commits.last());
        }
        Ok(Some(Box::new(index)))
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        Ok(Box::new(Lent::reader(&self.shelf)))
    }

    fn discard_index(&self) -> io::Result<()> {
        let mut state = self.state();
        state.commits.clear();
        state.is_rolled_back = true;
        state.is_doubted = false;
        Ok(())
    }

    fn doubt_index(&self) {
        self.state().is_doubted = true;
    }

    fn committed(&self, index: &mut Connection) {
        let mut state = self.state();
        if state.dies_at.is_none_or(|at| state.calls < at) {
            state.commits.push(Commit::of(index));
        } else {
            state.is_rolled_back = true;
        }
    }

    fn set_reserve(&self, _: bool) {}

    fn other_bytes(&self) -> u64 {
        0
    }

    fn free_bytes(&self) -> u64 {
        0
    }
}

struct Handle {
    medium: Forgetful,
    number: u32,
}

impl Handle {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.medium.call()?;
        let pack = state.packs.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
        change.apply(&mut pack.now, || true);
        pack.since.push(change);
        Ok(())
    }

    fn look<T>(&self, look: impl FnOnce(&Pack) -> T) -> io::Result<T> {
        let state = self.medium.state();
        let pack = state.packs.get(&self.number).ok_or(io::ErrorKind::NotFound)?;
        Ok(look(pack))
    }
}

impl PackFile for Handle {
    fn size(&self) -> io::Result<u64> {
        self.look(|pack| pack.now.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.look(|pack| {
            let holes: u64 = pack.holes.iter().map(|hole| hole.end - hole.start).sum();
            (pack.now.len() as u64).next_multiple_of(PAGE_BYTES).saturating_sub(holes)
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some((number, range)) = &self.medium.state().unreadable
            && *number == self.number
            && offset < range.end
            && range.start < offset + buffer.len() as u64
        {
            return Err(rustix::io::Errno::IO.into());
        }
        self.look(|pack| {
            let from = (offset as usize).min(pack.now.len());
            let bytes = pack.now[from..].get(..buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        let called = self.medium.call();
        let mut state = match called {
            Err(_) if self.medium.state().plant == Some(Plant::FailureSwallowed) => return Ok(()),
            called => called?,
        };
        let plant = state.plant;
        let pack = state.packs.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
        if plant.is_some_and(|plant| plant.leaves_out(pack)) {
            return Ok(());
        }
        pack.since.clear();
        pack.synced = pack.now.clone();
        Ok(())
    }

    fn punch(&self, mut range: Range<u64>) -> io::Result<()> {
        if self.medium.state().plant == Some(Plant::HoleTooWide) {
            range.end += PAGE_BYTES;
        }
        self.change(Change::Punch(range.clone()))?;
        let mut state = self.medium.state();
        let pack = state.packs.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
        pack.holes.push(range);
        Ok(())
    }
}
