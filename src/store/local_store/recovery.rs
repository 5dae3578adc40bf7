//! What a crash left is mended when the store is opened: the index follows the packs.

use super::{
    Dataset, StoreError,
    index::{self, Place, Row, Tally},
    medium::{Index, Medium, PackFile, is_unreadable},
    pack::{FIRST_RECORD, OpenPack},
    recent::{Change, Recent},
    record::{HEADER_BYTES, Header, Kind, PACK_HEADER_BYTES, PackHeader},
};
use rusqlite::Connection;
use std::io;

/// Records taken into the index in one transaction.
const RECORDS_PER_COMMIT: u64 = 65_536;
/// Bytes searched at a time for the next sound record behind a damaged one.
const SEARCH_BYTES: usize = 1 << 20;

/// A store that is open again.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) pack: OpenPack,
    pub(super) tally: Tally,
    pub(super) recent: Recent,
}

/// What the packs have, on its way into the index.
struct Replay<'a> {
    index: &'a Connection,
    tally: &'a mut Tally,
    recent: &'a mut Recent,
}

/// Opens the index, or makes a new one where it is missing or damaged; takes into it what the
/// packs have behind it, and opens the last pack.
pub(super) fn recover(
    medium: &dyn Medium,
    piece_bytes: usize,
    cache_kib: usize,
) -> Result<Recovered, StoreError> {
    // Before anything is touched.
    let seeds = read_headers(medium)?;
    let mut index = open_index(medium)?;
    let mut tally = index::load_tally(&index)?;
    if tally.packs.keys().any(|known| !seeds.iter().any(|(number, _)| number == known)) {
        // It is older than the last compaction, which left out what was of no use any more.
        log::warn!("the index is older than the packs; it is made anew");
        drop(index);
        medium.discard_index()?;
        index = open_index(medium)?;
        tally = index::load_tally(&index)?;
    }
    index::begin(&index)?;
    doubt(&index, &mut tally, &seeds)?;
    let mut end = 0;
    let mut recent = Recent::new(cache_kib);
    let mut replay = Replay { index: &index, tally: &mut tally, recent: &mut recent };
    for &(number, seed) in &seeds {
        end = match seed {
            Some(seed) => replay.scan(medium, number, seed)?,
            None => 0,
        };
    }
    recent.write(&index)?;
    index::delete_dangling_refs(&index)?;
    index::save_tally(&index, &mut tally)?;
    index::commit(&index)?;
    recent.clear();
    medium.committed(&mut index);
    let pack = match seeds.last() {
        None => begin_pack(medium, 1, piece_bytes)?,
        Some(&(number, Some(seed))) => {
            match OpenPack::resume(medium, number, seed, end, piece_bytes) {
                // It cannot be written over what cannot be read.
                Err(error) if is_unreadable(&error) => {
                    log::error!("pack {number} cannot be read at its end: {error}");
                    begin_pack(medium, number + 1, piece_bytes)?
                }
                resumed => resumed?,
            }
        }
        // As after a crash between the pack's making and its first sync; what it holds otherwise
        // may still be of use to somebody, so it stays.
        Some(&(number, None)) => begin_pack(medium, number + 1, piece_bytes)?,
    };
    Ok(Recovered { index, pack, tally, recent })
}

fn begin_pack(medium: &dyn Medium, number: u32, piece_bytes: usize) -> io::Result<OpenPack> {
    let pack = OpenPack::create(medium, number, piece_bytes)?;
    medium.sync_names()?;
    Ok(pack)
}

/// The packs with their seeds; none where a pack's header cannot be read.
fn read_headers(medium: &dyn Medium) -> Result<Vec<(u32, Option<u64>)>, StoreError> {
    let numbers = medium.packs()?;
    let mut seeds = Vec::new();
    for &number in &numbers {
        let file = medium.read_pack(number)?;
        let seed = pack_seed(&*file)?;
        // One that was not begun holds nothing.
        if seed.is_none() && file.size()? > FIRST_RECORD {
            log::error!("pack {number} has lost its header: none of its blocks can be read");
        }
        seeds.push((number, seed));
    }
    Ok(seeds)
}

