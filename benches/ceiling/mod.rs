//! The least that a transfer of verified, encrypted, synced bytes costs: what node to node is
//! compared with. No names, no index, no choice of peers.

use sha2::{Digest as _, Sha256};
use snow::{Builder, HandshakeState, TransportState};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

const NOISE: &str = "Noise_XX_25519_AESGCM_SHA256";
/// Bytes in one Noise message at most, beside its tag.
const MESSAGE_BYTES: usize = 65_519;
const BLOCK_BYTES: usize = 256 << 10;
const WRITE_BYTES: usize = 1 << 20;
const ALIGNMENT: usize = 4_096;

/// Receives until the sender closes; prints the seconds that took, sync included.
pub fn receive(port: &str, sink: &Path) {
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    let mut noise = handshake(&mut stream, false);
    let (blocks, blocks_in) = sync_channel::<Vec<u8>>(16);
    let (spent, spent_in) = sync_channel::<Vec<u8>>(32);
    let mut file = DirectFile::create(sink);
    let writer = thread::spawn(move || {
        for block in blocks_in {
            std::hint::black_box(Sha256::digest(&block));
            file.append(&block);
            let _ = spent.try_send(block);
        }
        file.finish();
    });
    stream.write_all(b"g").unwrap();
    let since = Instant::now();
    let mut input = vec![0; 256 << 10];
    let mut plain = vec![0; 65_536];
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let (mut from, mut to) = (0, 0);
    loop {
        let read = stream.read(&mut input[to..]).unwrap();
        if read == 0 {
            break;
        }
        to += read;
        while let Some(message) = whole_message(&input[from..to]) {
            let len = noise.read_message(message, &mut plain).unwrap();
            from += 2 + message.len();
            let mut rest = &plain[..len];
            while !rest.is_empty() {
                let now = rest.len().min(BLOCK_BYTES - block.len());
                block.extend_from_slice(&rest[..now]);
                rest = &rest[now..];
                if block.len() == BLOCK_BYTES {
                    let mut next = spent_in.try_recv().unwrap_or_default();
                    next.clear();
                    blocks.send(std::mem::replace(&mut block, next)).unwrap();
                }
            }
        }
        if from == to {
            (from, to) = (0, 0);
        } else if input.len() - to < 70_000 {
            input.copy_within(from..to, 0);
            (from, to) = (0, to - from);
        }
    }
    blocks.send(block).unwrap();
    drop(blocks);
    writer.join().unwrap();
    println!("{:.6}", since.elapsed().as_secs_f64());
    stream.write_all(b"k").unwrap();
}

fn whole_message(input: &[u8]) -> Option<&[u8]> {
    let (len, rest) = input.split_first_chunk::<2>()?;
    rest.get(..u16::from_be_bytes(*len) as usize)
}

/// Sends a file.
pub fn send(port: &str, source: &Path) {
    let port: u16 = port.parse().unwrap();
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    };
    stream.set_nodelay(true).unwrap();
    let mut noise = handshake(&mut stream, true);
    let source = File::open(source).unwrap();
    let mut plain = vec![0; MESSAGE_BYTES];
    let mut wire = vec![0; 2 + MESSAGE_BYTES + 16];
    stream.read_exact(&mut [0; 1]).unwrap();
    let mut offset = 0;
    loop {
        let read = read_full(&source, &mut plain, offset).unwrap();
        if read == 0 {
            break;
        }
        let len = noise.write_message(&plain[..read], &mut wire[2..]).unwrap();
        wire[..2].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        stream.write_all(&wire[..2 + len]).unwrap();
        offset += read as u64;
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64)? {
            0 => break,
            some => read += some,
        }
    }
    Ok(read)
}

fn handshake(stream: &mut TcpStream, initiator: bool) -> TransportState {
    let builder = Builder::new(NOISE.parse().unwrap());
    let key = builder.generate_keypair().unwrap().private;
    let builder = builder.local_private_key(&key).unwrap();
    let mut noise: HandshakeState = if initiator {
        builder.build_initiator().unwrap()
    } else {
        builder.build_responder().unwrap()
    };
    let (mut message, mut payload) = ([0; 1_024], [0; 1_024]);
    while !noise.is_handshake_finished() {
        if noise.is_my_turn() {
            let len = noise.write_message(&[], &mut message).unwrap();
            stream.write_all(&u16::try_from(len).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&message[..len]).unwrap();
        } else {
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let len = u16::from_be_bytes(len) as usize;
            stream.read_exact(&mut message[..len]).unwrap();
            noise.read_message(&message[..len], &mut payload).unwrap();
        }
    }
    noise.into_transport_mode().unwrap()
}

/// A file written in aligned pieces past the page cache, its tail through it.
struct DirectFile {
    direct: File,
    file: File,
    staging: Vec<u8>,
    aligned_at: usize,
    staged: usize,
    offset: u64,
}

impl DirectFile {
    fn create(path: &Path) -> Self {
        let file = File::create(path).unwrap();
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let direct = OpenOptions::new().write(true).custom_flags(direct).open(path);
        // tmpfs knows no direct writes.
        let direct = direct.unwrap_or_else(|_| file.try_clone().unwrap());
        let staging = vec![0; WRITE_BYTES + ALIGNMENT];
        let aligned_at = staging.as_ptr().align_offset(ALIGNMENT);
        Self { direct, file, staging, aligned_at, staged: 0, offset: 0 }
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = self.aligned_at + self.staged;
        self.staging[at..at + bytes.len()].copy_from_slice(bytes);
        self.staged += bytes.len();
        if self.staged == WRITE_BYTES {
            let piece = &self.staging[self.aligned_at..self.aligned_at + WRITE_BYTES];
            self.direct.write_all_at(piece, self.offset).unwrap();
            self.offset += WRITE_BYTES as u64;
            self.staged = 0;
        }
    }

    fn finish(self) {
        let tail = &self.staging[self.aligned_at..self.aligned_at + self.staged];
        self.file.write_all_at(tail, self.offset).unwrap();
        self.file.sync_data().unwrap();
    }
}
