//! The index in SQLite: block → place, references, datasets. The packs are the truth; this can be
//! thrown away, and is rebuilt from them.

use super::{Dataset, StoreError, record::HEADER_BYTES};
use barrow_wire::Multihash;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use std::{collections::BTreeMap, path::Path};

/// The version of the tables; an index of another one is thrown away and rebuilt.
const SCHEMA_VERSION: i64 = 4;
/// The last version before it, in whose tables two columns are missing.
const SCHEMA_VERSION_BEFORE: i64 = 3;
/// What makes an index of [`SCHEMA_VERSION_BEFORE`] one of today.
const UPGRADE: &str = "
ALTER TABLE blocks ADD COLUMN quarantined INTEGER NOT NULL DEFAULT 0;
ALTER TABLE packs ADD COLUMN seed INTEGER NOT NULL DEFAULT 0;
";

/// A reference names its block by its first 9 bytes: two blocks that share them keep each other,
/// which costs space and never a block.
const SCHEMA: &str = "
CREATE TABLE blocks(
  hash BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, len INTEGER NOT NULL,
  used INTEGER NOT NULL, quarantined INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE refs(
  prefix BLOB NOT NULL, dataset INTEGER NOT NULL, PRIMARY KEY(prefix, dataset)
) WITHOUT ROWID;
CREATE TABLE datasets(
  id INTEGER PRIMARY KEY, root BLOB NOT NULL UNIQUE, info TEXT NOT NULL, expires INTEGER
);
CREATE INDEX endings ON datasets(expires) WHERE expires IS NOT NULL;
CREATE TABLE packs(
  number INTEGER PRIMARY KEY, indexed INTEGER NOT NULL, synced INTEGER NOT NULL,
  live INTEGER NOT NULL, seed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE counts(blocks INTEGER NOT NULL, bytes INTEGER NOT NULL, next_dataset INTEGER NOT NULL);
INSERT INTO counts VALUES(0, 0, 1);
";
const PREFIX_BYTES: usize = 9;
pub(super) type Prefix = [u8; PREFIX_BYTES];

/// The store's figures, kept in memory and written with each commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) blocks: u64,
    /// Bytes of the blocks' records.
    pub(super) bytes: u64,
    pub(super) next_dataset: u64,
    pub(super) packs: BTreeMap<u32, PackTally>,
}

/// The figures of one pack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PackTally {
    /// Up to here its records are in the index.
    pub(super) indexed: u64,
    /// Up to here it outlives a power cut; what the index says of records behind is checked after
    /// a crash.
    pub(super) synced: u64,
    /// Bytes of the records of blocks that are here.
    pub(super) live: u64,
    /// The seed of the pack that this was said of; 0 if an older index did not say it.
    pub(super) seed: u64,
    is_changed: bool,
}

impl Tally {
    pub(super) fn pack(&mut self, number: u32) -> &mut PackTally {
        let pack = self.packs.entry(number).or_default();
        pack.is_changed = true;
        pack
    }

    /// All of it is to be written with the next commit, as the last one failed.
    pub(super) fn keep_all(&mut self) {
        self.packs.values_mut().for_each(|pack| pack.is_changed = true);
    }

    pub(super) fn add(&mut self, place: Place) {
        self.blocks += 1;
        self.bytes += place.record_bytes();
        self.pack(place.pack).live += place.record_bytes();
    }

    pub(super) fn remove(&mut self, place: Place) {
        // Figures of an index that is wrong must not end the writer: they are compared with the
        // packs before anything is given up by them.
        self.blocks = self.blocks.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(place.record_bytes());
        let pack = self.pack(place.pack);
        pack.live = pack.live.saturating_sub(place.record_bytes());
    }
}

/// Where a block's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Place {
    pub(super) fn record_bytes(self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.len)
    }
}

/// What is known of a block that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) place: Place,
    /// When it was last used, in seconds of Unix time.
    pub(super) used: u32,
    /// Its bytes were found to differ from their checksum. It is not served, and its bytes stay
    /// where they are until a verified replacement is synced.
    pub(super) is_quarantined: bool,
}

/// Pages of the write-ahead log that are worth a checkpoint, at most.
const LOG_PAGES_MAX: u64 = 1_000;
const PAGE_BYTES: u64 = 4_096;

