//! What a crash left is mended when the store is opened: the index follows the packs.

use super::{
    Dataset, StoreError,
    index::{self, Place, Row, Tally},
    medium::{self, Index, Medium, PackFile},
    pack::{FIRST_RECORD, OpenPack},
    recent::{Change, Recent},
    record::{Header, Kind, PACK_HEADER_BYTES, PackHeader},
    scan::{Found, find_record, read_record},
};
use rusqlite::Connection;
use std::{collections::BTreeSet, io};

/// Records taken into the index in one transaction.
const RECORDS_PER_COMMIT: u64 = 65_536;

/// A store that is open again.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) pack: OpenPack,
    pub(super) tally: Tally,
    pub(super) recent: Recent,
    /// Packs that the drive did not return whole: they are not given up.
    pub(super) unread: BTreeSet<u32>,
}

/// What the packs have, on its way into the index.
struct Replay<'a> {
    index: &'a Connection,
    tally: &'a mut Tally,
    recent: &'a mut Recent,
}

/// Opens the index, or makes a new one where it is missing, damaged, or of another moment than the
/// packs; takes into it what the packs have behind it, and opens the last pack.
pub(super) fn recover(
    medium: &dyn Medium,
    piece_bytes: usize,
    cache_kib: usize,
) -> Result<Recovered, StoreError> {
    // Before anything is touched.
    let packs = read_packs(medium)?;
    let mut index = open_index(medium)?;
    let mut tally = index::load_tally(&index)?;
    if let Some(reason) = disagreement(&tally, &packs) {
        // Records are replayed in the order of the packs. What was replayed of later ones cannot be
        // kept when an earlier one has to be read again, so all of it is.
        log::warn!("the index is not of the moment of the packs ({reason}); it is made anew");
        drop(index);
        medium.discard_index()?;
        index = open_index(medium)?;
        tally = index::load_tally(&index)?;
    }
    let is_rebuilt = tally.packs.is_empty();
    index::begin(&index)?;
    doubt(&index, &mut tally, &packs)?;
    let mut recent = Recent::new(cache_kib);
    let mut unread = BTreeSet::new();
    let mut end = 0;
    let mut replay = Replay { index: &index, tally: &mut tally, recent: &mut recent };
    for pack in &packs {
        let (number, seed) = match pack.header {
            PackFound::Seed(seed) => (pack.number, seed),
            PackFound::Nothing => continue,
            PackFound::Unreadable => {
                unread.insert(pack.number);
                continue;
            }
        };
        let scanned = replay.scan(medium, number, seed)?;
        end = scanned.end;
        if scanned.is_unreadable {
            unread.insert(number);
        }
    }
    recent.write(&index)?;
    // A dataset whose description could not be read now is not one that was never finished.
    if unread.is_empty() {
        index::delete_dangling_refs(&index)?;
        // What a crash tore, and no dataset refers to, is not worth a row.
        for (hash, place) in index::unreferenced_quarantined(&index)? {
            index::delete_block(&index, &hash)?;
            tally.remove(place);
        }
    } else {
        // What could not be read now is looked for again at the next start.
        medium.doubt_index();
    }
    index::save_tally(&index, &mut tally)?;
    index::commit(&index)?;
    recent.clear();
    medium.committed(&mut index);
    // What stands behind the last record is cut off only where the index knows up to where the pack
    // was synced: then a crash tore it. Without an index it may be a stored block that the drive
    // does not return as it should just now.
    let may_cut = |last: &FoundPack| !is_rebuilt || last.len <= end;
    let pack = match packs.last() {
        None => begin_pack(medium, 1, piece_bytes)?,
        Some(last) if !unread.contains(&last.number) && may_cut(last) => {
            resume(medium, last, end, piece_bytes)?
        }
        Some(last) => begin_pack(medium, last.number + 1, piece_bytes)?,
    };
    tally.pack(pack.number).seed = pack.seed;
    Ok(Recovered { index, pack, tally, recent, unread })
}

/// A pack as it is found at the start.
struct FoundPack {
    number: u32,
    len: u64,
    header: PackFound,
}

enum PackFound {
    Seed(u64),
    /// It was not begun, or has lost both copies of its header.
    Nothing,
    /// The drive does not return it now.
    Unreadable,
}

