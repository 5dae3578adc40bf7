//! The address book: where peers were met, how it went, and who told of the address.
//!
//! It outlives a restart in `peers.sqlite`, and is only ever a source of hints.

use super::{Hint, Source};
use barrow_wire::PeerId;
use rusqlite::{Connection, params};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

/// Addresses that are remembered; the one with the lowest score goes first.
const ADDRESSES_MAX: usize = 1_024;
/// The score of an address at which peers were met again and again.
const SCORE_MAX: i64 = 64;
/// What a connection is worth.
const SCORE_MET: i64 = 8;
/// An address that failed is no hint for so long.
const DEAD_TIME: Duration = Duration::from_secs(30);
/// Remembered addresses that a look-up gets.
const BEST_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Known {
    peer: Option<PeerId>,
    source: Source,
    /// Above zero: a peer was met there, also before the last start.
    score: i64,
    failed_at: Option<Instant>,
}

/// What is known of addresses.
#[derive(Debug, Default)]
pub(super) struct Book {
    known: BTreeMap<SocketAddr, Known>,
    file: Option<Connection>,
}

impl Book {
    /// Opens the book. One that cannot be read is left alone, and nothing is remembered.
    pub(super) fn open(path: &Path) -> Self {
        match load(path) {
            Ok((file, known)) => Self { known, file: Some(file) },
            Err(error) => {
                log::warn!("{}: no address is remembered: {error}", path.display());
                Self::default()
            }
        }
    }

    /// Somebody told of an address; the first one who did counts as its source, unless a person
    /// gives it.
    pub(super) fn heard(&mut self, hint: Hint, source: Source) {
        self.make_room();
        let heard = Known { peer: hint.peer, source, score: 0, failed_at: None };
        let known = self.known.entry(hint.address).or_insert(heard);
        known.peer = hint.peer.or(known.peer);
        if source == Source::Given {
            known.source = source;
        }
    }

    /// A peer was met at an address that was dialed.
    pub(super) fn met(&mut self, address: SocketAddr, peer: PeerId) {
        self.heard(Hint { address, peer: Some(peer) }, Source::Exchange);
        if let Some(known) = self.known.get_mut(&address) {
            known.peer = Some(peer);
            known.failed_at = None;
            known.score = (known.score + SCORE_MET).min(SCORE_MAX);
        }
        self.save(address);
    }

    /// Nobody who was looked for could be met there.
    pub(super) fn failed(&mut self, now: Instant, address: SocketAddr) {
        let Some(known) = self.known.get_mut(&address) else { return };
        let remembered = known.score > 0;
        known.failed_at = Some(now);
        known.score /= 2;
        if remembered {
            self.save(address);
        }
    }

    /// Whether an address failed a moment ago.
    pub(super) fn is_dead(&self, now: Instant, address: SocketAddr) -> bool {
        let failed_at = self.known.get(&address).and_then(|known| known.failed_at);
        failed_at.is_some_and(|at| now.saturating_duration_since(at) < DEAD_TIME)
    }

    /// Who told of an address.
    pub(super) fn source(&self, address: SocketAddr) -> Option<Source> {
        self.known.get(&address).map(|known| known.source)
    }

    /// Who was met at an address.
    pub(super) fn peer(&self, address: SocketAddr) -> Option<PeerId> {
        self.known.get(&address).and_then(|known| known.peer)
    }

    /// The addresses at which somebody is most likely met.
    pub(super) fn best(&self, now: Instant) -> Vec<Hint> {
        let met = self.known.iter().filter(|(_, known)| known.score > 0);
        let mut met: Vec<_> = met.filter(|(address, _)| !self.is_dead(now, **address)).collect();
        met.sort_by_key(|(_, known)| std::cmp::Reverse(known.score));
        let hints =
            met.iter().map(|(address, known)| Hint { address: **address, peer: known.peer });
        hints.take(BEST_MAX).collect()
    }

    fn make_room(&mut self) {
        if self.known.len() < ADDRESSES_MAX {
            return;
        }
        let lowest = self.known.iter().min_by_key(|(_, known)| known.score);
        if let Some(address) = lowest.map(|(address, _)| *address) {
            self.known.remove(&address);
            self.forget(address);
        }
    }

