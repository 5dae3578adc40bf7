//! What is remembered of peers over restarts: bytes, debts and vouchers, offences and bans.
//!
//! The reactor only notes changes in memory; a thread writes them. What a crash loses of that is
//! a few milliseconds, and what it loses of debts is found again in the vouchers that both sides
//! show when they meet (see [`crate::engine::Account`]).

mod database;

use crate::{
    base::clock::unix_seconds,
    engine::{Account, Moment},
};
use barrow_wire::{Identity, PeerId, Voucher};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, params};
use std::{collections::HashMap, fmt, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

/// Peers of whom something waits to be written, while the disk is full.
const UNWRITTEN_PEERS_MAX: usize = 10_000;
/// Time between two writes while debts change, and while only bytes do.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Parts of a unit in which debts are counted (see [`Account`]).
const PARTS: f64 = 1_048_576.0;

/// Why the ledger cannot be used.
#[derive(Debug)]
pub enum LedgerError {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// Its thread cannot be made.
    Thread(std::io::Error),
    /// A row holds what nobody wrote.
    Damaged,
    /// A damaged file cannot be put aside.
    Aside(std::io::Error),
    /// There is less to settle with this peer: so much.
    TooMuch(u64),
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => write!(f, "peers.sqlite: {error}"),
            Self::Thread(error) => write!(f, "the ledger's thread: {error}"),
            Self::Damaged => f.write_str("peers.sqlite is damaged"),
            Self::Aside(error) => {
                write!(f, "peers.sqlite is damaged, and cannot be put aside: {error}")
            }
            Self::TooMuch(open) => {
                write!(f, "only {open} of what was acknowledged by vouchers is to be settled")
            }
        }
    }
}

impl std::error::Error for LedgerError {}

impl LedgerError {
    /// Whether the file may be sound, and cannot be read or written.
    fn is_of_the_disk(&self) -> bool {
        use rusqlite::ErrorCode::{
            CannotOpen, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure,
        };
        self.code().is_some_and(|code| {
            matches!(code, CannotOpen | DiskFull | PermissionDenied | ReadOnly | SystemIoFailure)
        })
    }

    fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        matches!(self, Self::Damaged)
            || self.code().is_some_and(|code| matches!(code, DatabaseCorrupt | NotADatabase))
    }

    fn code(&self) -> Option<rusqlite::ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Thread(_) | Self::Damaged | Self::Aside(_) | Self::TooMuch(_) => None,
        }
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// What is kept of one peer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who it is.
    pub peer: PeerId,
    /// Bytes of blocks sent to it.
    pub sent: u64,
    /// Bytes of verified blocks received from it.
    pub received: u64,
    /// Debts and vouchers.
    pub account: Account,
    /// What was settled elsewhere, in units: positive where it was owed to us.
    pub settled: i64,
}

impl Entry {
    /// What vouchers acknowledge and nobody settled yet: positive if the peer owes it.
    pub fn to_settle(&self) -> i128 {
        i128::from(self.account.paid_to_us())
            - i128::from(self.account.paid_by_us())
            - i128::from(self.settled)
    }

    /// Units owed beyond our vouchers.
    pub fn owed_by_us(&self) -> f64 {
        self.account.owed_by_us() as f64 / PARTS
    }

    /// Units that the peer owes beyond its vouchers.
    pub fn owed_to_us(&self) -> f64 {
        self.account.owed_to_us() as f64 / PARTS
    }
}

/// What the engine starts from.
#[derive(Debug, Default)]
pub struct Past {
    /// What peers and we owe each other.
    pub accounts: Vec<(PeerId, Account)>,
    /// Who is banned, with the time left counted from the engine's beginning.
    pub bans: Vec<(PeerId, Moment)>,
    /// Who offended how often.
    pub offences: Vec<(PeerId, u32)>,
}

#[derive(Clone, Debug, Default)]
struct Conduct {
    offences: u32,
    /// Seconds since 1970; 0 for no ban.
    banned_until: u64,
    reason: String,
}

/// What changed since the last write.
#[derive(Default)]
struct Changes {
    counts: HashMap<PeerId, (u64, u64)>,
    accounts: HashMap<PeerId, Account>,
    conduct: HashMap<PeerId, Conduct>,
    stop: bool,
}

