//! What is remembered of peers over restarts: bytes, debts and vouchers, offences and bans.
//!
//! The reactor only notes changes in memory; a thread writes them. What a crash loses of that is
//! a few milliseconds, and what it loses of debts is found again in the vouchers that both sides
//! show when they meet (see [`crate::engine::Account`]).

use crate::{
    clock::unix_seconds,
    engine::{Account, Moment},
};
use barrow_wire::{Identity, PeerId, Voucher};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, Row, params};
use std::{collections::HashMap, fmt, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

/// Peers whose bytes are kept though nobody owes anything; the longest unheard of goes first.
const FREE_PEERS_MAX: i64 = 10_000;
/// Peers whose offences and bans are kept; the longest unheard of goes first.
const CONDUCT_MAX: i64 = 1_000;
/// Offences are forgotten after this time.
const OFFENCE_SECONDS: u64 = 24 * 3_600;
/// No ban is longer, whatever the clock said when it was made.
const BAN_SECONDS_MAX: u64 = 24 * 3_600;
/// Time between two writes while debts change, and while only bytes do.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Parts of a unit in which debts are counted (see [`Account`]).
const PARTS: f64 = 1_048_576.0;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS ledger(
  peer BLOB PRIMARY KEY, sent INTEGER NOT NULL, received INTEGER NOT NULL,
  bought BLOB NOT NULL, sold BLOB NOT NULL, lost BLOB NOT NULL,
  given_sequence INTEGER NOT NULL, given_total INTEGER NOT NULL, voucher BLOB,
  settled INTEGER NOT NULL, seen INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conduct(
  peer BLOB PRIMARY KEY, offences INTEGER NOT NULL, banned_until INTEGER NOT NULL,
  reason TEXT NOT NULL, seen INTEGER NOT NULL
) WITHOUT ROWID;
";

/// Why the ledger cannot be used.
#[derive(Debug)]
pub enum LedgerError {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// Its thread cannot be made.
    Thread(std::io::Error),
    /// A row holds what nobody wrote.
    Damaged,
    /// There is less to settle with this peer: so much.
    TooMuch(u64),
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => write!(f, "peers.sqlite: {error}"),
            Self::Thread(error) => write!(f, "the ledger's thread: {error}"),
            Self::Damaged => f.write_str("peers.sqlite is damaged"),
            Self::TooMuch(open) => {
                write!(f, "only {open} of what was acknowledged by vouchers is to be settled")
            }
        }
    }
}

impl std::error::Error for LedgerError {}

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
        let database = match open_database(&data_dir.join("peers.sqlite")) {
            Ok(database) => database,
            // A full disk must not keep anyone from deleting something.
            Err(error) if is_full(&error) => {
                log::warn!(
                    "peers.sqlite: {error}; debts and bans are not kept until the next start"
                );
                open_database(Path::new(":memory:"))?
            }
            Err(error) => return Err(error.into()),
        };
        let past = past(&database)?;
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
    /// If it cannot be read or written.
    pub fn entries(&self) -> Result<Vec<Entry>, LedgerError> {
        self.shared.write_changes()?;
        entries(&self.shared.database.lock())
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
            if let Err(error) = self.write_changes() {
                log::error!("the ledger cannot be written: {error}");
                if !stop {
                    std::thread::sleep(COUNT_INTERVAL);
                }
            }
            if stop {
                return;
            }
            std::thread::sleep(WRITE_INTERVAL);
        }
    }

    /// Writes all changes in one transaction; if that fails, they stay noted.
    fn write_changes(&self) -> Result<(), LedgerError> {
        let mut database = self.database.lock();
        let mut changes = self.changes.lock();
        let (counts, accounts, conduct) = (
            std::mem::take(&mut changes.counts),
            std::mem::take(&mut changes.accounts),
            std::mem::take(&mut changes.conduct),
        );
        drop(changes);
        let written = write(&mut database, &counts, &accounts, &conduct);
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
        }
        written
    }
}

fn write(
    database: &mut Connection,
    counts: &HashMap<PeerId, (u64, u64)>,
    accounts: &HashMap<PeerId, Account>,
    conduct: &HashMap<PeerId, Conduct>,
) -> Result<(), LedgerError> {
    let now = signed(unix_seconds());
    let transaction = database.transaction()?;
    for (peer, (sent, received)) in counts {
        touch(&transaction, peer, now)?;
        transaction
            .prepare_cached(
                "UPDATE ledger SET sent = sent + ?2, received = received + ?3 WHERE peer = ?1",
            )?
            .execute(params![&peer.public_key()[..], signed(*sent), signed(*received)])?;
    }
    for (peer, account) in accounts {
        touch(&transaction, peer, now)?;
        let (sequence, total) = account.given.unwrap_or((0, 0));
        let voucher = account.received.as_ref().map(|voucher| voucher.to_bytes().to_vec());
        transaction
            .prepare_cached(
                "UPDATE ledger SET bought = ?2, sold = ?3, lost = ?4, given_sequence = ?5, \
                 given_total = ?6, voucher = ?7 WHERE peer = ?1",
            )?
            .execute(params![
                &peer.public_key()[..],
                &account.bought.to_be_bytes()[..],
                &account.sold.to_be_bytes()[..],
                &account.lost.to_be_bytes()[..],
                signed(sequence),
                signed(total),
                voucher,
            ])?;
    }
    for (peer, conduct) in conduct {
        transaction.execute(
            "INSERT OR REPLACE INTO conduct VALUES(?1, ?2, ?3, ?4, ?5)",
            params![
                &peer.public_key()[..],
                conduct.offences,
                signed(conduct.banned_until),
                conduct.reason,
                now
            ],
        )?;
    }
    if !conduct.is_empty() {
        transaction.execute(
            "DELETE FROM conduct WHERE peer NOT IN \
             (SELECT peer FROM conduct ORDER BY seen DESC LIMIT ?1)",
            [CONDUCT_MAX],
        )?;
    }
    Ok(transaction.commit()?)
}

