//! The ledger's tables in `peers.sqlite`.

use super::{Conduct, Entry, LedgerError, Past};
use crate::{
    base::clock::unix_seconds,
    engine::{Account, Moment},
};
use barrow_wire::{PeerId, Voucher};
use rusqlite::{Connection, Row, params};
use std::{collections::HashMap, path::Path, time::Duration};

/// Peers whose bytes are kept though nobody owes anything; the longest unheard of goes first.
const FREE_PEERS_MAX: i64 = 10_000;
/// Peers whose offences and bans are kept; the longest unheard of goes first.
const CONDUCT_MAX: i64 = 1_000;
/// Offences are forgotten after this time.
const OFFENCE_SECONDS: u64 = 24 * 3_600;
/// No ban is longer, whatever the clock said when it was made.
const BAN_SECONDS_MAX: u64 = 24 * 3_600;

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

/// Writes all of these in one transaction.
pub(super) fn write(
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
            past.bans.push((peer, Moment::at(left)));
        } else if until == 0 && now.saturating_sub(seen) < OFFENCE_SECONDS {
            past.offences.push((peer, row.get(1)?));
        }
    }
    Ok(past)
}

/// Everything that is kept, by peer.
pub(super) fn entries(database: &Connection) -> Result<Vec<Entry>, LedgerError> {
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

/// Gives a damaged file another name: somebody may still get vouchers out of it.
pub(super) fn set_aside(path: &Path) -> std::io::Result<String> {
    let aside = format!("{}.damaged-{}", path.display(), unix_seconds());
    std::fs::rename(path, &aside)?;
    for part in ["-wal", "-shm"] {
        let _ = std::fs::rename(format!("{}{part}", path.display()), format!("{aside}{part}"));
    }
    Ok(aside)
}

/// Opens the file, and reads what it remembers.
pub(super) fn open(path: &Path) -> Result<(Connection, Past), LedgerError> {
    let database = Connection::open(path)?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    // What a power cut takes is found again in the peers' vouchers.
    database.pragma_update(None, "synchronous", "NORMAL")?;
    database.pragma_update(None, "cache_size", -256)?;
    database.execute_batch(SCHEMA)?;
    let past = past(&database)?;
    Ok((database, past))
}
