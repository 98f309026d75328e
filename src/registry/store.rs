//! Entries that were made while the agent ran, on disk: one record each, in a small database of
//! which every change is either there as a whole or not at all.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
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

/// One change to the database.
#[derive(Debug)]
pub enum Change<'a> {
    /// Puts a record under its number, over what was there.
    Put(u64, &'a Record),
    /// Takes away what is under a number.
    Remove(u64),
}

impl EntryStore {
    /// Opens the database, making it where there is none, and reads all records in order.
    ///
    /// # Errors
    ///
    /// Why it cannot be used; it is then as it was.
    pub fn open(path: &Path) -> Result<(Self, Vec<(u64, Record)>), EntryStoreError> {
        let database = Database::create(path).map_err(|error| problem(path, error))?;
        let store = Self {
            path: path.to_owned(),
            database: Some(database),
        };
        store.check_version()?;
        let records = store.read()?;
        Ok((store, records))
    }

    fn check_version(&self) -> Result<(), EntryStoreError> {
        let problem = |error: redb::Error| problem(&self.path, error);
        let found = || -> Result<Option<u64>, redb::Error> {
            let write = self.database()?.begin_write()?;
            write.open_table(RECORDS)?;
            let mut meta = write.open_table(META)?;
            let found = meta.get(VERSION_KEY)?.map(|version| version.value());
            if found.is_none() {
                meta.insert(VERSION_KEY, VERSION)?;
            }
            drop(meta);
            write.commit()?;
            Ok(found)
        };
        match found().map_err(problem)? {
            Some(found) if found > VERSION => Err(EntryStoreError::Newer {
                path: self.path.clone(),
                found,
            }),
            _ => Ok(()),
        }
    }

    fn read(&self) -> Result<Vec<(u64, Record)>, EntryStoreError> {
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
        // The old one holds the lock on the file.
        self.database = None;
        let reopened = Database::create(&self.path);
        self.database = Some(reopened.map_err(|error| problem(&self.path, error))?);
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

fn problem(path: &Path, reason: impl ToString) -> EntryStoreError {
    EntryStoreError::Database {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
