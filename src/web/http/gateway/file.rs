//! A file's bytes, in whole or a range of them.

use super::{
    Asked,
    conditions::{self, Known, wanted_range},
    content::{self, IMMUTABLE, content},
    media_type::{self, is_well_formed},
};
use crate::{
    content::{
        resolve::Followed,
        store_stream::{GetError, StoreStream},
    },
    web::{
        gate::{Body, Reply, ReplyBody},
        http::file_name::disposition,
    },
};
use barrow_wire::Cid;
use bytes::Bytes;
use std::{
    ops::Range,
    task::{Poll, Waker},
};

/// First bytes that tell what a file is.
const SNIFF_BYTES: u64 = 512;
/// First bytes that are kept until the client takes them: more than that is read again, as each
/// client that waits would hold a block.
const FIRST_BYTES_MAX: usize = 4 << 10;

/// Which file, and what is known of it.
pub(super) struct Shown {
    pub(super) cid: Cid,
    /// Its first block, if that was read already.
    pub(super) block: Option<Bytes>,
    /// What the answer is tagged with.
    pub(super) tag: Cid,
    pub(super) name: Option<String>,
    pub(super) kind: Option<String>,
}

pub(super) fn answer(asked: &Asked<'_, '_>, followed: &Followed, shown: Shown) -> Reply {
    let etag = format!("\"{}\"", shown.tag);
    if let Some(reply) = conditions::ended(asked.request, &etag, IMMUTABLE, Known::Tag) {
        return reply;
    }
    let stream = match shown.block {
        Some(block) => asked.node.open_block(&shown.cid, &block, asked.scope),
        None => asked.node.open(&shown.cid, asked.scope),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(failed) => return asked.missing(&failed),
    };
    if let Some(reply) = conditions::ended(asked.request, &etag, IMMUTABLE, Known::Present) {
        return reply;
    }
    let size = stream.size();
    let range = match wanted_range(asked.request, &etag, size) {
        Ok(range) => range,
        Err(reply) => return reply,
    };
    let stored = asked.node.dataset(&shown.cid).ok().flatten().map(|dataset| dataset.info);
    let name = shown.name.or_else(|| stored.as_ref().and_then(|info| info.name.clone()));
    let by_name = || name.as_deref().and_then(media_type::of_name).map(Into::into);
    // Older versions stored whatever a client sent as a type.
    let uploaded = || stored.and_then(|info| info.mimetype).filter(|kind| is_well_formed(kind));
    let kind = shown.kind.or_else(uploaded).or_else(by_name);
    let (from, to) = range.clone().map_or((0, size), |range| (range.start, range.end));
    let (body, kind) = match FileBody::begin(stream, from..to, kind) {
        Ok(begun) => begun,
        Err(failed) => return asked.missing(&failed),
    };
    let body = ReplyBody::Stream(Box::new(body), Some(to - from));
    let form = content::Form { etag: &etag, media_type: &kind, size, range };
    let reply = content(asked, followed, form, body);
    let download = asked.request.param("download").as_deref() == Some("true");
    match name {
        Some(name) => {
            let how = if download { "attachment" } else { "inline" };
            reply.with("content-disposition", disposition(how, &name))
        }
        None if download => reply.with("content-disposition", "attachment"),
        None => reply,
    }
}

/// A file's bytes as the body of an answer.
pub(in crate::web::http) struct FileBody {
    first: Option<Bytes>,
    stream: StoreStream,
    range: Range<u64>,
}

impl FileBody {
    /// Waits for the first bytes, so that what cannot be had is told by a status; they also tell
    /// the media type, if it is not known.
    pub(in crate::web::http) fn begin(
        mut stream: StoreStream,
        range: Range<u64>,
        kind: Option<String>,
    ) -> Result<(Self, String), GetError> {
        // A copy: no block is held while another is waited for.
        let start_of = |chunk: &Bytes| chunk[..chunk.len().min(SNIFF_BYTES as usize)].to_vec();
        let mut start = Vec::new();
        if kind.is_none() && range.start > 0 {
            stream.seek_to(0..SNIFF_BYTES.min(range.start));
            // The beginning may lack where the range does not, and no type is worth a stripe.
            if !stream.needs_stripes() {
                let chunk = stream.wait_chunk().and_then(Result::ok);
                start = chunk.as_ref().map(start_of).unwrap_or_default();
            }
        }
        stream.seek_to(range.clone());
        let first = if range.is_empty() { None } else { stream.wait_chunk().transpose()? };
        if range.start == 0 {
            start = first.as_ref().map(start_of).unwrap_or_default();
        }
        let first = match first {
            // A copy, so that the block's buffer is free.
            Some(first) if first.len() <= FIRST_BYTES_MAX => Some(Bytes::copy_from_slice(&first)),
            Some(_) | None => {
                stream.seek_to(range.clone());
                None
            }
        };
        let kind = kind.unwrap_or_else(|| media_type::of_start(&start).into());
        Ok((Self { first, stream, range }, kind))
    }
}

impl Body for FileBody {
    fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        let chunk = match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.stream.poll_chunk(waker),
        };
        if let Poll::Ready(Some(Ok(chunk))) = &chunk {
            self.range.start += chunk.len() as u64;
        }
        chunk.map(|chunk| chunk.map(|chunk| chunk.map_err(|failed| failed.to_string())))
    }

    fn at_hand(&mut self) -> Option<Bytes> {
        let len = self.range.end - self.range.start;
        self.first.take_if(|first| first.len() as u64 == len)
    }

    fn can_rewind(&self) -> bool {
        true
    }

    fn rewind(&mut self, bytes: u64) -> bool {
        self.range.start -= bytes;
        self.first = None;
        self.stream.seek_to(self.range.clone());
        true
    }
}