/// Opens the index for writing, with a write-ahead log of about `log_bytes` at most; `None` if
/// what is there cannot be used.
pub(super) fn open(
    path: &Path,
    cache_kib: usize,
    log_bytes: u64,
) -> Result<Option<Connection>, rusqlite::Error> {
    let index = Connection::open(path)?;
    configure(&index, cache_kib)?;
    index.pragma_update(None, "journal_mode", "WAL")?;
    let log_pages = (log_bytes / PAGE_BYTES).clamp(1, LOG_PAGES_MAX);
    index.pragma_update(None, "wal_autocheckpoint", signed(log_pages))?;
    index.pragma_update(None, "journal_size_limit", signed(log_pages * PAGE_BYTES))?;
    // A commit lost in a power cut is found again in the packs.
    index.pragma_update(None, "synchronous", "NORMAL")?;
    prepare(index)
}

/// Makes the tables of a new index; `None` if what is there is of another version.
pub fn prepare(index: Connection) -> Result<Option<Connection>, rusqlite::Error> {
    let version: i64 = index.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 =
        index.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && tables == 0 {
        index.execute_batch(&format!(
            "BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
        ))?;
    } else if version == SCHEMA_VERSION_BEFORE {
        index.execute_batch(&format!(
            "BEGIN; {UPGRADE} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
        ))?;
    } else if version != SCHEMA_VERSION {
        return Ok(None);
    }
    Ok(Some(index))
}

/// Opens it for reading, beside the writer.
pub(super) fn open_reader(path: &Path, cache_kib: usize) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let index = Connection::open_with_flags(path, flags)?;
    configure(&index, cache_kib)?;
    Ok(index)
}

fn configure(index: &Connection, cache_kib: usize) -> Result<(), rusqlite::Error> {
    let kib = i64::try_from(cache_kib).unwrap_or(2_048);
    index.pragma_update(None, "cache_size", -kib)?;
    index.set_prepared_statement_cache_capacity(32);
    index.busy_timeout(std::time::Duration::from_secs(10))
}

/// Begins a transaction, to read at first: nobody else writes.
pub(super) fn begin(index: &Connection) -> Result<(), rusqlite::Error> {
    index.prepare_cached("BEGIN")?.execute([]).map(drop)
}

/// Ends it: readers see what it did.
pub(super) fn commit(index: &Connection) -> Result<(), rusqlite::Error> {
    index.prepare_cached("COMMIT")?.execute([]).map(drop)
}

/// Undoes an open transaction. SQLite has done so itself where the disk was full.
pub(super) fn roll_back(index: &Connection) {
    if !index.is_autocommit()
        && let Err(error) = index.prepare_cached("ROLLBACK").and_then(|mut undo| undo.execute([]))
    {
        log::error!("the index cannot be rolled back: {error}");
    }
}

/// What the index knows of a block.
pub(super) fn row(index: &Connection, hash: &Multihash) -> Result<Option<Row>, StoreError> {
    let mut statement = index.prepare_cached(
        "SELECT pack, offset, len, used, quarantined FROM blocks WHERE hash = ?1",
    )?;
    let row = statement.query_row([hash.to_bytes()], |row| {
        let place = Place { pack: row.get(0)?, offset: unsigned(row.get(1)?), len: row.get(2)? };
        Ok(Row { place, used: row.get(3)?, is_quarantined: row.get(4)? })
    });
    Ok(row.optional()?)
}

/// Remembers where a block is, in the place of what was known.
pub(super) fn put_block(index: &Connection, hash: &Multihash, row: Row) -> Result<(), StoreError> {
    let Row { place, used, is_quarantined } = row;
    index.prepare_cached("INSERT OR REPLACE INTO blocks VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
        params![hash.to_bytes(), place.pack, signed(place.offset), place.len, used, is_quarantined],
    )?;
    Ok(())
}

/// Forgets a block.
pub(super) fn delete_block(index: &Connection, hash: &Multihash) -> Result<(), StoreError> {
    index.prepare_cached("DELETE FROM blocks WHERE hash = ?1")?.execute([hash.to_bytes()])?;
    Ok(())
}

