//! The block headers we have checked: 80 bytes each, by height.

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::{Store, StoreError};
use crate::chain_access::{HeaderStore, HeaderStoreError};

const HEADERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("headers");

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    tx.open_table(HEADERS)?;
    Ok(())
}

/// All headers, lowest first.
///
/// # Errors
/// [`StoreError`].
pub fn all(tx: &ReadTransaction) -> Result<Vec<[u8; 80]>, StoreError> {
    let table = tx.open_table(HEADERS)?;
    let mut headers = Vec::new();
    for entry in table.iter()? {
        let (height, header) = entry?;
        let header = header.value().try_into();
        headers.push(
            header.map_err(|_| StoreError::Damaged(format!("header {} is not 80 bytes", height.value())))?,
        );
    }
    Ok(headers)
}

/// Replaces every header from `height` on.
///
/// # Errors
/// [`StoreError`].
pub fn replace_from(tx: &WriteTransaction, height: u32, headers: &[[u8; 80]]) -> Result<(), StoreError> {
    let mut table = tx.open_table(HEADERS)?;
    table.retain_in(height.., |_, _| false)?;
    for (height, header) in (height..).zip(headers) {
        table.insert(height, header.as_slice())?;
    }
    Ok(())
}

impl HeaderStore for Store {
    fn load(&self) -> Result<Vec<[u8; 80]>, HeaderStoreError> {
        self.read(all).map_err(|error| HeaderStoreError(Box::new(error)))
    }

    fn replace_from(&self, height: u32, headers: &[[u8; 80]]) -> Result<(), HeaderStoreError> {
        self.write(|tx| replace_from(tx, height, headers)).map_err(|error| HeaderStoreError(Box::new(error)))
    }
}
