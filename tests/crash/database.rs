//! Indexes in memory that are used again and again: opening one costs more than a whole sequence
//! of operations on it.

use barrow::store::local_store::prepare_index;
use rusqlite::{Connection, OpenFlags, params_from_iter, types::Value};
use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// The ways in which the index is changed; the first is part of each commit.
pub const CHANGES: [&str; 9] = [
    "UPDATE ON counts",
    "INSERT ON blocks",
    "DELETE ON blocks",
    "INSERT ON refs",
    "DELETE ON refs",
    "INSERT ON datasets",
    "DELETE ON datasets",
    "INSERT ON packs",
    "DELETE ON packs",
];

/// All rows of one table.
type Rows = Vec<Vec<Value>>;

/// What the index held at one moment.
#[derive(Clone)]
pub struct Commit(Vec<(String, Rows)>);

/// An index with the connections to it that nobody uses now.
pub struct Shelf {
    name: String,
    writers: Mutex<Vec<Connection>>,
    readers: Mutex<Vec<Connection>>,
    empty: Commit,
}

/// A connection that goes back to its shelf.
pub struct Lent {
    connection: Option<Connection>,
    shelf: Arc<Shelf>,
    writes: bool,
}

impl Commit {
    /// What the index holds now.
    pub fn of(index: &Connection) -> Self {
        let mut names = index
            .prepare_cached("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .expect("the schema can be read");
        let names = names.query_map([], |row| row.get(0)).unwrap();
        let rows_of = |name: String| {
            let mut statement = index.prepare_cached(&format!("SELECT * FROM {name}")).unwrap();
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
            (name, rows.unwrap().collect::<Result<Rows, _>>().unwrap())
        };
        Self(names.map(|name| rows_of(name.unwrap())).collect())
    }

    /// Makes the index hold this and nothing else.
    fn write_to(&self, index: &Connection) {
        let run = |text: &str| index.prepare_cached(text).unwrap().execute([]).unwrap();
        run("BEGIN IMMEDIATE");
        for (name, rows) in &self.0 {
            run(&format!("DELETE FROM {name}"));
            let Some(first) = rows.first() else { continue };
            let places = vec!["?"; first.len()].join(",");
            let insert = format!("INSERT INTO {name} VALUES({places})");
            let mut insert = index.prepare_cached(&insert).unwrap();
            for row in rows {
                insert.execute(params_from_iter(row)).unwrap();
            }
        }
        run("COMMIT");
    }
}

impl Shelf {
    /// An index that holds nothing.
    pub fn new() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("file:/index-{}?vfs=memdb", NEXT.fetch_add(1, Ordering::Relaxed));
        let writer = prepare_index(Self::open(&name)).unwrap().unwrap();
        let empty = Commit::of(&writer);
        let (writers, readers) = (Mutex::new(vec![writer]), Mutex::default());
        Arc::new(Self { name, writers, readers, empty })
    }

    fn open(name: &str) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(name, flags).unwrap();
        connection.pragma_update(None, "journal_mode", "MEMORY").unwrap();
        connection.set_prepared_statement_cache_capacity(64);
        // Whoever has to wait here waits for a transaction of its own thread.
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        connection
    }

    /// Takes the index to what it held at `commit`, or makes it empty.
    pub fn restore(&self, index: &Connection, commit: Option<&Commit>) {
        commit.unwrap_or(&self.empty).write_to(index);
    }

    /// Undoes each transaction at one of [`CHANGES`], or at none; `false` if one is open.
    pub fn refuse(self: &Arc<Self>, change: Option<usize>) -> bool {
        let index = Lent::reader(self);
        let text = match change {
            Some(change) => &format!(
                "CREATE TRIGGER full BEFORE {} BEGIN SELECT RAISE(ROLLBACK, 'an injected fault'); END",
                CHANGES[change]
            ),
            None => "DROP TRIGGER IF EXISTS full",
        };
        index.execute_batch(text).is_ok()
    }

    fn kept(&self, writes: bool) -> &Mutex<Vec<Connection>> {
        if writes { &self.writers } else { &self.readers }
    }
}

impl Lent {
    /// The one that writes.
    pub fn writer(shelf: &Arc<Shelf>) -> Self {
        Self::take(shelf, true)
    }

    /// One that reads beside it.
    pub fn reader(shelf: &Arc<Shelf>) -> Self {
        Self::take(shelf, false)
    }

    fn take(shelf: &Arc<Shelf>, writes: bool) -> Self {
        let kept = shelf.kept(writes).lock().unwrap().pop();
        let connection = kept.unwrap_or_else(|| Shelf::open(&shelf.name));
        Self { connection: Some(connection), shelf: shelf.clone(), writes }
    }
}

impl Deref for Lent {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is given back at the end alone")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is given back at the end alone")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // As at a crash: what was not committed is gone.
        if !connection.is_autocommit() {
            connection.prepare_cached("ROLLBACK").unwrap().execute([]).unwrap();
        }
        self.shelf.kept(self.writes).lock().unwrap().push(connection);
    }
}