    fn save(&mut self, address: SocketAddr) {
        let Some(known) = self.known.get(&address) else { return };
        if known.score == 0 {
            return self.forget(address);
        }
        let Some(file) = &self.file else { return };
        let saved = file
            .prepare_cached("INSERT OR REPLACE INTO addresses VALUES(?1, ?2, ?3, ?4)")
            .and_then(|mut statement| {
                statement.execute(params![
                    address.to_string(),
                    known.peer.map(|peer| peer.to_string()),
                    known.source.name(),
                    known.score
                ])
            });
        if let Err(error) = saved {
            log::warn!("an address could not be remembered: {error}");
        }
    }

    fn forget(&mut self, address: SocketAddr) {
        let Some(file) = &self.file else { return };
        let forgotten = file
            .prepare_cached("DELETE FROM addresses WHERE address = ?1")
            .and_then(|mut statement| statement.execute([address.to_string()]));
        if let Err(error) = forgotten {
            log::warn!("an address could not be forgotten: {error}");
        }
    }
}

/// Other tables may stand in the same file: each owner makes its own.
fn load(path: &Path) -> Result<(Connection, BTreeMap<SocketAddr, Known>), rusqlite::Error> {
    let file = Connection::open(path)?;
    file.busy_timeout(Duration::from_secs(10))?;
    file.pragma_update(None, "cache_size", -64)?;
    file.pragma_update(None, "journal_mode", "WAL")?;
    // Addresses lost in a power cut are found again.
    file.pragma_update(None, "synchronous", "NORMAL")?;
    file.execute_batch(
        "CREATE TABLE IF NOT EXISTS addresses(
           address TEXT PRIMARY KEY, peer TEXT, source TEXT NOT NULL, score INTEGER NOT NULL
         ) WITHOUT ROWID",
    )?;
    let mut known = BTreeMap::new();
    {
        let mut rows = file.prepare(
            "SELECT address, peer, source, score FROM addresses ORDER BY score DESC LIMIT ?1",
        )?;
        let mut rows = rows.query([i64::try_from(ADDRESSES_MAX).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            let (address, peer, source): (String, Option<String>, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let score: i64 = row.get(3)?;
            // A row of another version is passed over; it ages out.
            let (Ok(address), Some(source)) = (address.parse(), Source::from_name(&source)) else {
                continue;
            };
            let peer = peer.and_then(|peer| peer.parse().ok());
            let score = score.clamp(0, SCORE_MAX);
            known.insert(address, Known { peer, source, score, failed_at: None });
        }
    }
    Ok((file, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> SocketAddr {
        ([192, 0, 2, 1], n).into()
    }

    fn peer() -> PeerId {
        PeerId::from_public_key([7; 32])
    }

    #[test]
    fn who_was_met_is_remembered_over_a_restart_with_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.sqlite");
        let mut book = Book::open(&path);
        book.heard(Hint { address: address(1), peer: None }, Source::Dht);
        book.heard(Hint { address: address(2), peer: None }, Source::Dht);
        book.met(address(1), peer());
        drop(book);
        let book = Book::open(&path);
        assert_eq!(
            book.best(Instant::now()),
            [Hint { address: address(1), peer: Some(peer()) }],
            "only who was met is remembered"
        );
        assert_eq!(book.source(address(1)), Some(Source::Dht));
    }

    #[test]
    fn an_address_that_fails_again_and_again_ages_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.sqlite");
        let mut book = Book::open(&path);
        let now = Instant::now();
        book.met(address(1), peer());
        book.failed(now, address(1));
        assert!(book.is_dead(now, address(1)) && book.best(now).is_empty());
        assert_eq!(book.best(now + DEAD_TIME).len(), 1, "once is forgiven");
        for _ in 0..3 {
            book.failed(now, address(1));
        }
        assert!(book.best(now + DEAD_TIME).is_empty());
        drop(book);
        assert!(Book::open(&path).best(now).is_empty());
    }

    #[test]
    fn the_book_is_bounded_and_keeps_who_was_met() {
        let mut book = Book::default();
        book.met(address(0), peer());
        for n in 1..=ADDRESSES_MAX as u16 + 10 {
            book.heard(Hint { address: address(n), peer: None }, Source::Dht);
        }
        assert_eq!(book.known.len(), ADDRESSES_MAX);
        assert_eq!(book.best(Instant::now()).len(), 1);
    }
}