/// Forgets the blocks of a pack from an offset on; gives how many, and bytes of their records.
pub(super) fn delete_blocks_from(
    index: &Connection,
    pack: u32,
    offset: u64,
) -> Result<(u64, u64), StoreError> {
    let (blocks, bytes): (i64, i64) = index
        .prepare_cached(
            "SELECT count(*), ifnull(sum(len), 0) FROM blocks WHERE pack = ?1 AND offset >= ?2",
        )?
        .query_row(params![pack, signed(offset)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    index
        .prepare_cached("DELETE FROM blocks WHERE pack = ?1 AND offset >= ?2")?
        .execute(params![pack, signed(offset)])?;
    let blocks = unsigned(blocks);
    Ok((blocks, unsigned(bytes) + blocks * HEADER_BYTES as u64))
}

/// Some blocks that the index has in a pack, in the order of their hashes.
pub(super) fn blocks_of(
    index: &Connection,
    pack: u32,
    after: Option<&Multihash>,
    limit: u32,
) -> Result<Vec<Multihash>, StoreError> {
    let after = after.map_or_else(Vec::new, |hash| hash.to_bytes().to_vec());
    let mut statement = index.prepare_cached(
        "SELECT hash FROM blocks WHERE pack = ?1 AND hash > ?2 ORDER BY hash LIMIT ?3",
    )?;
    collect_hashes(statement.query(params![pack, after, limit])?)
}

/// Blocks, and bytes of their records.
pub(super) fn counts(index: &Connection) -> Result<(u64, u64), StoreError> {
    let mut statement = index.prepare_cached("SELECT blocks, bytes FROM counts")?;
    Ok(statement.query_row([], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))?)
}

/// Blocks behind `after` in the order of their hashes.
pub(super) fn blocks_after(
    index: &Connection,
    after: Option<&Multihash>,
    limit: u32,
) -> Result<Vec<Multihash>, StoreError> {
    let after = after.map_or_else(Vec::new, |hash| hash.to_bytes().to_vec());
    let mut statement =
        index.prepare_cached("SELECT hash FROM blocks WHERE hash > ?1 ORDER BY hash LIMIT ?2")?;
    collect_hashes(statement.query(params![after, limit])?)
}

/// What references name a block by.
pub(super) fn prefix(hash: &Multihash) -> Prefix {
    let bytes = hash.to_bytes();
    std::array::from_fn(|at| bytes[at])
}

/// Remembers that a dataset refers to a block.
pub(super) fn put_ref(index: &Connection, prefix: &Prefix, dataset: u64) -> Result<(), StoreError> {
    index
        .prepare_cached("INSERT OR IGNORE INTO refs VALUES(?1, ?2)")?
        .execute(params![prefix, signed(dataset)])?;
    Ok(())
}

/// Whether a dataset refers to a block.
pub(super) fn has_ref(
    index: &Connection,
    prefix: &Prefix,
    dataset: u64,
) -> Result<bool, StoreError> {
    let mut statement =
        index.prepare_cached("SELECT 1 FROM refs WHERE prefix = ?1 AND dataset = ?2")?;
    Ok(statement.exists(params![prefix, signed(dataset)])?)
}

/// The datasets that refer to a block, finished or not.
pub(super) fn refs_of(index: &Connection, hash: &Multihash) -> Result<Vec<u64>, StoreError> {
    let mut statement = index.prepare_cached("SELECT dataset FROM refs WHERE prefix = ?1")?;
    let rows = statement.query_map([prefix(hash)], |row| Ok(unsigned(row.get(0)?)))?;
    rows.map(|row| Ok(row?)).collect()
}

/// Forgets all that a dataset refers to.
pub(super) fn delete_refs(index: &Connection, dataset: u64) -> Result<(), StoreError> {
    index.prepare_cached("DELETE FROM refs WHERE dataset = ?1")?.execute([signed(dataset)])?;
    Ok(())
}

/// Forgets references of datasets that were never finished.
pub(super) fn delete_dangling_refs(index: &Connection) -> Result<(), StoreError> {
    index
        .prepare_cached("DELETE FROM refs WHERE dataset NOT IN (SELECT id FROM datasets)")?
        .execute([])?;
    Ok(())
}

/// Some blocks that no dataset refers to with their last use, those first that were not used for
/// the longest time.
pub(super) fn unreferenced(
    index: &Connection,
    limit: u32,
) -> Result<Vec<(Multihash, u32)>, StoreError> {
    let mut statement = index.prepare_cached(
        "SELECT hash, used FROM blocks
         WHERE NOT EXISTS (SELECT 1 FROM refs WHERE prefix = substr(hash, 1, 9))
         ORDER BY used, pack, offset LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((hash_of(row)?, row.get(1)?));
    }
    Ok(found)
}

/// Quarantined blocks that no dataset refers to, and where they are.
pub(super) fn unreferenced_quarantined(
    index: &Connection,
) -> Result<Vec<(Multihash, Place)>, StoreError> {
    let mut statement = index.prepare_cached(
        "SELECT hash, pack, offset, len FROM blocks WHERE quarantined
           AND NOT EXISTS (SELECT 1 FROM refs WHERE prefix = substr(hash, 1, 9))",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let place = Place { pack: row.get(1)?, offset: unsigned(row.get(2)?), len: row.get(3)? };
        found.push((hash_of(row)?, place));
    }
    Ok(found)
}

/// Blocks that nobody keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dead {
    /// No dataset refers to them.
    Unreferenced,
    /// Only this one does.
    OnlyOf(u64),
}