/// The seed of a pack's record headers, if its own header can be read.
pub(super) fn pack_seed(file: &dyn PackFile) -> Result<Option<u64>, StoreError> {
    let mut header = [0; PACK_HEADER_BYTES];
    match read_readable(file, &mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let header = PackHeader::from_bytes(&header)
        .map_err(|version| StoreError::Newer(format!("{version} of a pack")))?;
    Ok(header.map(|header| header.seed))
}

fn open_index(medium: &dyn Medium) -> Result<Index, StoreError> {
    match medium.open_index() {
        Ok(Some(index)) => return Ok(index),
        Ok(None) => log::warn!("the index is damaged or of another version; it is made anew"),
        Err(error) => log::warn!("the index cannot be used ({error}); it is made anew"),
    }
    medium.discard_index()?;
    medium.open_index()?.ok_or(StoreError::BadIndex)
}

/// Takes out of the index what it says of records that may be gone: a commit may have outlived a
/// power cut that the records did not.
fn doubt(
    index: &Connection,
    tally: &mut Tally,
    seeds: &[(u32, Option<u64>)],
) -> Result<(), StoreError> {
    for &(number, seed) in seeds {
        let Some(&pack) = tally.packs.get(&number) else { continue };
        let from = if seed.is_some() { pack.synced } else { 0 };
        if from < pack.indexed {
            let (blocks, bytes) = index::delete_blocks_from(index, number, from)?;
            tally.blocks -= blocks;
            tally.bytes -= bytes;
            let pack = tally.pack(number);
            pack.live -= bytes;
            pack.indexed = from;
        }
    }
    Ok(())
}

impl Replay<'_> {
    /// Takes a pack's records into the index; gives the end of the last sound one.
    fn scan(&mut self, medium: &dyn Medium, number: u32, seed: u64) -> Result<u64, StoreError> {
        let file = medium.read_pack(number)?;
        let len = file.size()?;
        if self.tally.pack(number).synced < len {
            // What is read now may be in the page cache alone.
            medium.open_pack(number)?.sync()?;
        }
        let mut offset = self.tally.pack(number).indexed.max(FIRST_RECORD).min(len);
        let mut end = offset;
        let mut taken = 0;
        let mut payload = Vec::new();
        while offset < len {
            match read_record(&*file, seed, offset, &mut payload)? {
                Found::Record(header) => {
                    self.apply(Place { pack: number, offset, len: header.len }, &header, &payload)?;
                    offset += header.record_bytes();
                    end = offset;
                    taken += 1;
                    if taken % RECORDS_PER_COMMIT == 0 || self.recent.is_full() {
                        self.come_to(number, end);
                        self.commit()?;
                    }
                }
                // Given back, torn or damaged: what lies within it is no record. Who refers to the
                // block still does, for when it is brought back.
                Found::Payload(header) => {
                    self.tally.next_dataset = self.tally.next_dataset.max(header.dataset + 1);
                    if let (Kind::Put, Some(hash), 1..) =
                        (header.kind, &header.hash, header.dataset)
                    {
                        self.recent.set_ref(hash, header.dataset);
                    }
                    offset += header.record_bytes();
                }
                Found::Nothing => match find_record(&*file, seed, offset + 1, len)? {
                    Some(next) => {
                        log::debug!("pack {number}: bytes {offset} to {next} hold no record");
                        offset = next;
                    }
                    None => break,
                },
            }
        }
        self.come_to(number, end);
        Ok(end)
    }

    fn come_to(&mut self, number: u32, end: u64) {
        let pack = self.tally.pack(number);
        (pack.indexed, pack.synced) = (end, end);
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.recent.write(self.index)?;
        index::save_tally(self.index, self.tally)?;
        index::commit(self.index)?;
        self.recent.clear();
        Ok(index::begin(self.index)?)
    }

    fn apply(&mut self, at: Place, header: &Header, payload: &[u8]) -> Result<(), StoreError> {
        self.tally.next_dataset = self.tally.next_dataset.max(header.dataset + 1);
        match (header.kind, &header.hash) {
            (Kind::Put, Some(hash)) => {
                // The newest is the one that was not deleted.
                let known = self.recent.row(self.index, hash)?;
                if let Some(known) = known {
                    self.tally.remove(known.place);
                }
                let used = known.map_or(0, |row| row.used);
                self.recent.set(hash, Some(Row { place: at, used }));
                self.tally.add(at);
                if header.dataset != 0 {
                    self.recent.set_ref(hash, header.dataset);
                }
            }
            (Kind::Delete, Some(hash)) => {
                if let Some(known) = self.recent.row(self.index, hash)? {
                    self.recent.set(hash, None);
                    self.tally.remove(known.place);
                }
            }
            (Kind::Reference, Some(hash)) => self.recent.set_ref(hash, header.dataset),
            (Kind::Dataset, _) => {
                let text = std::str::from_utf8(payload).map_err(|_| StoreError::BadIndex)?;
                let dataset: Dataset =
                    serde_json::from_str(text).map_err(|_| StoreError::BadIndex)?;
                let described = Box::new((dataset, text.to_owned()));
                let change = Change::Describe(header.dataset, described);
                self.recent.change(self.index, change)?;
            }
            (Kind::Forget, _) => {
                self.recent.change(self.index, Change::Forget(header.dataset))?;
                self.recent.change(self.index, Change::DropRefs(header.dataset))?;
            }
            (Kind::Put | Kind::Delete | Kind::Reference, None) => {
                log::warn!("pack {}: a record at {} names no block", at.pack, at.offset);
            }
        }
        Ok(())
    }
}

