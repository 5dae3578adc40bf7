//! A CAR as a stream of bytes, made of blocks as they come.

use crate::{
    content::store_stream::{BlockSource, GetError, wait},
    data::car::{CarWalk, encode_block_head, encode_header},
};
use barrow_wire::Cid;
use bytes::Bytes;
use std::{
    io::{self, Read},
    task::{Poll, Waker},
};

/// Blocks are put together until there are so many bytes, so that small ones are not a write each.
/// They are copied: a stream that waits for its reader holds no block.
const PIECE_BYTES: usize = 64 << 10;

/// The bytes of a CAR. [`Self::poll_chunk`] never waits for the network; [`Read`] does.
pub struct CarStream {
    source: BlockSource,
    walk: CarWalk,
    /// What was made and not yet given.
    piece: Vec<u8>,
    /// How it ended.
    end: Option<Result<(), GetError>>,
    /// What [`Read`] has left of the last chunk.
    rest: Bytes,
}

impl CarStream {
    /// A CAR with this one root.
    pub fn new(source: BlockSource, walk: CarWalk, root: Cid) -> Self {
        let piece = encode_header(&[root]).expect("a list of one link has an encoding");
        Self { source, walk, piece, end: None, rest: Bytes::new() }
    }

    /// The next bytes, none at the end. While the swarm is asked it is pending, and `waker` is
    /// woken when there is news. An error is the last that it gives.
    pub fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, GetError>>> {
        while self.end.is_none() && self.piece.len() < PIECE_BYTES {
            let Some(cid) = self.walk.need() else {
                self.end = Some(Ok(()));
                break;
            };
            match self.source.poll_block(&cid, || self.walk.ahead(), waker) {
                Poll::Ready(Ok(block)) => match self.walk.supply(&block) {
                    Ok(true) => {
                        self.piece.extend(encode_block_head(&cid, block.len()));
                        self.piece.extend_from_slice(&block);
                    }
                    Ok(false) => {}
                    Err(error) => self.end = Some(Err(error.into())),
                },
                Poll::Ready(Err(error)) => self.end = Some(Err(error)),
                Poll::Pending if self.piece.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if !self.piece.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.piece).into())));
        }
        match self.end.replace(Ok(())) {
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(())) | None => Poll::Ready(None),
        }
    }
}

impl Read for CarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match wait(|waker| self.poll_chunk(waker)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let len = self.rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.rest.split_to(len));
        Ok(len)
    }
}
