//! The few shapes a table has: records under a fixed-length key, in order.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, from_record, to_record};

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A table of CBOR records under byte keys.
pub struct Records {
    /// Name in the file and in errors.
    pub name: &'static str,
}

impl Records {
    const fn table(&self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name)
    }

    /// Makes the table if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn create(&self, tx: &WriteTransaction) -> Result<(), StoreError> {
        tx.open_table(self.table())?;
        Ok(())
    }

    /// Stores a record.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn put<T: Serialize>(&self, tx: &WriteTransaction, key: &[u8], value: &T) -> Result<(), StoreError> {
        self.put_bytes(tx, key, &to_record(self.name, value)?)
    }

    /// Stores bytes as they are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn put_bytes(&self, tx: &WriteTransaction, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        tx.open_table(self.table())?.insert(key, value)?;
        Ok(())
    }

    /// Removes a record.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove(&self, tx: &WriteTransaction, key: &[u8]) -> Result<(), StoreError> {
        tx.open_table(self.table())?.remove(key)?;
        Ok(())
    }

    /// The record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get<T: DeserializeOwned>(
        &self,
        tx: &ReadTransaction,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        match self.get_bytes(tx, key)? {
            Some(bytes) => from_record(self.name, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The bytes under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get_bytes(&self, tx: &ReadTransaction, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(tx.open_table(self.table())?.get(key)?.map(|value| value.value().to_vec()))
    }

    /// The record under `key`, as this change sees it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get_in<T: DeserializeOwned>(
        &self,
        tx: &WriteTransaction,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        let table = tx.open_table(self.table())?;
        let bytes = table.get(key)?.map(|value| value.value().to_vec());
        bytes.map(|bytes| from_record(self.name, &bytes)).transpose()
    }

    /// The bytes under `key`, as this change sees them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get_bytes_in(&self, tx: &WriteTransaction, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(tx.open_table(self.table())?.get(key)?.map(|value| value.value().to_vec()))
    }

    /// Up to `limit` entries whose keys begin with `prefix`, from `from` on, in order of their keys.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn scan(
        &self,
        tx: &ReadTransaction,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let table = tx.open_table(self.table())?;
        let mut found = Vec::new();
        for entry in table.range(from..)? {
            let (key, value) = entry?;
            if found.len() >= limit || !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }

    /// Shows `f` every entry from `from` on, in order of their keys, as this change sees them.
    ///
    /// # Errors
    /// [`StoreError`], `f`'s among them.
    pub fn each_from_in(
        &self,
        tx: &WriteTransaction,
        from: &[u8],
        mut f: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let table = tx.open_table(self.table())?;
        for entry in table.range(from..)? {
            let (key, value) = entry?;
            f(key.value(), value.value())?;
        }
        Ok(())
    }

    /// The last entry whose key begins with `prefix` and is at most `to`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_up_to(
        &self,
        tx: &ReadTransaction,
        prefix: &[u8],
        to: &[u8],
    ) -> Result<Option<Entry>, StoreError> {
        let table = tx.open_table(self.table())?;
        let Some(entry) = table.range(..=to)?.next_back() else { return Ok(None) };
        let (key, value) = entry?;
        Ok(key.value().starts_with(prefix).then(|| (key.value().to_vec(), value.value().to_vec())))
    }

    /// The last entry whose key begins with `prefix` and is at most `to`, as this change sees it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_up_to_in(
        &self,
        tx: &WriteTransaction,
        prefix: &[u8],
        to: &[u8],
    ) -> Result<Option<Entry>, StoreError> {
        let table = tx.open_table(self.table())?;
        let Some(entry) = table.range(..=to)?.next_back() else { return Ok(None) };
        let (key, value) = entry?;
        Ok(key.value().starts_with(prefix).then(|| (key.value().to_vec(), value.value().to_vec())))
    }

    /// The entries with `from` ≤ key < `to`, as this change sees them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn between_in(
        &self,
        tx: &WriteTransaction,
        from: &[u8],
        to: &[u8],
    ) -> Result<Vec<Entry>, StoreError> {
        let table = tx.open_table(self.table())?;
        let mut found = Vec::new();
        for entry in table.range(from..to)? {
            let (key, value) = entry?;
            found.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }

    /// Removes every entry whose key is below `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_before(&self, tx: &WriteTransaction, key: &[u8]) -> Result<(), StoreError> {
        tx.open_table(self.table())?.retain_in(..key, |_, _| false)?;
        Ok(())
    }

    /// Removes every entry with `from` ≤ key < `to`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_range(&self, tx: &WriteTransaction, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        tx.open_table(self.table())?.retain_in(from..to, |_, _| false)?;
        Ok(())
    }

    /// Removes every record.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn clear(&self, tx: &WriteTransaction) -> Result<(), StoreError> {
        tx.open_table(self.table())?.retain(|_, _| false)?;
        Ok(())
    }

    /// How many records there are, as this change sees it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn len_in(&self, tx: &WriteTransaction) -> Result<u64, StoreError> {
        Ok(tx.open_table(self.table())?.len()?)
    }

    /// How many records there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn len(&self, tx: &ReadTransaction) -> Result<u64, StoreError> {
        Ok(tx.open_table(self.table())?.len()?)
    }

    /// All records.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn all<T: DeserializeOwned>(&self, tx: &ReadTransaction) -> Result<Vec<T>, StoreError> {
        let table = tx.open_table(self.table())?;
        let mut found = Vec::new();
        for entry in table.iter()? {
            let (_, value) = entry?;
            found.push(from_record(self.name, value.value())?);
        }
        Ok(found)
    }
}
