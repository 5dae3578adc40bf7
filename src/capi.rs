//! The C interface: a node inside a program that is not written in Rust. `include/barrow.h` says
//! how it is used; here is only what crosses the boundary.
//!
//! A panic never crosses it: it becomes an error as any other. Pointers are trusted no further than
//! the header asks: null ones are refused, strings have to be UTF-8.

#![allow(unsafe_code, reason = "C hands pointers over; each use says what makes it sound")]

use crate::{
    base::config::{Config, Limits, PeerTarget},
    node::Node,
};
use std::{
    any::Any,
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr, slice,
};

/// Without the BitTorrent DHT.
pub const BARROW_NO_DHT: c_uint = 1;
/// Without a search of the local network.
pub const BARROW_NO_MDNS: c_uint = 2;
/// With the bounds of `--small`.
pub const BARROW_SMALL: c_uint = 4;
/// Room for a CID or for what [`barrow_peer`] writes, its end included.
pub const BARROW_TEXT_BYTES: usize = 256;

/// Bytes handed to a program at one time.
const CHUNK_BYTES: usize = 64 << 10;

const DONE: c_int = 0;
const FAILED: c_int = -1;

/// Gives up to `room` bytes to store: how many, 0 at the end, negative to give up.
pub type BarrowSource =
    Option<unsafe extern "C" fn(context: *mut c_void, bytes: *mut u8, room: usize) -> isize>;
/// Takes `len` bytes that were read: 0 to go on, anything else to stop.
pub type BarrowSink =
    Option<unsafe extern "C" fn(context: *mut c_void, bytes: *const u8, len: usize) -> c_int>;

thread_local! {
    /// Why the last call of this thread failed.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Starts a node in `data_dir`. It listens for peers at `listen` (`ADDR:PORT`, null: nowhere),
/// stays connected with the `peers_len` of `peers` (`[ID@]HOST:PORT`), and answers no HTTP.
/// Null if it failed.
///
/// # Safety
/// `data_dir`, `listen` if not null, and `peers_len` pointers at `peers` are strings that end with
/// a zero and stay as they are during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn barrow_start(
    data_dir: *const c_char,
    listen: *const c_char,
    peers: *const *const c_char,
    peers_len: usize,
    flags: c_uint,
) -> *mut Node {
    let start = || {
        // SAFETY: the caller's promise for `data_dir`; null is refused inside.
        let mut config = Config::new(unsafe { text(data_dir, "data_dir") }?);
        config.http = None;
        config.listen.clear();
        if !listen.is_null() {
            // SAFETY: the caller's promise for `listen`.
            let address = unsafe { text(listen, "listen") }?;
            config.listen.push(address.parse().map_err(|error| format!("{address:?}: {error}"))?);
        }
        if peers.is_null() && peers_len > 0 {
            return Err("peers is null".into());
        }
        for at in 0..peers_len {
            // SAFETY: there are `peers_len` pointers at `peers`, which is not null.
            let peer = unsafe { *peers.add(at) };
            // SAFETY: the caller's promise for each of them; null is refused inside.
            config.peers.push(PeerTarget::parse(unsafe { text(peer, "a peer") }?)?);
        }
        if flags & !(BARROW_NO_DHT | BARROW_NO_MDNS | BARROW_SMALL) != 0 {
            return Err(format!("unknown flags {flags:#x}"));
        }
        config.dht = flags & BARROW_NO_DHT == 0;
        config.mdns = flags & BARROW_NO_MDNS == 0;
        if flags & BARROW_SMALL != 0 {
            config.limits = Limits::SMALL;
        }
        let node = Node::start(config).map_err(|error| error.to_string())?;
        Ok(Box::into_raw(Box::new(node)))
    };
    guarded(start).unwrap_or(ptr::null_mut())
}

/// Writes `ID@ADDR:PORT` into `peer`: what another node is given to find this one.
///
/// # Safety
/// `node` is null or from [`barrow_start`] and not stopped; there are [`BARROW_TEXT_BYTES`] bytes
/// to write at `peer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn barrow_peer(node: *const Node, peer: *mut c_char) -> c_int {
    status(|| {
        // SAFETY: the caller's promise for `node`; null is refused inside.
        let node = unsafe { known(node) }?;
        let address = *node.addresses().first().ok_or("it listens nowhere")?;
        // SAFETY: the caller's promise for `peer`; null is refused inside.
        unsafe { write_text(&format!("{}@{address}", node.peer_id()), peer) }
    })
}

/// Stores all that `source` gives as one pinned file, and writes its CID into `cid`.
///
/// # Safety
/// `node` is null or from [`barrow_start`] and not stopped; `source` may be called with `context`
/// and writes no more than the room that it is given; there are [`BARROW_TEXT_BYTES`] bytes to
/// write at `cid`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn barrow_put(
    node: *const Node,
    source: BarrowSource,
    context: *mut c_void,
    cid: *mut c_char,
) -> c_int {
    status(|| {
        // SAFETY: the caller's promise for `node`; null is refused inside.
        let node = unsafe { known(node) }?;
        let source = source.ok_or("source is null")?;
        let stored =
            node.put(&mut SourceReader { source, context }).map_err(|error| error.to_string())?;
        // SAFETY: the caller's promise for `cid`; null is refused inside.
        unsafe { write_text(&stored.to_string(), cid) }
    })
}