/// Tells of dead blocks behind `after`, in an order that does not change, at most `limit`.
pub(super) fn each_dead(
    index: &Connection,
    dead: Dead,
    after: Option<&Multihash>,
    limit: Option<u32>,
    mut each: impl FnMut(Multihash, Place),
) -> Result<(), StoreError> {
    let (dataset, text) = match dead {
        // No dataset has this number.
        Dead::Unreferenced => (
            0,
            "SELECT hash, pack, offset, len FROM blocks
             WHERE hash > ?2 AND NOT EXISTS (SELECT 1 FROM refs AS other
               WHERE other.prefix = substr(hash, 1, 9) AND other.dataset <> ?1)
             ORDER BY hash LIMIT ?3",
        ),
        // The upper bound is the last hash of the prefix: without one each reference would be
        // looked for among all blocks behind it.
        Dead::OnlyOf(dataset) => (
            dataset,
            "SELECT hash, pack, offset, len FROM refs AS own CROSS JOIN blocks
               ON hash >= own.prefix AND hash <= CAST(own.prefix ||
                 x'ffffffffffffffffffffffffffffffffffffffffffffffff' AS BLOB)
             WHERE own.dataset = ?1 AND own.prefix >= substr(?2, 1, 9) AND +hash > ?2
               AND NOT EXISTS (SELECT 1 FROM refs AS other
                               WHERE other.prefix = own.prefix AND other.dataset <> ?1)
             ORDER BY own.prefix, hash LIMIT ?3",
        ),
    };
    // No hash begins with a zero; of an empty text SQLite's substr is NULL, behind which nothing is.
    let after = after.map_or_else(|| vec![0], |hash| hash.to_bytes().to_vec());
    let mut statement = index.prepare_cached(text)?;
    let limit = limit.map_or(-1, i64::from);
    let mut rows = statement.query(params![signed(dataset), after, limit])?;
    while let Some(row) = rows.next()? {
        let place = Place { pack: row.get(1)?, offset: unsigned(row.get(2)?), len: row.get(3)? };
        each(hash_of(row)?, place);
    }
    Ok(())
}