impl Changes {
    fn are_urgent(&self) -> bool {
        self.stop || !self.accounts.is_empty() || !self.conduct.is_empty()
    }

    /// Of more peers than that, nothing is kept while it cannot be written. What is lost of debts
    /// is found again in the vouchers.
    fn bound(&mut self) {
        if self.counts.len() > UNWRITTEN_PEERS_MAX {
            self.counts.clear();
        }
        if self.accounts.len() > UNWRITTEN_PEERS_MAX {
            self.accounts.clear();
        }
        if self.conduct.len() > UNWRITTEN_PEERS_MAX {
            self.conduct.clear();
        }
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.accounts.is_empty() && self.conduct.is_empty()
    }
}

struct Shared {
    identity: Identity,
    changes: Mutex<Changes>,
    changed: Condvar,
    database: Mutex<Connection>,
}

/// The ledger of a node.
pub struct Ledger {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Ledger {
    /// Opens it in a data directory, and gives what it remembers.
    ///
    /// # Errors
    /// If it cannot be read, or its thread cannot be made.
    pub fn open(data_dir: &Path, identity: Identity) -> Result<(Self, Past), LedgerError> {
        let path = data_dir.join("peers.sqlite");
        let (database, past) = match database::open(&path) {
            Ok(opened) => opened,
            // What is stored does not depend on it, and has to be had: also to be deleted from a
            // full disk.
            Err(error) if error.is_of_the_disk() => {
                log::error!("{error}; debts and bans are not kept until the next start");
                database::open(Path::new(":memory:"))?
            }
            Err(error) if error.is_damage() => {
                let aside = database::set_aside(&path).map_err(LedgerError::Aside)?;
                log::error!("{error}; it is kept as {aside}, and debts and bans begin anew");
                database::open(&path)?
            }
            Err(error) => return Err(error),
        };
        let shared = Arc::new(Shared {
            identity,
            changes: Mutex::default(),
            changed: Condvar::new(),
            database: Mutex::new(database),
        });
        let writer = shared.clone();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run())
            .map_err(LedgerError::Thread)?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, past))
    }

    /// Writes what is left, and ends the thread.
    pub fn shutdown(&self) {
        self.shared.changes.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    // --- Notes; none of them waits for the disk ---

    /// Blocks went to a peer, or came from it.
    pub fn count(&self, peer: PeerId, sent: u64, received: u64) {
        self.note(|changes| {
            let counts = changes.counts.entry(peer).or_default();
            counts.0 += sent;
            counts.1 += received;
        });
    }

    /// An account has changed.
    pub fn keep(&self, peer: PeerId, account: Account) {
        self.note(|changes| _ = changes.accounts.insert(peer, account));
    }

    /// A peer has offended, so many times by now.
    pub fn score(&self, peer: PeerId, offences: u32) {
        self.note(|changes| changes.conduct.entry(peer).or_default().offences = offences);
    }

    /// A peer is banned for so long.
    pub fn ban(&self, peer: PeerId, time: Duration, reason: String) {
        let banned_until = unix_seconds().saturating_add(time.as_secs().max(1));
        let conduct = Conduct { offences: 0, banned_until, reason };
        self.note(|changes| _ = changes.conduct.insert(peer, conduct));
    }

    fn note(&self, change: impl FnOnce(&mut Changes)) {
        let mut changes = self.shared.changes.lock();
        let before = (changes.is_empty(), changes.are_urgent());
        change(&mut changes);
        if before.0 || before.1 != changes.are_urgent() {
            self.shared.changed.notify_one();
        }
    }

    // --- Vouchers and the table ---

    /// Signs a voucher; the same total and sequence give the same voucher again.
    pub fn sign(&self, payee: PeerId, sequence: u64, total: u64) -> Voucher {
        Voucher::sign(&self.shared.identity, payee, sequence, total)
    }

    /// Everything that is kept, by peer.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, LedgerError> {
        // What cannot be written is told by the thread that tries again.
        let _ = self.shared.write_changes();
        database::entries(&self.shared.database.lock())
    }

    /// Notes that so many units were settled elsewhere, by whoever owed them.
    ///
    /// # Errors
    /// [`LedgerError::TooMuch`] if vouchers acknowledge less than that.
    pub fn settle(&self, peer: &PeerId, amount: u64) -> Result<Entry, LedgerError> {
        let found = self.entries()?.into_iter().find(|entry| entry.peer == *peer);
        let mut entry = found.ok_or(LedgerError::TooMuch(0))?;
        let open = entry.to_settle();
        let change = i64::try_from(amount).ok().filter(|change| i128::from(*change) <= open.abs());
        let Some(change) = change else {
            let open = u64::try_from(open.unsigned_abs()).unwrap_or(u64::MAX);
            return Err(LedgerError::TooMuch(open));
        };
        let change = if open < 0 { -change } else { change };
        entry.settled = entry.settled.saturating_add(change);
        self.shared.database.lock().execute(
            "UPDATE ledger SET settled = ?2 WHERE peer = ?1",
            params![&peer.public_key()[..], entry.settled],
        )?;
        Ok(entry)
    }
}