enum Found {
    Record(Header),
    /// A sound header whose payload is not what was written.
    Payload(Header),
    Nothing,
}

/// The record at `offset`; a block's bytes are checked, as a power cut tears them.
fn read_record(
    file: &dyn PackFile,
    seed: u64,
    offset: u64,
    payload: &mut Vec<u8>,
) -> Result<Found, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    match read_readable(file, &mut bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Found::Nothing),
        read => read?,
    }
    let Some(header) = Header::from_bytes(&bytes, seed) else { return Ok(Found::Nothing) };
    payload.resize(header.len as usize, 0);
    match read_readable(file, payload, offset + HEADER_BYTES as u64) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Found::Payload(header));
        }
        read => read?,
    }
    Ok(if header.matches(payload) { Found::Record(header) } else { Found::Payload(header) })
}

/// Bytes that a drive can or cannot read as one.
const PAGE_BYTES: usize = 4_096;

/// Reads a part of a pack. What the drive cannot read is zeros, which are no record, and of no
/// payload but their own.
fn read_readable(file: &dyn PackFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_at(buffer, offset) {
        Err(error) if is_unreadable(&error) => {
            log::error!("of a pack's bytes {offset} and on some cannot be read: {error}");
        }
        read => return read,
    }
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        let page = PAGE_BYTES - usize::try_from(at % PAGE_BYTES as u64).expect("below a page");
        let part = done..buffer.len().min(done + page);
        match file.read_at(&mut buffer[part.clone()], at) {
            Err(error) if is_unreadable(&error) => buffer[part.clone()].fill(0),
            read => read?,
        }
        done = part.end;
    }
    Ok(())
}

/// Bytes read at a time where headers are looked at: small blocks come with several.
const WINDOW_BYTES: usize = 16 << 10;

/// The sound headers of a part of a pack, in their order.
pub(super) struct Headers<'a> {
    file: &'a dyn PackFile,
    seed: u64,
    offset: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Headers<'a> {
    /// Those from `offset` on, where one stands or did, which end before `end`.
    pub(super) fn new(file: &'a dyn PackFile, seed: u64, offset: u64, end: u64) -> Self {
        Self { file, seed, offset, end, window: Vec::new(), window_at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<(u64, Header)>, StoreError> {
        while self.offset + HEADER_BYTES as u64 <= self.end {
            let (at, seed) = (self.offset, self.seed);
            let bytes = self.read(at, HEADER_BYTES)?;
            let header = bytes.first_chunk().and_then(|bytes| Header::from_bytes(bytes, seed));
            if let Some(header) = header {
                self.offset += header.record_bytes();
                return Ok(Some((at, header)));
            }
            // Of what was given back, and of what a crash left, there are no headers.
            let next = find_record(self.file, self.seed, at + 1, self.end)?;
            self.offset = next.unwrap_or(self.end);
        }
        Ok(None)
    }

    /// What stands behind a header that was found at `offset`.
    pub(super) fn payload(&mut self, offset: u64, header: &Header) -> Result<&[u8], StoreError> {
        self.read(offset + HEADER_BYTES as u64, header.len as usize)
    }

    fn read(&mut self, at: u64, len: usize) -> Result<&[u8], StoreError> {
        let is_read =
            at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !is_read {
            let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
            self.window.resize(len.max(left.min(WINDOW_BYTES)), 0);
            self.window_at = at;
            if let Err(error) = read_readable(self.file, &mut self.window, at) {
                self.window.clear();
                return Err(error.into());
            }
        }
        let from = usize::try_from(at - self.window_at).expect("it is within the window");
        Ok(&self.window[from..from + len])
    }
}

/// The next place from `offset` on where a sound header stands.
fn find_record(
    file: &dyn PackFile,
    seed: u64,
    mut offset: u64,
    len: u64,
) -> Result<Option<u64>, StoreError> {
    let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut window = vec![0; left.min(SEARCH_BYTES + HEADER_BYTES)];
    while offset < len {
        let want = usize::try_from(len - offset).unwrap_or(usize::MAX).min(window.len());
        read_readable(file, &mut window[..want], offset)?;
        let headers = window[..want].windows(HEADER_BYTES);
        let found = headers.take(SEARCH_BYTES).position(|bytes| {
            bytes.first_chunk().is_some_and(|bytes| Header::from_bytes(bytes, seed).is_some())
        });
        if let Some(at) = found {
            return Ok(Some(offset + at as u64));
        }
        offset += SEARCH_BYTES as u64;
    }
    Ok(None)
}
