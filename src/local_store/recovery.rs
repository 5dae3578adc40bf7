//! What a crash left is mended when the store is opened: the index follows the packs.

use super::{
    Dataset, StoreError, index,
    index::Place,
    pack::{OpenPack, pack_numbers, pack_path},
    record::{HEADER_BYTES, Header, Kind, PACK_HEADER},
};
use rusqlite::Connection;
use rustix::fs::{FallocateFlags, fallocate};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

/// An index of at most this size is checked as a whole at each start.
const CHECKED_INDEX_BYTES: u64 = 32 << 20;
/// Records taken into the index in one transaction.
const RECORDS_PER_COMMIT: u64 = 16_384;
/// Bytes searched at a time for the next sound record behind a damaged one.
const SEARCH_BYTES: usize = 1 << 20;
/// File systems give space back in pages.
const PAGE_BYTES: u64 = 4_096;

/// Opens the index, or makes a new one where it is missing or damaged.
pub(super) fn open_index(dir: &Path, cache_kib: usize) -> Result<Connection, StoreError> {
    let path = dir.join("index.sqlite");
    let wal = dir.join("index.sqlite-wal");
    let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= CHECKED_INDEX_BYTES);
    let check = small || wal.exists();
    match index::open(&path, cache_kib) {
        Ok(Some(index)) if !check || is_sound(&index) => return Ok(index),
        Ok(_) => log::warn!("the index is damaged or of another version; it is made anew"),
        Err(error) => log::warn!("the index cannot be used ({error}); it is made anew"),
    }
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        match fs::remove_file(dir.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    index::open(&path, cache_kib)?.ok_or(StoreError::BadIndex)
}

fn is_sound(index: &Connection) -> bool {
    index
        .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        .is_ok_and(|answer| answer == "ok")
}

/// Takes into the index what the packs have behind it, and opens the last pack.
pub(super) fn recover(dir: &Path, index: &Connection) -> Result<OpenPack, StoreError> {
    let packs = dir.join("packs");
    let numbers = pack_numbers(&packs)?;
    let Some(&last) = numbers.last() else {
        return Ok(OpenPack::create(&packs, 1)?);
    };
    let mut end = 0;
    for &number in &numbers {
        end = scan(&packs, number, index)?;
    }
    index::delete_dangling_refs(index)?;
    if end < PACK_HEADER.len() as u64 {
        // The crash came between the pack's making and its first sync.
        fs::remove_file(pack_path(&packs, last))?;
        return Ok(OpenPack::create(&packs, last)?);
    }
    Ok(OpenPack::resume(&packs, last, end)?)
}

/// Takes a pack's records into the index; gives the end of the last sound one.
fn scan(packs: &Path, number: u32, index: &Connection) -> Result<u64, StoreError> {
    let file = File::open(pack_path(packs, number))?;
    let len = file.metadata()?.len();
    let from = index::indexed(index, number)?;
    if from == 0 {
        let mut header = [0; PACK_HEADER.len()];
        match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => read?,
        }
        if header != PACK_HEADER {
            let version = format!("of pack {number}: {}", header.escape_ascii());
            return Err(StoreError::Newer(version));
        }
    }
    let mut offset = from.max(PACK_HEADER.len() as u64).min(len);
    let mut end = offset;
    let mut taken = 0;
    let mut payload = Vec::new();
    index.execute_batch("BEGIN IMMEDIATE")?;
    while offset < len {
        if let Some(header) = read_record(&file, offset, &mut payload)? {
            apply(index, number, offset, &header, &payload)?;
            offset += header.record_bytes();
            end = offset;
            taken += 1;
            if taken % RECORDS_PER_COMMIT == 0 {
                index::set_indexed(index, number, end)?;
                index.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
            }
        } else if let Some(next) = find_record(&file, offset + 1, len)? {
            log::warn!("pack {number}: bytes {offset} to {next} are damaged or given back");
            offset = next;
        } else {
            break;
        }
    }
    index::set_indexed(index, number, end)?;
    index.execute_batch("COMMIT")?;
    Ok(end)
}

/// The record at `offset`, if it is sound; a block's bytes are checked, as a power cut tears them.
fn read_record(
    file: &File,
    offset: u64,
    payload: &mut Vec<u8>,
) -> Result<Option<Header>, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Some(header) = Header::from_bytes(&bytes) else { return Ok(None) };
    payload.resize(header.len as usize, 0);
    match file.read_exact_at(payload, offset + HEADER_BYTES as u64) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok(header.matches(payload).then_some(header))
}

/// The next place from `offset` on where a sound header stands.
fn find_record(file: &File, mut offset: u64, len: u64) -> Result<Option<u64>, StoreError> {
    let mut window = vec![0; SEARCH_BYTES + HEADER_BYTES];
    while offset < len {
        let want = usize::try_from(len - offset).unwrap_or(usize::MAX).min(window.len());
        file.read_exact_at(&mut window[..want], offset)?;
        let headers = window[..want].windows(HEADER_BYTES);
        let found = headers.take(SEARCH_BYTES).position(|bytes| {
            bytes.first_chunk().is_some_and(|bytes| Header::from_bytes(bytes).is_some())
        });
        if let Some(at) = found {
            return Ok(Some(offset + at as u64));
        }
        offset += SEARCH_BYTES as u64;
    }
    Ok(None)
}

fn apply(
    index: &Connection,
    pack: u32,
    offset: u64,
    header: &Header,
    payload: &[u8],
) -> Result<(), StoreError> {
    match (header.kind, &header.hash) {
        (Kind::Put, Some(hash)) => {
            index::insert_block(index, hash, Place { pack, offset, len: header.len })?;
            if header.dataset != 0 {
                index::insert_ref(index, hash, header.dataset)?;
            }
        }
        (Kind::Delete, Some(hash)) => {
            index::delete_block(index, hash)?;
        }
        (Kind::Reference, Some(hash)) => {
            index::insert_ref(index, hash, header.dataset)?;
        }
        (Kind::Dataset, _) => {
            let text = std::str::from_utf8(payload).map_err(|_| StoreError::BadIndex)?;
            let dataset: Dataset = serde_json::from_str(text).map_err(|_| StoreError::BadIndex)?;
            index::put_dataset(index, header.dataset, &dataset, text)?;
        }
        (Kind::Forget, _) => {
            index::delete_dataset(index, header.dataset)?;
            index::delete_refs(index, header.dataset)?;
        }
        (Kind::Put | Kind::Delete | Kind::Reference, None) => {
            log::warn!("pack {pack}: a record at {offset} names no block");
        }
    }
    Ok(())
}

/// Gives the space of a forgotten block back to the file system, as far as whole pages go. Where
/// that cannot be done the space stays taken, and nothing else is wrong.
pub(super) fn give_back(dir: &Path, place: Place) -> Result<(), StoreError> {
    let start = (place.offset + HEADER_BYTES as u64).next_multiple_of(PAGE_BYTES);
    let end = place.offset + HEADER_BYTES as u64 + u64::from(place.len);
    let end = end - end % PAGE_BYTES;
    if start >= end {
        return Ok(());
    }
    let pack = OpenOptions::new().write(true).open(pack_path(&dir.join("packs"), place.pack))?;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if let Err(error) = fallocate(&pack, hole, start, end - start) {
        log::debug!("space of pack {} is not given back: {error}", place.pack);
    }
    Ok(())
}
