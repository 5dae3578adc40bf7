//! Pins under way, remembered in a file, so that a node which was stopped goes on with them.

use super::Node;
use crate::store_stream::GetError;
use barrow_wire::Cid;
use parking_lot::{Condvar, Mutex};
use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Pins under way that are remembered.
const PINS_MAX: usize = 1_000;
/// What nobody has now is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    roots: Vec<Cid>,
    /// The node stops: what is under way stays in the file.
    frozen: bool,
}

/// The file `pinning`: a CID a line.
pub(super) struct Pinning {
    path: PathBuf,
    state: Mutex<State>,
    stopping: Condvar,
}

impl Pinning {
    /// Reads what was under way; lines that are no CIDs are left out.
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("pinning");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let roots = text.lines().take(PINS_MAX).filter_map(|line| line.parse().ok()).collect();
        let state = Mutex::new(State { roots, frozen: false });
        Self { path, state, stopping: Condvar::new() }
    }

    fn begin(&self, root: Cid) {
        let mut state = self.state.lock();
        if !state.roots.contains(&root) && state.roots.len() < PINS_MAX {
            state.roots.push(root);
            self.write(&state);
        }
    }

    fn end(&self, root: &Cid) {
        let mut state = self.state.lock();
        if !state.frozen && state.roots.contains(root) {
            state.roots.retain(|other| other != root);
            self.write(&state);
        }
    }

    /// From now on nothing is forgotten: the node stops.
    pub(super) fn freeze(&self) {
        self.state.lock().frozen = true;
        self.stopping.notify_all();
    }

    /// Without the file nothing but the going-on is lost, so it need not be synced.
    fn write(&self, state: &State) {
        let text: String = state.roots.iter().map(|root| format!("{root}\n")).collect();
        let draft = self.path.with_extension("new");
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.path));
        if let Err(error) = written {
            log::warn!("{}: {error}", self.path.display());
        }
    }

    /// Waits; `true` if the node stops meanwhile.
    fn stops_within(&self, wait: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.frozen {
            self.stopping.wait_for(&mut state, wait);
        }
        state.frozen
    }
}

impl Node {
    /// Remembers a pin for as long as `pin` runs, and further if the node is stopped meanwhile.
    pub(super) fn remembering<T>(
        &self,
        root: &Cid,
        pin: impl FnOnce() -> Result<T, GetError>,
    ) -> Result<T, GetError> {
        self.0.pinning.begin(*root);
        let done = pin();
        // A store that fails or closes may be better after a restart.
        if !matches!(done, Err(GetError::Store(_))) {
            self.0.pinning.end(root);
        }
        done
    }

    /// Goes on with the pins that were under way when the node was last stopped, one after the
    /// other, until each is whole or cancelled.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn resume_pins(&self) -> io::Result<()> {
        let mut roots: VecDeque<Cid> = self.0.pinning.state.lock().roots.iter().copied().collect();
        if roots.is_empty() {
            return Ok(());
        }
        let node = self.clone();
        let run = move || {
            while let Some(root) = roots.pop_front() {
                log::info!("going on with the pin of {root}");
                match node.pin(&root, &mut |_| true) {
                    Ok(_) => log::info!("{root} is pinned"),
                    Err(GetError::NotFound | GetError::Timeout) => {
                        node.0.pinning.begin(root);
                        roots.push_back(root);
                        if node.0.pinning.stops_within(RETRY_INTERVAL) {
                            return;
                        }
                    }
                    Err(error) => log::warn!("the pin of {root} ends: {error}"),
                }
            }
        };
        std::thread::Builder::new().name("pins".into()).spawn(run).map(|_| ())
    }

    /// Tells that a stop is at hand: pins that end from now on are gone on with after the next
    /// start.
    pub fn prepare_stop(&self) {
        self.0.pinning.freeze();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::{Codec, HashCode, Multihash};

    #[test]
    fn what_is_under_way_at_a_stop_is_remembered_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = |n: u8| Cid::v1(Codec::Raw, Multihash::of(HashCode::Sha2_256, &[n]));
        let pinning = Pinning::open(dir.path());
        (1..=3).for_each(|n| pinning.begin(root(n)));
        pinning.begin(root(3));
        pinning.end(&root(1));
        pinning.freeze();
        pinning.end(&root(2));
        assert_eq!(Pinning::open(dir.path()).state.lock().roots, [root(2), root(3)]);
    }
}
