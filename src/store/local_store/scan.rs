//! The records of a pack, one after the other, as far as the drive returns them.

use super::{
    StoreError,
    medium::{self, PackFile},
    record::{HEADER_BYTES, Header},
};
use std::io;

/// Bytes searched at a time for the next sound record behind a damaged one.
const SEARCH_BYTES: usize = 1 << 20;

/// What is at an offset of a pack.
pub(super) enum Found {
    Record(Header),
    /// A sound header whose payload is not what was written.
    Payload(Header),
    Nothing,
}

/// The record at `offset`. A block's bytes are compared with their checksum, as a power cut tears
/// them; what is not sound is read once more past the page cache before that is believed.
pub(super) fn read_record(
    file: &dyn PackFile,
    seed: u64,
    offset: u64,
    payload: &mut Vec<u8>,
    is_unreadable: &mut bool,
) -> Result<Found, StoreError> {
    let mut first_failed = false;
    match read_record_once(file, seed, (offset, false), payload, &mut first_failed)? {
        Found::Record(header) => Ok(Found::Record(header)),
        Found::Payload(_) | Found::Nothing => {
            read_record_once(file, seed, (offset, true), payload, is_unreadable)
        }
    }
}

fn read_record_once(
    file: &dyn PackFile,
    seed: u64,
    (offset, fresh): (u64, bool),
    payload: &mut Vec<u8>,
    is_unreadable: &mut bool,
) -> Result<Found, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    match read_readable(file, &mut bytes, (offset, fresh), is_unreadable) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Found::Nothing),
        read => read?,
    }
    let Some(header) = Header::from_bytes(&bytes, seed) else { return Ok(Found::Nothing) };
    payload.resize(header.len as usize, 0);
    match read_readable(file, payload, (offset + HEADER_BYTES as u64, fresh), is_unreadable) {
        // It was never written to its end: a crash came between.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Found::Nothing),
        read => read?,
    }
    Ok(if header.matches(payload) { Found::Record(header) } else { Found::Payload(header) })
}

/// Bytes that a drive can or cannot read as one.
const PAGE_BYTES: usize = 4_096;

/// Reads a part of a pack, past the page cache if it is to be `fresh`. What the drive cannot read is
/// zeros, which are no record, and no payload but their own; `is_unreadable` is set then.
fn read_readable(
    file: &dyn PackFile,
    buffer: &mut [u8],
    (offset, fresh): (u64, bool),
    is_unreadable: &mut bool,
) -> io::Result<()> {
    let read = |buffer: &mut [u8], at| {
        if fresh { file.read_fresh_at(buffer, at) } else { file.read_at(buffer, at) }
    };
    match read(buffer, offset) {
        Err(error) if medium::is_unreadable(&error) => {
            log::error!("of a pack's bytes {offset} and on some cannot be read: {error}");
            *is_unreadable = true;
        }
        read => return read,
    }
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        let page = PAGE_BYTES - usize::try_from(at % PAGE_BYTES as u64).expect("below a page");
        let part = done..buffer.len().min(done + page);
        match read(&mut buffer[part.clone()], at) {
            Err(error) if medium::is_unreadable(&error) => buffer[part.clone()].fill(0),
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
    is_unreadable: bool,
}

impl<'a> Headers<'a> {
    /// Those from `offset` on, where one stands or did, which end before `end`.
    pub(super) fn new(file: &'a dyn PackFile, seed: u64, offset: u64, end: u64) -> Self {
        Self { file, seed, offset, end, window: Vec::new(), window_at: 0, is_unreadable: false }
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
            let next =
                find_record(self.file, self.seed, at + 1, self.end, &mut self.is_unreadable)?;
            self.offset = next.unwrap_or(self.end);
        }
        Ok(None)
    }

    /// Whether the drive did not return some of what was read: a pack is not given up by that.
    pub(super) const fn is_unreadable(&self) -> bool {
        self.is_unreadable
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
            let place = (at, false);
            if let Err(error) =
                read_readable(self.file, &mut self.window, place, &mut self.is_unreadable)
            {
                self.window.clear();
                return Err(error.into());
            }
        }
        let from = usize::try_from(at - self.window_at).expect("it is within the window");
        Ok(&self.window[from..from + len])
    }
}

/// The next place from `offset` on where a sound header stands.
pub(super) fn find_record(
    file: &dyn PackFile,
    seed: u64,
    mut offset: u64,
    len: u64,
    is_unreadable: &mut bool,
) -> Result<Option<u64>, StoreError> {
    let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut window = vec![0; left.min(SEARCH_BYTES + HEADER_BYTES)];
    while offset < len {
        let want = usize::try_from(len - offset).unwrap_or(usize::MAX).min(window.len());
        read_readable(file, &mut window[..want], (offset, true), is_unreadable)?;
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