/// Why the index cannot be of the same moment as the packs, if it cannot: one of both was restored
/// from a copy. An index that is merely older is not such a case; it is brought up to date.
fn disagreement(tally: &Tally, packs: &[FoundPack]) -> Option<String> {
    let newest = tally.packs.keys().last().copied().unwrap_or(0);
    for (number, known) in &tally.packs {
        let Some(pack) = packs.iter().find(|pack| pack.number == *number) else {
            return Some(format!("pack {number} is missing"));
        };
        if pack.len < known.synced {
            return Some(format!("pack {number} has {} bytes of {}", pack.len, known.synced));
        }
        if let PackFound::Seed(seed) = pack.header
            && known.seed != 0
            && known.seed != seed
        {
            return Some(format!("pack {number} is another one"));
        }
    }
    let unknown = packs.iter().find(|pack| {
        pack.number < newest
            && !tally.packs.contains_key(&pack.number)
            && matches!(pack.header, PackFound::Seed(_))
    });
    unknown.map(|pack| format!("it does not know pack {}", pack.number))
}

/// Goes on with the last pack. A new one is begun where it cannot be read at its end, and where its
/// header is missing: that may be a crash between its making and its first sync, but what it holds
/// otherwise may still be of use, so it stays.
fn resume(
    medium: &dyn Medium,
    last: &FoundPack,
    end: u64,
    piece_bytes: usize,
) -> io::Result<OpenPack> {
    let PackFound::Seed(seed) = last.header else {
        return begin_pack(medium, last.number + 1, piece_bytes);
    };
    restore_header(medium, last.number, seed);
    match OpenPack::resume(medium, last.number, seed, end, piece_bytes) {
        Err(error) if medium::is_unreadable(&error) => {
            log::error!("pack {} cannot be read at its end: {error}", last.number);
            begin_pack(medium, last.number + 1, piece_bytes)
        }
        resumed => resumed,
    }
}

fn begin_pack(medium: &dyn Medium, number: u32, piece_bytes: usize) -> io::Result<OpenPack> {
    let pack = OpenPack::create(medium, number, piece_bytes)?;
    medium.sync_names()?;
    Ok(pack)
}

fn read_packs(medium: &dyn Medium) -> Result<Vec<FoundPack>, StoreError> {
    let mut packs = Vec::new();
    for number in medium.packs()? {
        let file = medium.read_pack(number)?;
        let len = file.size()?;
        let header = match pack_seed(medium, number, &*file) {
            // Its making was cut off. A copy of its header says nothing of what is not there.
            Ok(_) if len < FIRST_RECORD => PackFound::Nothing,
            Ok(Some(seed)) => {
                keep_header(medium, number, seed);
                PackFound::Seed(seed)
            }
            Ok(None) => PackFound::Nothing,
            Err(StoreError::Io(error)) => {
                log::error!("pack {number} cannot be read now: {error}");
                PackFound::Unreadable
            }
            Err(error) => return Err(error),
        };
        // One that was not begun holds nothing.
        if matches!(header, PackFound::Nothing) && len > FIRST_RECORD {
            log::error!("pack {number} has lost its header: none of its blocks can be read");
        }
        packs.push(FoundPack { number, len, header });
    }
    Ok(packs)
}

/// Keeps a copy of the header of a pack that has none: those of older versions had none. It may be
/// interrupted anywhere, and is done again at the next start.
fn keep_header(medium: &dyn Medium, number: u32, seed: u64) {
    let header = PackHeader { seed }.to_bytes();
    if medium.kept_header(number).is_ok_and(|kept| kept.as_deref() == Some(&header[..])) {
        return;
    }
    if let Err(error) = medium.keep_header(number, &header) {
        log::warn!("pack {number}: no copy of its header is kept: {error}");
    }
}

/// Writes the header of the pack that is appended to where it belongs, if it is not there: it was
/// damaged, or a crash took it, and the copy of it was used.
fn restore_header(medium: &dyn Medium, number: u32, seed: u64) {
    let mut bytes = [0; PACK_HEADER_BYTES];
    let restored = medium.open_pack(number).and_then(|file| {
        let read = file.read_at(&mut bytes, 0);
        if read.is_ok() && matches!(PackHeader::from_bytes(&bytes), Ok(Some(_))) {
            return Ok(());
        }
        file.write_at(&PackHeader { seed }.to_bytes(), 0)?;
        file.sync()
    });
    if let Err(error) = restored {
        log::warn!("pack {number}: its header is read from the copy: {error}");
    }
}

