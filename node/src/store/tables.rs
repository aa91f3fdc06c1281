//! Whole tables as they stand, for backups: names and rows, whatever is in them.
//!
//! Every table but `meta` and `headers` has byte strings for keys and values (see [`super::kinds`]), so one way of reading fits all.

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableHandle as _, WriteTransaction};

use super::StoreError;
use super::kinds::Entry;

/// The table of the store's own, which says whose it is and is no part of a backup.
pub const META: &str = "meta";

const fn table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// The tables there are, but for [`META`], in the order of their names.
///
/// # Errors
/// [`StoreError`].
pub fn names(tx: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let tables = tx.list_tables()?.map(|table| table.name().to_owned());
    let mut names: Vec<String> = tables.filter(|name| name != META).collect();
    names.sort_unstable();
    Ok(names)
}

/// The last rows of a table, at most `limit`, in the order of their keys.
///
/// # Errors
/// [`StoreError`].
pub fn rows(tx: &ReadTransaction, name: &str, limit: usize) -> Result<Vec<Entry>, StoreError> {
    let table = tx.open_table(table(name))?;
    let mut found = Vec::new();
    for entry in table.iter()?.rev().take(limit) {
        let (key, value) = entry?;
        found.push((key.value().to_vec(), value.value().to_vec()));
    }
    found.reverse();
    Ok(found)
}

/// Puts rows into a table that this program has.
///
/// # Errors
/// [`StoreError`].
pub fn fill<'a>(
    tx: &WriteTransaction,
    name: &str,
    rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(), StoreError> {
    let mut table = tx.open_table(table(name))?;
    for (key, value) in rows {
        table.insert(key, value)?;
    }
    Ok(())
}
