//! Entries that were made while the agent ran, on disk: one record each, in a small database of
//! which every change is either there as a whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::rules::EntryRequest;

/// The format of the records that are written.
const VERSION: u64 = 1;
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const VERSION_KEY: &str = "version";

/// An entry as it is kept. Its place in the order is the number it is kept under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its name.
    pub id: String,
    /// When it was made, seconds since 1970.
    pub created_at: u64,
    /// Grows by one with each change, from 0.
    pub revision: u64,
    /// What was asked for.
    pub request: EntryRequest,
    /// Fields of SPIRE that mean nothing here, kept as they came.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub kept: Map<String, Value>,
}

/// Why entries cannot be read or kept.
#[derive(Debug, Error)]
pub enum EntryStoreError {
    /// The database cannot be used.
    #[error("{}: {reason}", path.display())]
    Database {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A later agent wrote it.
    #[error("{} has format {found}, this agent reads up to {VERSION}: use the newer agent that wrote it", path.display())]
    Newer {
        /// Its file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

/// The database.
#[derive(Debug)]
pub struct EntryStore {
    path: PathBuf,
    /// None while it could not be opened again after an error.
    database: Option<Database>,
}

/// The database, its records in order, and why it cannot be changed, if it cannot.
pub type Opened = (EntryStore, Vec<(u64, Record)>, Option<EntryStoreError>);

/// One change to the database.
#[derive(Debug)]
pub enum Change<'a> {
    /// Puts a record under its number, over what was there.
    Put(u64, &'a Record),
    /// Takes away what is under a number.
    Remove(u64),
}

impl EntryStore {
    /// Opens the database, making it where there is none, and reads all records in order. Where the
    /// disk does not let it be written, its records hold all the same, and why nothing can be
    /// changed is told beside them.
    ///
    /// # Errors
    ///
    /// Why it cannot be used; it is then as it was.
    pub fn open(path: &Path) -> Result<Opened, EntryStoreError> {
        let problem = |error: redb::Error| problem(path, error);
        let (database, trouble) = match create(path) {
            Ok(database) => (database, None),
            Err(error @ redb::Error::Io(_)) => {
                let copied = begin(copy(path)).map_err(problem)?;
                (copied, Some(problem(error)))
            }
            Err(error) => return Err(problem(error)),
        };
        let mut store = Self {
            path: path.to_owned(),
            database: Some(database),
        };
        let records = store.read()?;
        if trouble.is_some() {
            // A change of the copy would be lost.
            store.database = None;
        }
        Ok((store, records, trouble))
    }

    /// Finds out whether changes can be kept again, after they could not.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub fn try_again(&mut self) -> Result<(), EntryStoreError> {
        // The old one holds the lock on the file.
        self.database = None;
        let database = create(&self.path);
        self.database = Some(database.map_err(|error| problem(&self.path, error))?);
        Ok(())
    }

    fn read(&self) -> Result<Vec<(u64, Record)>, EntryStoreError> {
        let version = || -> Result<Option<u64>, redb::Error> {
            let meta = self.database()?.begin_read()?.open_table(META)?;
            Ok(meta.get(VERSION_KEY)?.map(|version| version.value()))
        };
        match version().map_err(|error| problem(&self.path, error))? {
            Some(found) if found > VERSION => {
                return Err(EntryStoreError::Newer {
                    path: self.path.clone(),
                    found,
                });
            }
            _ => {}
        }
        let read = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let table = self.database()?.begin_read()?.open_table(RECORDS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (number, bytes) = row?;
                rows.push((number.value(), bytes.value().to_vec()));
            }
            Ok(rows)
        };
        let rows = read().map_err(|error| problem(&self.path, error))?;
        let parse = |(number, bytes): (u64, Vec<u8>)| {
            let record = serde_json::from_slice(&bytes)
                .map_err(|error| problem(&self.path, format!("record {number}: {error}")))?;
            Ok((number, record))
        };
        rows.into_iter().map(parse).collect()
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        let closed = || redb::Error::Io(std::io::Error::other("the database is closed"));
        self.database.as_ref().ok_or_else(closed)
    }

    /// Makes all changes, or none. When this returns they are on the disk. After an error of the
    /// disk the database refuses everything until it is opened again, so that is done once.
    ///
    /// # Errors
    ///
    /// Why none was made.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<(), EntryStoreError> {
        if self.try_apply(changes).is_ok() {
            return Ok(());
        }
        self.try_again()?;
        self.try_apply(changes)
            .map_err(|error| problem(&self.path, error))
    }

    fn try_apply(&self, changes: &[Change<'_>]) -> Result<(), redb::Error> {
        let write = self.database()?.begin_write()?;
        let mut table = write.open_table(RECORDS)?;
        for change in changes {
            match change {
                Change::Put(number, record) => {
                    let bytes = serde_json::to_vec(record).map_err(std::io::Error::other)?;
                    table.insert(number, bytes.as_slice())?;
                }
                Change::Remove(number) => {
                    table.remove(number)?;
                }
            }
        }
        drop(table);
        write.commit()?;
        Ok(())
    }
}

/// Opens the database, or makes one. That has its name only when it is whole, since a part of one
/// is no database and never becomes one.
fn create(path: &Path) -> Result<Database, redb::Error> {
    if !path.try_exists()? {
        let part = path.with_extension("redb.new");
        // What an agent has left that was killed at this.
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => drop(begin(Database::create(&part))?),
        }
        std::fs::rename(part, path)?;
        if let Some(directory) = path.parent() {
            std::fs::File::open(directory)?.sync_all()?;
        }
    }
    begin(Database::create(path))
}

/// A database that has its tables, and was written to prove that it can be.
fn begin(opened: Result<Database, DatabaseError>) -> Result<Database, redb::Error> {
    let database = opened?;
    let write = database.begin_write()?;
    write.open_table(RECORDS)?;
    let mut meta = write.open_table(META)?;
    let found = meta.get(VERSION_KEY)?.map(|version| version.value());
    meta.insert(VERSION_KEY, found.unwrap_or(VERSION))?;
    drop(meta);
    write.commit()?;
    Ok(database)
}

/// What is in the database, in memory alone; nothing where there is no file.
fn copy(path: &Path) -> Result<Database, DatabaseError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        bytes => bytes?,
    };
    let memory = InMemoryBackend::new();
    memory.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    memory.write(0, &bytes)?;
    Database::builder().create_with_backend(memory)
}

fn problem(path: &Path, reason: impl ToString) -> EntryStoreError {
    EntryStoreError::Database {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