/// Makes sure of a peer's row.
fn touch(database: &Connection, peer: &PeerId, now: i64) -> Result<(), LedgerError> {
    let none = &0_u128.to_be_bytes()[..];
    let key = &peer.public_key()[..];
    let known = database
        .prepare_cached("UPDATE ledger SET seen = ?2 WHERE peer = ?1")?
        .execute(params![key, now])?;
    if known > 0 {
        return Ok(());
    }
    database.execute(
        "INSERT INTO ledger VALUES(?1, 0, 0, ?2, ?2, ?2, 0, 0, NULL, 0, ?3)",
        params![key, none, now],
    )?;
    database.execute(
        "DELETE FROM ledger WHERE bought = ?1 AND sold = ?1 AND peer NOT IN \
         (SELECT peer FROM ledger ORDER BY seen DESC LIMIT ?2)",
        params![none, FREE_PEERS_MAX],
    )?;
    Ok(())
}

fn past(database: &Connection) -> Result<Past, LedgerError> {
    let entries = entries(database)?.into_iter();
    let accounts = entries
        .filter(|entry| entry.account != Account::default())
        .map(|entry| (entry.peer, entry.account))
        .collect();
    let now = unix_seconds();
    let mut past = Past { accounts, ..Past::default() };
    let mut statement =
        database.prepare("SELECT peer, offences, banned_until, seen FROM conduct")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let peer = peer(row.get(0)?)?;
        let (until, seen) = (unsigned(row.get(2)?), unsigned(row.get(3)?));
        if until > now {
            let left = Duration::from_secs((until - now).min(BAN_SECONDS_MAX));
            past.bans.push((peer, Moment(left)));
        } else if until == 0 && now.saturating_sub(seen) < OFFENCE_SECONDS {
            past.offences.push((peer, row.get(1)?));
        }
    }
    Ok(past)
}

fn entries(database: &Connection) -> Result<Vec<Entry>, LedgerError> {
    let mut statement = database.prepare_cached(
        "SELECT peer, sent, received, bought, sold, lost, given_sequence, given_total, voucher, \
         settled FROM ledger ORDER BY peer",
    )?;
    let mut rows = statement.query([])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(entry(row)?);
    }
    Ok(entries)
}

fn entry(row: &Row<'_>) -> Result<Entry, LedgerError> {
    let amount = |at: usize| -> Result<u128, LedgerError> {
        let bytes: Vec<u8> = row.get(at)?;
        Ok(u128::from_be_bytes(bytes.try_into().map_err(|_| LedgerError::Damaged)?))
    };
    let given = match (unsigned(row.get(6)?), unsigned(row.get(7)?)) {
        (0, _) => None,
        given => Some(given),
    };
    let received = match row.get::<_, Option<Vec<u8>>>(8)? {
        None => None,
        Some(bytes) => {
            let bytes = bytes.as_slice().try_into().map_err(|_| LedgerError::Damaged)?;
            Some(Voucher::from_bytes(bytes))
        }
    };
    let account =
        Account { bought: amount(3)?, given, sold: amount(4)?, received, lost: amount(5)? };
    Ok(Entry {
        peer: peer(row.get(0)?)?,
        sent: unsigned(row.get(1)?),
        received: unsigned(row.get(2)?),
        account,
        settled: row.get(9)?,
    })
}

fn peer(key: Vec<u8>) -> Result<PeerId, LedgerError> {
    Ok(PeerId::from_public_key(key.try_into().map_err(|_| LedgerError::Damaged)?))
}

/// SQLite has no u64; the bits are kept.
const fn signed(n: u64) -> i64 {
    n.cast_signed()
}

const fn unsigned(n: i64) -> u64 {
    n.cast_unsigned()
}

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    // What a power cut takes is found again in the peers' vouchers.
    database.pragma_update(None, "synchronous", "NORMAL")?;
    database.pragma_update(None, "cache_size", -256)?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

fn is_full(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
    matches!(error.sqlite_error_code(), Some(DiskFull | SystemIoFailure))
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
        let [(peer, Moment(left))] = past.bans[..] else { panic!("{past:?}") };
        assert!(peer == liar.peer_id() && left > Duration::from_secs(3_590));
        let entry = &ledger.entries().unwrap()[0];
        assert_eq!((entry.sent, entry.received), (11, 22));
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