/// Whether a block is one of these.
pub(super) fn is_dead(
    index: &Connection,
    dead: Dead,
    hash: &Multihash,
) -> Result<bool, StoreError> {
    let mut statement =
        index.prepare_cached("SELECT min(dataset), max(dataset) FROM refs WHERE prefix = ?1")?;
    let (least, most): (Option<i64>, Option<i64>) =
        statement.query_row([prefix(hash)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(match dead {
        Dead::Unreferenced => least.is_none(),
        Dead::OnlyOf(dataset) => [least, most] == [Some(signed(dataset)); 2],
    })
}

fn collect_hashes(mut rows: rusqlite::Rows<'_>) -> Result<Vec<Multihash>, StoreError> {
    let mut hashes = Vec::new();
    while let Some(row) = rows.next()? {
        hashes.push(hash_of(row)?);
    }
    Ok(hashes)
}

/// The hash in a row's first column.
fn hash_of(row: &rusqlite::Row<'_>) -> Result<Multihash, StoreError> {
    let bytes: [u8; Multihash::BYTES] = row.get(0)?;
    Multihash::from_bytes(&bytes).map_err(|_| StoreError::BadIndex)
}

/// Remembers a dataset, or its changed description.
pub(super) fn put_dataset(
    index: &Connection,
    id: u64,
    dataset: &Dataset,
    info: &str,
) -> Result<(), StoreError> {
    let root = dataset.root_hash().ok_or(StoreError::NotStorable)?;
    index
        .prepare_cached("INSERT OR REPLACE INTO datasets VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![signed(id), root.to_bytes(), info, dataset.info.expires.map(moment)])?;
    Ok(())
}

/// Forgets a dataset; its references stay until [`delete_refs`].
pub(super) fn delete_dataset(index: &Connection, id: u64) -> Result<(), StoreError> {
    index.prepare_cached("DELETE FROM datasets WHERE id = ?1")?.execute([signed(id)])?;
    Ok(())
}

/// The dataset of this root.
pub(super) fn dataset(
    index: &Connection,
    root: &Multihash,
) -> Result<Option<(u64, Dataset)>, StoreError> {
    let mut statement = index.prepare_cached("SELECT id, info FROM datasets WHERE root = ?1")?;
    let row: Option<(i64, String)> =
        statement.query_row([root.to_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    row.map(|(id, info)| Ok((unsigned(id), parse_dataset(&info)?))).transpose()
}

/// All datasets, the oldest first.
pub(super) fn datasets(index: &Connection) -> Result<Vec<Dataset>, StoreError> {
    let mut statement = index.prepare_cached("SELECT info FROM datasets ORDER BY id")?;
    let infos = statement.query_map([], |row| row.get::<_, String>(0))?;
    infos.map(|info| parse_dataset(&info?)).collect()
}

/// Datasets whose pin has ended, the oldest first.
pub(super) fn expired(index: &Connection, now: u64) -> Result<Vec<Dataset>, StoreError> {
    let mut statement =
        index.prepare_cached("SELECT info FROM datasets WHERE expires <= ?1 ORDER BY id")?;
    let infos = statement.query_map([moment(now)], |row| row.get::<_, String>(0))?;
    infos.map(|info| parse_dataset(&info?)).collect()
}

/// The datasets that refer to a block, the oldest first.
pub(super) fn datasets_of(
    index: &Connection,
    hash: &Multihash,
) -> Result<Vec<Dataset>, StoreError> {
    let mut statement = index.prepare_cached(
        "SELECT info FROM datasets WHERE id IN (SELECT dataset FROM refs WHERE prefix = ?1)
         ORDER BY id",
    )?;
    let infos = statement.query_map([prefix(hash)], |row| row.get::<_, String>(0))?;
    infos.map(|info| parse_dataset(&info?)).collect()
}

fn parse_dataset(info: &str) -> Result<Dataset, StoreError> {
    serde_json::from_str(info).map_err(|_| StoreError::BadIndex)
}

/// The description of a dataset, as it is stored.
pub(super) fn description(index: &Connection, id: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let mut statement = index.prepare_cached("SELECT info FROM datasets WHERE id = ?1")?;
    let info: Option<String> = statement.query_row([signed(id)], |row| row.get(0)).optional()?;
    Ok(info.map(String::into_bytes))
}

/// Whether there is a dataset of this id.
pub(super) fn has_dataset(index: &Connection, id: u64) -> Result<bool, StoreError> {
    let mut statement = index.prepare_cached("SELECT 1 FROM datasets WHERE id = ?1")?;
    Ok(statement.exists([signed(id)])?)
}

/// Reads the figures.
pub(super) fn load_tally(index: &Connection) -> Result<Tally, StoreError> {
    let mut tally = index.prepare_cached("SELECT * FROM counts")?.query_row([], |row| {
        Ok(Tally {
            blocks: unsigned(row.get(0)?),
            bytes: unsigned(row.get(1)?),
            next_dataset: unsigned(row.get(2)?),
            packs: BTreeMap::new(),
        })
    })?;
    let mut statement = index.prepare_cached("SELECT * FROM packs")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let pack = PackTally {
            indexed: unsigned(row.get(1)?),
            synced: unsigned(row.get(2)?),
            live: unsigned(row.get(3)?),
            seed: row.get::<_, i64>(4)?.cast_unsigned(),
            is_changed: false,
        };
        tally.packs.insert(row.get(0)?, pack);
    }
    Ok(tally)
}

/// Writes the figures that changed.
pub(super) fn save_tally(index: &Connection, tally: &mut Tally) -> Result<(), StoreError> {
    index
        .prepare_cached("UPDATE counts SET blocks = ?1, bytes = ?2, next_dataset = ?3")?
        .execute([tally.blocks, tally.bytes, tally.next_dataset].map(signed))?;
    for (number, pack) in &mut tally.packs {
        if std::mem::take(&mut pack.is_changed) {
            index
                .prepare_cached("INSERT OR REPLACE INTO packs VALUES(?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    number,
                    signed(pack.indexed),
                    signed(pack.synced),
                    signed(pack.live),
                    pack.seed.cast_signed()
                ])?;
        }
    }
    Ok(())
}

/// Forgets a pack that is no more.
pub(super) fn delete_pack(index: &Connection, number: u32) -> Result<(), StoreError> {
    index.prepare_cached("DELETE FROM packs WHERE number = ?1")?.execute([number])?;
    Ok(())
}

/// A second of Unix time, which anybody may have chosen.
fn moment(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).expect("offsets, counts and ids stay below 2^63")
}

/// Reads a number back. None is negative but in an index that is damaged, and no such number may
/// end the program: what it leads to is compared with the packs.
fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
