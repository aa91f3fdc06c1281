//! Asking for one script after the other: a state machine that says what it wants to know and is told.
//!
//! It does no I/O, so whoever drives it may ask whom he likes, in any network weather, and tests drive it with a chain of their own.

use std::collections::VecDeque;

use sensora_chain::header::HeaderView;
use sensora_chain::keys::PrivateKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::service::Unspent;
use sensora_chain::wallet::{KeyRow, OwnedOutput};
use sensora_chain::{OutPoint, Script, Transaction, Txid};

use super::keys::KeyWindow;
use super::{Found, RecoveryError, check_path};

/// The most unspent outputs that one script is believed to have: an address is used once, and a stranger may pay it a few more times.
const MAX_UNSPENT: usize = 1_000;

/// What the scan wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Was this script ever paid?
    Used(Script),
    /// Which outputs of this script are unspent?
    Unspent(Script),
    /// This transaction.
    Transaction(Txid),
    /// Its Merkle path.
    Path(Txid),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Whether the script was ever paid.
    Used(bool),
    /// Its unspent outputs.
    Unspent(Vec<Unspent>),
    /// The transaction; `None` where nobody has it.
    Transaction(Option<Transaction>),
    /// The path; `None` while it waits for a block.
    Path(Option<MerklePath>),
}

/// One coin on its way to being believed.
#[derive(Debug, Clone)]
struct Lead {
    outpoint: OutPoint,
    row: KeyRow,
    number: u64,
    tx: Option<Transaction>,
}

/// The scan of both rows of keys.
#[derive(Debug)]
pub struct Scan {
    window: KeyWindow,
    row: usize,
    number: u64,
    /// The key at hand is in use, and its unspent outputs are wanted.
    wants_unspent: bool,
    leads: VecDeque<Lead>,
    found: Found,
}

impl Scan {
    /// A scan that ends when `gap` keys in a row are unused, in each row.
    #[must_use]
    pub fn new(root: &PrivateKey, gap: u64) -> Self {
        let window = KeyWindow::new(root, gap);
        Self {
            window,
            row: 0,
            number: 0,
            wants_unspent: false,
            leads: VecDeque::new(),
            found: Found::default(),
        }
    }

    /// The row and number that are looked at; `None` at the end.
    #[must_use]
    pub fn at(&self) -> Option<(KeyRow, u64)> {
        KeyRow::ALL.get(self.row).map(|row| (*row, self.number))
    }

    /// What it wants to know next; `None` at the end. Asking again gives the same until it is told.
    #[must_use]
    pub fn ask(&self) -> Option<Ask> {
        if let Some(lead) = self.leads.front() {
            return Some(match lead.tx {
                None => Ask::Transaction(lead.outpoint.txid),
                Some(_) => Ask::Path(lead.outpoint.txid),
            });
        }
        let (row, number) = self.at()?;
        let script = self.window.script(row, number);
        Some(if self.wants_unspent { Ask::Unspent(script) } else { Ask::Used(script) })
    }

    /// Takes the answer to what [`Scan::ask`] gives.
    ///
    /// # Errors
    /// [`RecoveryError::False`] where it is not true: ask somebody else, nothing is lost. [`RecoveryError::NoHeader`],
    /// [`RecoveryError::TooMany`].
    pub fn told(&mut self, told: Told, headers: &impl HeaderView) -> Result<(), RecoveryError> {
        match (self.ask().ok_or(RecoveryError::OutOfTurn)?, told) {
            (Ask::Used(_), Told::Used(used)) => self.told_used(used),
            (Ask::Unspent(script), Told::Unspent(unspent)) => self.told_unspent(&script, unspent),
            (Ask::Transaction(txid), Told::Transaction(tx)) => self.told_transaction(&txid, tx),
            (Ask::Path(txid), Told::Path(path)) => self.told_path(&txid, path, headers),
            _ => Err(RecoveryError::OutOfTurn),
        }
    }

    /// What was found. The scan has to be at its end, or less is found than there is.
    #[must_use]
    pub fn finish(self) -> Found {
        self.found.numbers(&self.window)
    }

    fn told_used(&mut self, used: bool) -> Result<(), RecoveryError> {
        let (row, number) = self.at().ok_or(RecoveryError::OutOfTurn)?;
        if used {
            self.window.used(row, number);
            self.wants_unspent = true;
        } else {
            self.step();
        }
        Ok(())
    }

    fn step(&mut self) {
        let Some((row, number)) = self.at() else { return };
        self.wants_unspent = false;
        self.number = number.saturating_add(1);
        if self.number >= self.window.end(row) {
            self.row = self.row.saturating_add(1);
            self.number = 0;
        }
    }

    fn told_unspent(&mut self, script: &Script, unspent: Vec<Unspent>) -> Result<(), RecoveryError> {
        let (row, number) = self.at().ok_or(RecoveryError::OutOfTurn)?;
        if unspent.len() > MAX_UNSPENT {
            let reason = "it has more unspent outputs than an address is believed to have";
            return Err(RecoveryError::False {
                what: format!("script {}", hex::encode(script.as_bytes())),
                reason,
            });
        }
        let leads = unspent.into_iter().map(|coin| Lead { outpoint: coin.outpoint, row, number, tx: None });
        self.leads.extend(leads);
        self.step();
        Ok(())
    }

    fn told_transaction(&mut self, txid: &Txid, tx: Option<Transaction>) -> Result<(), RecoveryError> {
        let lie = |reason| RecoveryError::False { what: format!("transaction {txid}"), reason };
        let Some(lead) = self.leads.front_mut() else { return Err(RecoveryError::OutOfTurn) };
        let tx = tx.ok_or_else(|| lie("its output is said to be unspent, and it is not there"))?;
        if tx.txid() != *txid {
            return Err(lie("its bytes have another id"));
        }
        let vout = usize::try_from(lead.outpoint.vout).ok();
        let output = vout.and_then(|vout| tx.outputs.get(vout));
        let script = self.window.script(lead.row, lead.number);
        if output.is_none_or(|output| output.locking != script) {
            return Err(lie("the output that is said to be ours is locked to another key"));
        }
        if tx.is_coinbase() {
            // A wallet takes no coinbase: it may vanish, and cannot be spent for a hundred blocks.
            self.leads.pop_front();
            return Ok(());
        }
        lead.tx = Some(tx);
        Ok(())
    }

    fn told_path(
        &mut self,
        txid: &Txid,
        path: Option<MerklePath>,
        headers: &impl HeaderView,
    ) -> Result<(), RecoveryError> {
        if let Some(path) = &path {
            check_path(txid, path, headers)?;
        }
        let Some(Lead { outpoint, row, number, tx: Some(tx) }) = self.leads.pop_front() else {
            return Err(RecoveryError::OutOfTurn);
        };
        let output = OwnedOutput { vout: outpoint.vout, key: row.key(number), purpose: row.purpose() };
        match path {
            Some(path) => self.found.add(tx, path, output),
            None if self.found.waiting.len() >= super::MAX_FOUND => Err(RecoveryError::TooMany),
            None => {
                self.found.waiting.push(outpoint);
                Ok(())
            }
        }
    }
}
