//! Watching money without being able to spend it: for indexers, shop fronts and everybody who only counts.
//!
//! A [`WatchFile`] holds what a wallet's owner lets others see: its coins, each with the transaction that made it, and its addresses. There is
//! no key in it and none can be derived from it. A [`WatchWallet`] is made of one and follows transactions: what spends a coin and what pays an
//! address; whoever has blocks hands it their transactions ([`WatchWallet::see`]), and [`WatchWallet::refresh`] asks the chain.

use std::collections::{BTreeMap, BTreeSet};

use sensora_chain::contract::payment::verify_p2pkh;
use sensora_chain::keys::{Address, PrivateKey};
use sensora_chain::wallet::{CoinState, KeyRow, Wallet};
use sensora_chain::{Network, OutPoint, Satoshis, Script, SighashCache, Transaction, TxOut, Txid};
use serde::{Deserialize, Serialize};

use crate::chain_access::{ChainAccess, ChainError, SpentBy, TxStanding};

/// What the file calls itself.
const FORMAT: &str = "sensora-watch";
/// The version that is written and the newest that is read.
const VERSION: u64 = 1;
/// The longest watch file that is read, in bytes: ten thousand coins of ordinary transactions take a few MB.
pub const MAX_FILE: u64 = 64 << 20;
/// The most coins and the most addresses that are followed.
pub const MAX_WATCHED: usize = 100_000;

/// Why something cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// It is not a watch file.
    #[error("it is not a watch file: {0}")]
    NotAWatchFile(String),
    /// A newer program wrote it.
    #[error("the watch file has version {found}, this program reads up to {VERSION}: use a newer sensora")]
    Newer {
        /// Its version.
        found: u64,
    },
    /// Of another network.
    #[error("the watch file is of network {found}, this home of {expected}: use a home of network {found}")]
    Network {
        /// The file's.
        found: Network,
        /// The home's.
        expected: Network,
    },
    /// A coin that is not what its transaction says.
    #[error("coin {number} of the watch file is damaged: {reason}")]
    Coin {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// More than is followed.
    #[error("more than {MAX_WATCHED} coins or addresses cannot be followed")]
    TooMany,
    /// The chain cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// What a wallet lets others see, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchFile {
    /// `sensora-watch`.
    pub format: String,
    /// Version of the file.
    pub version: u64,
    /// The network.
    pub network: Network,
    /// When it was made, milliseconds since the Unix epoch.
    pub made_ms: i64,
    /// Unspent outputs.
    pub coins: Vec<WatchedOutput>,
    /// Addresses that are the wallet's: those of its coins, and those given out to be paid at.
    pub addresses: Vec<Address>,
}

/// A coin in a watch file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedOutput {
    /// Position in its transaction.
    pub vout: u32,
    /// The transaction that made it, in hexadecimal: its id and the coin's value follow from it.
    pub tx: String,
}

impl WatchFile {
    /// What can be seen of `wallet`: its coins, and up to [`MAX_WATCHED`] of the funding addresses given out last. `root` derives
    /// the addresses and is not kept.
    ///
    /// # Errors
    /// [`WatchError::TooMany`].
    pub fn of(wallet: &Wallet, root: &PrivateKey, network: Network, now_ms: i64) -> Result<Self, WatchError> {
        let mut coins = Vec::new();
        let mut addresses = BTreeSet::new();
        for coin in wallet.coins().into_iter().filter(|coin| coin.state != CoinState::Pending) {
            let Some(tx) = wallet.transaction(&coin.outpoint.txid) else { continue };
            coins.push(WatchedOutput { vout: coin.outpoint.vout, tx: hex::encode(tx.to_bytes()) });
            addresses.insert(coin.key.private_key(root).public().address(network));
        }
        let given_out = wallet.next_number(KeyRow::Funding);
        let room = u64::try_from(sensora_chain::wallet::FUNDING_WATCHED).unwrap_or(0);
        for number in given_out.saturating_sub(room)..given_out {
            addresses.insert(KeyRow::Funding.key(number).private_key(root).public().address(network));
        }
        if coins.len() > MAX_WATCHED || addresses.len() > MAX_WATCHED {
            return Err(WatchError::TooMany);
        }
        let addresses = addresses.into_iter().collect();
        Ok(Self { format: FORMAT.to_owned(), version: VERSION, network, made_ms: now_ms, coins, addresses })
    }

    /// Reads a watch file.
    ///
    /// # Errors
    /// [`WatchError::NotAWatchFile`], [`WatchError::Newer`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WatchError> {
        #[derive(Deserialize)]
        struct Announced {
            format: String,
            version: u64,
        }
        let wrong = |error: serde_json::Error| WatchError::NotAWatchFile(error.to_string());
        let announced: Announced = serde_json::from_slice(bytes).map_err(wrong)?;
        if announced.format != FORMAT {
            return Err(WatchError::NotAWatchFile("its `format` is another".to_owned()));
        }
        if announced.version > VERSION {
            return Err(WatchError::Newer { found: announced.version });
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }
}

/// A coin that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedCoin {
    /// What it is worth and how it is locked.
    pub output: TxOut,
    /// The height of its block; `None` while it waits for one, or while that is not known yet.
    pub height: Option<u32>,
}

/// What is watched is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchBalance {
    /// In blocks.
    pub confirmed: Satoshis,
    /// In no block yet, as far as is known.
    pub unconfirmed: Satoshis,
    /// Unspent coins.
    pub coins: usize,
}

/// Coins and addresses that are followed. There is no key in it.
#[derive(Debug, Clone)]
pub struct WatchWallet {
    scripts: BTreeSet<Script>,
    coins: BTreeMap<OutPoint, WatchedCoin>,
    /// Coins that are gone, and the transaction that spent each.
    spent: BTreeMap<OutPoint, Txid>,
}