impl Shared {
    fn run(&self) {
        let mut fails = false;
        loop {
            let mut changes = self.changes.lock();
            while changes.is_empty() && !changes.stop {
                self.changed.wait(&mut changes);
            }
            if !changes.are_urgent() {
                self.changed.wait_for(&mut changes, COUNT_INTERVAL);
            }
            let stop = changes.stop;
            drop(changes);
            let written = self.write_changes();
            if let Err(error) = &written {
                // Once, as it is tried again every second.
                if !fails || stop {
                    log::error!("the ledger cannot be written: {error}");
                }
                if !stop {
                    std::thread::sleep(COUNT_INTERVAL);
                }
            } else if fails {
                log::info!("the ledger can be written again");
            }
            fails = written.is_err();
            if stop {
                return;
            }
            std::thread::sleep(WRITE_INTERVAL);
        }
    }

    /// Writes all changes in one transaction; if that fails, they stay noted.
    fn write_changes(&self) -> Result<(), LedgerError> {
        let mut connection = self.database.lock();
        let mut changes = self.changes.lock();
        let (counts, accounts, conduct) = (
            std::mem::take(&mut changes.counts),
            std::mem::take(&mut changes.accounts),
            std::mem::take(&mut changes.conduct),
        );
        drop(changes);
        let written = database::write(&mut connection, &counts, &accounts, &conduct);
        if written.is_err() {
            let mut changes = self.changes.lock();
            for (peer, (sent, received)) in counts {
                let counts = changes.counts.entry(peer).or_default();
                counts.0 += sent;
                counts.1 += received;
            }
            for (peer, account) in accounts {
                changes.accounts.entry(peer).or_insert(account);
            }
            for (peer, what) in conduct {
                changes.conduct.entry(peer).or_insert(what);
            }
            changes.bound();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopen(dir: &Path, ledger: Ledger) -> (Ledger, Past) {
        ledger.shutdown();
        open(dir)
    }

    fn open(dir: &Path) -> (Ledger, Past) {
        Ledger::open(dir, Identity::from_seed([1; 32])).unwrap()
    }

    #[test]
    fn accounts_bans_and_offences_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let [buyer, liar, clumsy] = [2, 3, 4].map(|n| Identity::from_seed([n; 32]));
        let me = Identity::from_seed([1; 32]).peer_id();
        let (ledger, past) = open(dir.path());
        assert!(past.accounts.is_empty());
        let account = Account {
            bought: 5,
            given: Some((2, u64::MAX)),
            sold: u128::MAX,
            received: Some(Voucher::sign(&buyer, me, 7, 40)),
            lost: 3,
        };
        ledger.keep(buyer.peer_id(), account.clone());
        ledger.count(buyer.peer_id(), 10, 20);
        ledger.count(buyer.peer_id(), 1, 2);
        ledger.score(clumsy.peer_id(), 2);
        ledger.ban(liar.peer_id(), Duration::from_secs(3_600), "it lies".into());
        let (ledger, past) = reopen(dir.path(), ledger);
        assert_eq!(past.accounts, [(buyer.peer_id(), account)]);
        assert_eq!(past.offences, [(clumsy.peer_id(), 2)]);
        let [(peer, until)] = past.bans[..] else { panic!("{past:?}") };
        assert!(peer == liar.peer_id() && until.time() > Duration::from_secs(3_590));
        let entry = &ledger.entries().unwrap()[0];
        assert_eq!((entry.sent, entry.received), (11, 22));
    }

    #[test]
    fn what_cannot_be_written_waits_until_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _) = open(dir.path());
        let peer = |n: u32| {
            let mut seed = [5; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            Identity::from_seed(seed).peer_id()
        };
        ledger.count(peer(0), 1, 2);
        assert_eq!(ledger.entries().unwrap().len(), 1);
        let fill = |pages: u32| {
            let database = ledger.shared.database.lock();
            let set = format!("PRAGMA max_page_count = {pages}");
            database.query_row(&set, [], |_| Ok(())).unwrap();
        };
        // As a full disk: it cannot grow.
        fill(1);
        (1..1_000).for_each(|n| ledger.count(peer(n), 1, 2));
        assert!(ledger.shared.write_changes().is_err());
        assert_eq!(ledger.entries().unwrap().len(), 1, "what was written can be read");
        fill(100_000);
        assert_eq!(ledger.entries().unwrap().len(), 1_000);
        let sums = ledger.entries().unwrap().iter().map(|entry| entry.received).sum::<u64>();
        assert_eq!(sums, 2_000);
    }