/// Gives the file of a CID, from this node or from its peers, to `sink` piece by piece, each of
/// verified bytes.
///
/// # Safety
/// `node` is null or from [`barrow_start`] and not stopped; `cid` is a string that ends with a
/// zero; `sink` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn barrow_get(
    node: *const Node,
    cid: *const c_char,
    sink: BarrowSink,
    context: *mut c_void,
) -> c_int {
    status(|| {
        // SAFETY: the caller's promise for `node`; null is refused inside.
        let node = unsafe { known(node) }?;
        // SAFETY: the caller's promise for `cid`; null is refused inside.
        let cid = unsafe { text(cid, "cid") }?;
        let cid = cid.parse().map_err(|error| format!("{cid:?}: {error}"))?;
        let sink = sink.ok_or("sink is null")?;
        let mut stream = node.get(&cid).map_err(|error| error.to_string())?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let len = stream.read(&mut chunk).map_err(|error| error.to_string())?;
            if len == 0 {
                return Ok(());
            }
            // SAFETY: the caller's promise for `sink`; `len` bytes of `chunk` are there.
            if unsafe { sink(context, chunk.as_ptr(), len) } != 0 {
                return Err("the sink stopped it".into());
            }
        }
    })
}

/// Stops a node, syncs what was put, and frees it; null is let pass.
///
/// # Safety
/// `node` is null or from [`barrow_start`], was not stopped before, and no other call uses it now
/// or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn barrow_stop(node: *mut Node) -> c_int {
    status(|| {
        if !node.is_null() {
            // SAFETY: it came from `Box::into_raw`, and the caller hands it back this once.
            unsafe { Box::from_raw(node) }.shutdown();
        }
        Ok(())
    })
}

/// Why the last call of this thread failed; empty if it did not. It is good until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn barrow_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|error| error.as_ptr())
}

/// A program's bytes as a reader.
struct SourceReader {
    source: unsafe extern "C" fn(*mut c_void, *mut u8, usize) -> isize,
    context: *mut c_void,
}

impl Read for SourceReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `barrow_put`'s caller promised that it may be called so, and to keep to the room.
        let len = unsafe { (self.source)(self.context, bytes.as_mut_ptr(), bytes.len()) };
        match usize::try_from(len) {
            Ok(len) if len <= bytes.len() => Ok(len),
            Ok(_) => Err(io::Error::other("the source says it gave more than there is room")),
            Err(_) => Err(io::Error::other("the source gave up")),
        }
    }
}

/// Runs a call: its error and its panic become this thread's last error.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Option<T> {
    let error = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => {
            LAST_ERROR.set(CString::default());
            return Some(value);
        }
        Ok(Err(error)) => error,
        Err(panic) => format!("a fault in barrow: {}", panic_text(panic.as_ref())),
    };
    // A zero inside would cut it.
    LAST_ERROR.set(CString::new(error.replace('\0', " ")).unwrap_or_default());
    None
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("it is not told")
}

fn status(call: impl FnOnce() -> Result<(), String>) -> c_int {
    guarded(call).map_or(FAILED, |()| DONE)
}

/// # Safety
/// `node` is null or points to a node that is not freed during `'a`.
unsafe fn known<'a>(node: *const Node) -> Result<&'a Node, String> {
    // SAFETY: as the caller promises.
    unsafe { node.as_ref() }.ok_or_else(|| "node is null".into())
}

/// # Safety
/// `pointer` is null or points to a string that ends with a zero and stays as it is during `'a`.
unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, String> {
    if pointer.is_null() {
        return Err(format!("{what} is null"));
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| format!("{what} is not UTF-8"))
}

/// # Safety
/// `pointer` is null, or there are [`BARROW_TEXT_BYTES`] bytes to write there.
unsafe fn write_text(text: &str, pointer: *mut c_char) -> Result<(), String> {
    if pointer.is_null() {
        return Err("there is no room for the answer: it is null".into());
    }
    if text.len() >= BARROW_TEXT_BYTES {
        return Err(format!("{text:?} is too long"));
    }
    // SAFETY: there is that much room, as the caller promises, and bytes need no alignment.
    let room = unsafe { slice::from_raw_parts_mut(pointer.cast::<u8>(), text.len() + 1) };
    room[..text.len()].copy_from_slice(text.as_bytes());
    room[text.len()] = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: it ends with a zero, and no call of this thread comes in between.
        unsafe { CStr::from_ptr(barrow_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_an_error_and_success_clears_it() {
        assert_eq!(status(|| panic!("the {}", "reason")), FAILED);
        assert_eq!(last_error(), "a fault in barrow: the reason");
        assert_eq!(status(|| Ok(())), DONE);
        assert_eq!(last_error(), "");
        assert_eq!(status(|| Err("cut\0here".into())), FAILED);
        assert_eq!(last_error(), "cut here");
    }

    #[test]
    fn null_is_refused_wherever_it_is_given() {
        let nothing = ptr::null_mut::<c_void>();
        // SAFETY: null is allowed everywhere, and refused.
        unsafe {
            assert!(barrow_start(ptr::null(), ptr::null(), ptr::null(), 0, 0).is_null());
            assert_eq!(last_error(), "data_dir is null");
            assert!(barrow_start(c"x".as_ptr(), ptr::null(), ptr::null(), 1, 0).is_null());
            assert_eq!(last_error(), "peers is null");
            assert_eq!(barrow_peer(ptr::null(), ptr::null_mut()), FAILED);
            assert_eq!(barrow_put(ptr::null(), None, nothing, ptr::null_mut()), FAILED);
            assert_eq!(barrow_get(ptr::null(), ptr::null(), None, nothing), FAILED);
            assert_eq!(last_error(), "node is null");
            assert_eq!(barrow_stop(ptr::null_mut()), DONE);
        }
    }
}