impl WatchWallet {
    /// Watches what a file says; of each coin its transaction is believed, and whether it is on the chain is not known yet.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn new(file: &WatchFile, network: Network) -> Result<Self, WatchError> {
        if file.network != network {
            return Err(WatchError::Network { found: file.network, expected: network });
        }
        if file.coins.len() > MAX_WATCHED || file.addresses.len() > MAX_WATCHED {
            return Err(WatchError::TooMany);
        }
        let mut scripts: BTreeSet<Script> = BTreeSet::new();
        for address in &file.addresses {
            if !address.belongs_to(network) {
                return Err(WatchError::NotAWatchFile(format!(
                    "{address} is of another network than {network}"
                )));
            }
            scripts.insert(address.locking_script());
        }
        let mut coins = BTreeMap::new();
        for (number, coin) in (1..).zip(&file.coins) {
            let damaged = |reason: &str| WatchError::Coin { number, reason: reason.to_owned() };
            let bytes = hex::decode(&coin.tx).map_err(|_| damaged("its transaction is not hexadecimal"))?;
            let tx =
                Transaction::from_bytes(&bytes).map_err(|_| damaged("its transaction cannot be read"))?;
            let output = usize::try_from(coin.vout).ok().and_then(|vout| tx.outputs.get(vout)).cloned();
            let output = output.ok_or_else(|| damaged("its transaction has no such output"))?;
            scripts.insert(output.locking.clone());
            coins.insert(OutPoint { txid: tx.txid(), vout: coin.vout }, WatchedCoin { output, height: None });
        }
        Ok(Self { scripts, coins, spent: BTreeMap::new() })
    }

    /// The unspent coins.
    #[must_use]
    pub fn coins(&self) -> &BTreeMap<OutPoint, WatchedCoin> {
        &self.coins
    }

    /// Coins that are gone, and what spent them.
    #[must_use]
    pub fn spent(&self) -> &BTreeMap<OutPoint, Txid> {
        &self.spent
    }

    /// What the coins are worth; saturating.
    #[must_use]
    pub fn balance(&self) -> WatchBalance {
        let sum = |mined: bool| {
            let coins = self.coins.values().filter(|coin| coin.height.is_some() == mined);
            let sat = coins.fold(0_u64, |sum, coin| sum.saturating_add(coin.output.value.as_u64()));
            Satoshis::new(sat).unwrap_or(Satoshis::MAX)
        };
        WatchBalance { confirmed: sum(true), unconfirmed: sum(false), coins: self.coins.len() }
    }

    /// Takes note of a transaction that the caller believes: coins that it spends are gone, outputs that pay a watched address are
    /// coins. `height` is that of its block. Whether it had anything to do with what is watched.
    ///
    /// # Errors
    /// [`WatchError::TooMany`].
    pub fn see(&mut self, tx: &Transaction, height: Option<u32>) -> Result<bool, WatchError> {
        let txid = tx.txid();
        let mut touched = false;
        for input in &tx.inputs {
            if self.coins.remove(&input.previous).is_some() {
                self.spent.insert(input.previous, txid);
                touched = true;
            }
        }
        for (vout, output) in (0_u32..).zip(&tx.outputs) {
            let outpoint = OutPoint { txid, vout };
            if !self.scripts.contains(&output.locking) || self.spent.contains_key(&outpoint) {
                continue;
            }
            touched = true;
            let coin = WatchedCoin { output: output.clone(), height };
            let known = self.coins.entry(outpoint).or_insert(coin);
            known.height = height.or(known.height);
        }
        if self.coins.len().saturating_add(self.spent.len()) > MAX_WATCHED.saturating_mul(2) {
            return Err(WatchError::TooMany);
        }
        Ok(touched)
    }

    /// Asks the chain what became of the coins, follows what came back to watched addresses, and learns which coins are in
    /// blocks. A coin counts as gone when what spends it is mined or carries the coin's own signature. A payment from elsewhere to a
    /// watched address is not found this way: hand its block's transactions to [`WatchWallet::see`].
    ///
    /// # Errors
    /// [`WatchError::Chain`], [`WatchError::TooMany`].
    pub async fn refresh(&mut self, chain: &ChainAccess) -> Result<(), WatchError> {
        let mut asked = BTreeSet::new();
        loop {
            let open: Vec<OutPoint> =
                self.coins.keys().filter(|outpoint| !asked.contains(*outpoint)).copied().collect();
            if open.is_empty() {
                break;
            }
            for (outpoint, spent) in chain.spent(&open).await? {
                asked.insert(outpoint);
                let SpentBy::Transaction { tx, mined } = spent else { continue };
                let signed =
                    || self.coins.get(&outpoint).is_some_and(|coin| is_signed(&tx, &outpoint, &coin.output));
                if mined.is_some() || signed() {
                    self.see(&tx, mined.map(|path| path.block_height()))?;
                }
            }
        }
        let txids: BTreeSet<Txid> = self.coins.keys().map(|outpoint| outpoint.txid).collect();
        let txids: Vec<Txid> = txids.into_iter().collect();
        let mut heights = BTreeMap::new();
        for (txid, standing) in chain.proofs(&txids).await? {
            if let TxStanding::Mined(path) = standing {
                heights.insert(txid, path.block_height());
            }
        }
        for (outpoint, coin) in &mut self.coins {
            coin.height = heights.get(&outpoint.txid).copied();
        }
        Ok(())
    }
}

fn is_signed(tx: &Transaction, outpoint: &OutPoint, coin: &TxOut) -> bool {
    let index = tx.inputs.iter().position(|input| &input.previous == outpoint);
    index.is_some_and(|index| verify_p2pkh(tx, &SighashCache::new(tx), index, coin).is_ok())
}
