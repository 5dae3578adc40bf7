//! Chunks of a request's body, read strictly and written anew (RFC 9112, section 7.1).

/// Bytes of the line before a chunk at most; extensions are refused.
const SIZE_DIGITS_MAX: usize = 15;

/// Where a body in chunks is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// The line with the next chunk's size.
    Size,
    /// So many bytes of a chunk are left.
    Data(u64),
    /// The line end behind a chunk.
    DataEnd,
    /// The line end behind the last chunk.
    LastEnd,
    /// All was read.
    Done,
}

/// What was moved on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Bytes of the input that were used.
    pub(super) used: usize,
    /// Bytes of content among them.
    pub(super) content: u64,
}

/// The chunks are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkError;

impl Chunked {
    /// Moves content from the front of `input` to `output`, in chunks of our own, at most
    /// `bytes_max` bytes of it.
    pub(super) fn pass(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<Passed, ChunkError> {
        let (mut used, mut content) = (0, 0);
        while output.len() < bytes_max {
            let rest = &input[used..];
            match *self {
                Self::Size => {
                    let Some(line) = line_end(rest, SIZE_DIGITS_MAX)? else { break };
                    let digits = std::str::from_utf8(&rest[..line]).map_err(|_| ChunkError)?;
                    let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    let size = u64::from_str_radix(digits, 16).map_err(|_| ChunkError)?;
                    if !hex {
                        return Err(ChunkError);
                    }
                    *self = if size == 0 { Self::LastEnd } else { Self::Data(size) };
                    used += line + 2;
                }
                Self::Data(left) => {
                    let room = bytes_max - output.len();
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len()).min(room);
                    if len == 0 {
                        break;
                    }
                    put_chunk(output, &rest[..len]);
                    used += len;
                    content += len as u64;
                    let left = left - len as u64;
                    *self = if left == 0 { Self::DataEnd } else { Self::Data(left) };
                }
                Self::DataEnd => {
                    let Some(0) = line_end(rest, 0)? else { break };
                    used += 2;
                    *self = Self::Size;
                }
                Self::LastEnd => {
                    // Trailers are refused: nothing here needs one.
                    let Some(0) = line_end(rest, 0)? else { break };
                    used += 2;
                    *self = Self::Done;
                    put_last_chunk(output);
                }
                Self::Done => break,
            }
        }
        Ok(Passed { used, content })
    }
}

/// Where the line ends, if it is whole; it may have `len_max` bytes.
fn line_end(bytes: &[u8], len_max: usize) -> Result<Option<usize>, ChunkError> {
    let window = &bytes[..bytes.len().min(len_max + 2)];
    if let Some(at) = window.windows(2).position(|pair| pair == b"\r\n") {
        return Ok(Some(at));
    }
    let could_follow = window.len() < len_max + 2 && !window.contains(&b'\n');
    if could_follow { Ok(None) } else { Err(ChunkError) }
}

pub(super) fn put_chunk(output: &mut Vec<u8>, bytes: &[u8]) {
    output.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    output.extend_from_slice(bytes);
    output.extend_from_slice(b"\r\n");
}

pub(super) fn put_last_chunk(output: &mut Vec<u8>) {
    output.extend_from_slice(b"0\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_pass_whole_however_they_are_cut_and_nothing_behind_them_is_taken() {
        let input = b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\nGET";
        for cut in 1..input.len() {
            let (mut state, mut output, mut kept) = (Chunked::Size, Vec::new(), Vec::new());
            let mut passed = 0;
            for piece in input.chunks(cut) {
                kept.extend_from_slice(piece);
                let now = state.pass(&kept, &mut output, usize::MAX).unwrap();
                kept.drain(..now.used);
                passed += now.content;
            }
            assert_eq!((state, &kept[..]), (Chunked::Done, &b"GET"[..]), "cut at {cut}");
            let mut content = Vec::new();
            let mut rest = &output[..];
            while let Some(line) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let size = std::str::from_utf8(&rest[..line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                content.extend_from_slice(&rest[line + 2..line + 2 + size]);
                rest = &rest[line + 4 + size..];
            }
            assert_eq!(content, b"hello0123456789");
            assert_eq!(passed, content.len() as u64);
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for input in [
            "x\r\n",
            "-1\r\n",
            "+5\r\nhello\r\n",
            "5;a=b\r\nhello\r\n",
            "\r\n",
            "5\nhello\n",
            "5\r\nhelloX\r\n",
            "0\r\nTrailer: x\r\n\r\n",
            "1000000000000000000\r\n",
            " 5\r\n",
        ] {
            let refused = Chunked::Size.pass(input.as_bytes(), &mut Vec::new(), 1 << 20);
            assert_eq!(refused, Err(ChunkError), "{input:?}");
        }
    }
}