/// The seed of a pack's record headers: from its own header, else from the copy of it.
///
/// # Errors
/// [`StoreError::Io`] if neither tells it and the drive failed, [`StoreError::Newer`] for a format
/// that is not known.
pub(super) fn pack_seed(
    medium: &dyn Medium,
    number: u32,
    file: &dyn PackFile,
) -> Result<Option<u64>, StoreError> {
    let newer = |version| StoreError::Newer(format!("{version} of a pack"));
    let mut bytes = [0; PACK_HEADER_BYTES];
    let mut failed = None;
    match file.read_at(&mut bytes, 0) {
        Ok(()) => {
            if let Some(header) = PackHeader::from_bytes(&bytes).map_err(newer)? {
                return Ok(Some(header.seed));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => failed = Some(error),
    }
    match medium.kept_header(number) {
        Ok(Some(kept)) => {
            if let Some(kept) = kept.first_chunk()
                && let Some(header) = PackHeader::from_bytes(kept).map_err(newer)?
            {
                return Ok(Some(header.seed));
            }
        }
        Ok(None) => {}
        Err(error) => failed = failed.or(Some(error)),
    }
    failed.map_or(Ok(None), |error| Err(error.into()))
}

/// What is said of a pack whose header neither it nor its copy tells.
pub(super) fn no_header() -> io::Error {
    io::Error::other("the pack has lost its header")
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
fn doubt(index: &Connection, tally: &mut Tally, packs: &[FoundPack]) -> Result<(), StoreError> {
    for found in packs {
        let number = found.number;
        let Some(&pack) = tally.packs.get(&number) else { continue };
        let from = match found.header {
            PackFound::Seed(seed) => {
                tally.pack(number).seed = seed;
                pack.synced
            }
            // Nothing of it can be read for good.
            PackFound::Nothing => 0,
            // What the index says of it cannot be compared now, and stays.
            PackFound::Unreadable => continue,
        };
        if from < pack.indexed {
            let (blocks, bytes) = index::delete_blocks_from(index, number, from)?;
            tally.blocks = tally.blocks.saturating_sub(blocks);
            tally.bytes = tally.bytes.saturating_sub(bytes);
            let pack = tally.pack(number);
            pack.live = pack.live.saturating_sub(bytes);
            pack.indexed = from;
        }
    }
    Ok(())
}

/// What a scan of a pack came to.
struct Scanned {
    /// The end of the last sound record.
    end: u64,
    /// The drive did not return all of it.
    is_unreadable: bool,
}

impl Replay<'_> {
    /// Takes a pack's records into the index.
    fn scan(&mut self, medium: &dyn Medium, number: u32, seed: u64) -> Result<Scanned, StoreError> {
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
        let mut is_unreadable = false;
        while offset < len {
            match read_record(&*file, seed, offset, &mut payload, &mut is_unreadable)? {
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
                Found::Payload(header) => {
                    self.apply_damaged(Place { pack: number, offset, len: header.len }, &header)?;
                    offset += header.record_bytes();
                    // It is not cut off: it may be a stored block that rotted.
                    end = offset;
                }
                Found::Nothing => {
                    match find_record(&*file, seed, offset + 1, len, &mut is_unreadable)? {
                        Some(next) => {
                            log::debug!("pack {number}: bytes {offset} to {next} hold no record");
                            offset = next;
                        }
                        None => break,
                    }
                }
            }
        }
        self.come_to(number, end);
        Ok(Scanned { end, is_unreadable })
    }

    /// Takes note of a record whose payload is not what was written: its space was given back, a
    /// crash tore it, or it is damaged. What lies within it is no record. Which of the three it is
    /// cannot be told here: of the first a delete record follows, or a newer put. So the block is
    /// quarantined: it is not served, its bytes stay, and the datasets that refer to it still do.
    fn apply_damaged(&mut self, at: Place, header: &Header) -> Result<(), StoreError> {
        self.tally.next_dataset = self.tally.next_dataset.max(header.dataset + 1);
        let (Kind::Put, Some(hash)) = (header.kind, &header.hash) else { return Ok(()) };
        if header.dataset != 0 {
            self.recent.set_ref(hash, header.dataset);
        }
        if self.recent.row(self.index, hash)?.is_none() {
            self.recent.set(hash, Some(Row { place: at, used: 0, is_quarantined: true }));
            self.tally.add(at);
        }
        Ok(())
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
                self.recent.set(hash, Some(Row { place: at, used, is_quarantined: false }));
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