    #[test]
    fn what_waits_to_be_written_is_bounded() {
        let peer = |n: usize| {
            let mut key = [5; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            PeerId::from_public_key(key)
        };
        let mut changes = Changes::default();
        (0..UNWRITTEN_PEERS_MAX).for_each(|n| _ = changes.counts.insert(peer(n), (1, 1)));
        changes.bound();
        assert_eq!(changes.counts.len(), UNWRITTEN_PEERS_MAX);
        changes.counts.insert(peer(UNWRITTEN_PEERS_MAX), (1, 1));
        changes.bound();
        assert!(changes.is_empty());
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_one_that_cannot_be_opened_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.sqlite");
        std::fs::write(&path, [0xa5; 8_192]).unwrap();
        let (ledger, past) = open(dir.path());
        assert!(past.accounts.is_empty());
        ledger.count(Identity::from_seed([2; 32]).peer_id(), 1, 2);
        let (ledger, _) = reopen(dir.path(), ledger);
        assert_eq!(ledger.entries().unwrap().len(), 1, "the new one is kept");
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside = names.into_iter().find(|name| name.to_string_lossy().contains(".damaged-"));
        assert_eq!(std::fs::read(aside.unwrap()).unwrap(), [0xa5; 8_192]);
        ledger.shutdown();

        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("peers.sqlite")).unwrap();
        let (ledger, _) = open(dir.path());
        ledger.count(Identity::from_seed([2; 32]).peer_id(), 1, 2);
        assert_eq!(ledger.entries().unwrap().len(), 1);
        ledger.shutdown();
        assert!(dir.path().join("peers.sqlite").is_dir());
    }

    #[test]
    fn a_ban_that_is_over_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let peer = Identity::from_seed([2; 32]).peer_id();
        let (ledger, _) = open(dir.path());
        ledger.ban(peer, Duration::ZERO, "it lies".into());
        std::thread::sleep(Duration::from_millis(1_100));
        let (_, past) = reopen(dir.path(), ledger);
        assert!(past.bans.is_empty() && past.offences.is_empty(), "{past:?}");
    }

    #[test]
    fn no_more_is_settled_than_vouchers_acknowledge() {
        let dir = tempfile::tempdir().unwrap();
        let [buyer, seller] = [2, 3].map(|n| Identity::from_seed([n; 32]));
        let me = Identity::from_seed([1; 32]).peer_id();
        let (ledger, _) = open(dir.path());
        let received = Some(Voucher::sign(&buyer, me, 1, 40));
        ledger.keep(buyer.peer_id(), Account { received, ..Account::default() });
        let given = Some((1, 10));
        ledger.keep(seller.peer_id(), Account { given, ..Account::default() });
        let settle = |peer: PeerId, amount| {
            ledger.settle(&peer, amount).map(|entry| entry.to_settle()).map_err(|e| e.to_string())
        };
        assert_eq!(settle(buyer.peer_id(), 30), Ok(10));
        assert!(settle(buyer.peer_id(), 11).unwrap_err().contains("only 10"));
        assert_eq!(settle(buyer.peer_id(), 10), Ok(0));
        assert_eq!(settle(seller.peer_id(), 4), Ok(-6));
        assert!(settle(me, 1).is_err());
    }
}
