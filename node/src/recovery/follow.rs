//! Following coins along the chain: what spent them, and what of it came back to us.

use std::collections::BTreeSet;
use std::time::Duration;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::payment::verify_p2pkh;
use sensora_chain::keys::PrivateKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{CoinState, KeyRow, Received, Wallet};
use sensora_chain::{OutPoint, Satoshis, SighashCache, Transaction, TxOut, Txid};
use sensora_protocol::Identity;
use sensora_protocol::ad::ADV_PREFIX;
use sensora_protocol::anchor::{PROOF_PREFIX, PROOF_VERSION};
use sensora_protocol::chain_access::message::{MAX_OUTPOINTS, MAX_SCANNED, ScanPosition};

use super::{DEFAULT_GAP, Found, KeyWindow, LABEL, MAX_FOUND, RecoveryError};
use crate::chain_access::{ChainAccess, SpentBy};
use crate::clock::Clock;
use crate::store::restored::{self, Restored};
use crate::store::{self, Store, StoreError};
use crate::wallet::{WalletHandle, WalletHandleError};

/// How often a restored wallet tries to reach the chain.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// The longest time between two looks where some coins stay unknown; each is twice the one before.
const LONGEST_AGAIN: Duration = Duration::from_secs(600);
/// The longest beginning of a data output that can be asked for, in bytes.
const LONGEST_PREFIX: usize = 32;

/// What was found out by following coins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Followed {
    /// Coins that were asked about.
    pub asked: usize,
    /// Of these, whoever was asked knows nothing.
    pub unknown: usize,
    /// Transactions, unknown here before, that spend some of them.
    pub spending: usize,
    /// Outputs of those that came back to us.
    pub came_back: usize,
    /// What these are worth.
    pub value: Satoshis,
}

/// Asks the chain what became of every coin of the wallet, takes in the transactions that spent them and what came back from those, and goes on
/// with that, until nothing new turns up. Keys that were found in use are left out from now on. Safe to stop and to repeat.
///
/// # Errors
/// [`RecoveryError`]; what was found before stays.
pub async fn catch_up(
    wallet: &WalletHandle,
    chain: &ChainAccess,
    identity: &Identity,
    clock: &Clock,
    gap: u64,
) -> Result<Followed, RecoveryError> {
    let root = identity.key();
    let (change, funding) =
        wallet.read(|wallet| (wallet.next_number(KeyRow::Change), wallet.next_number(KeyRow::Funding)));
    let mut window = KeyWindow::above(root, gap, change, funding);
    let mut followed = Followed::default();
    let mut asked: BTreeSet<OutPoint> = BTreeSet::new();
    loop {
        let coins = wallet.coins().into_iter().filter(|coin| coin.state != CoinState::Pending);
        let open: Vec<OutPoint> =
            coins.map(|coin| coin.outpoint).filter(|outpoint| !asked.contains(outpoint)).collect();
        if open.is_empty() {
            break;
        }
        for some in open.chunks(MAX_OUTPOINTS) {
            for (outpoint, spent) in chain.spent(some).await? {
                asked.insert(outpoint);
                followed.asked = followed.asked.saturating_add(1);
                followed.unknown = followed.unknown.saturating_add(usize::from(spent == SpentBy::Unknown));
                let SpentBy::Transaction { tx, mined } = spent else { continue };
                take_spending(
                    wallet,
                    chain,
                    root,
                    clock,
                    &mut window,
                    &outpoint,
                    (tx, mined),
                    &mut followed,
                )?;
            }
        }
        if asked.len() > MAX_FOUND {
            return Err(RecoveryError::TooMany);
        }
    }
    let (change, funding) = (window.next(KeyRow::Change), window.next(KeyRow::Funding));
    wallet.update(|wallet, _| {
        wallet.advance_counters(root, change, funding);
        Ok::<_, RecoveryError>(())
    })?;
    Ok(followed)
}

/// Takes in a transaction that spends a coin of ours, if that is certain: it is mined, or carries our signature.
#[expect(clippy::too_many_arguments, reason = "one step of `catch_up`, with all that it holds")]
fn take_spending(
    wallet: &WalletHandle,
    chain: &ChainAccess,
    root: &PrivateKey,
    clock: &Clock,
    window: &mut KeyWindow,
    outpoint: &OutPoint,
    (tx, mined): (Transaction, Option<MerklePath>),
    followed: &mut Followed,
) -> Result<(), RecoveryError> {
    let txid = tx.txid();
    let coin = wallet.read(|wallet| {
        let parent = wallet.transaction(&outpoint.txid)?;
        parent.outputs.get(usize::try_from(outpoint.vout).ok()?).cloned()
    });
    let certain = mined.is_some() || coin.is_some_and(|coin| is_signed(&tx, outpoint, &coin));
    if !certain {
        tracing::debug!(%txid, %outpoint, "said to spend a coin of ours, without our signature and in no block");
        return Ok(());
    }
    let known = wallet.status(&txid).is_some();
    let mut outputs = window.recognise(&tx);
    let given_out = wallet.read(|wallet| wallet.recognise(&tx));
    outputs.extend(
        given_out
            .into_iter()
            .filter(|new| outputs.iter().all(|old| old.vout != new.vout))
            .collect::<Vec<_>>(),
    );
    let (headers, now_ms) = (chain.headers(), clock.now_ms());
    let taken = wallet.update(|wallet, dbtx| {
        if known {
            return match mined {
                Some(path) => wallet.mark_mined(&txid, path, &headers),
                None => wallet.mark_broadcast(&txid),
            }
            .map(|()| (0, Satoshis::ZERO))
            .map_err(WalletHandleError::from);
        }
        if store::wallet::is_archived_in(dbtx, &txid)? {
            return Ok((0, Satoshis::ZERO));
        }
        let count = outputs.len();
        let label = LABEL.to_owned();
        let received = Received { tx, outputs, ancestors: None, path: mined, broadcast: true, label, now_ms };
        let value = wallet.receive(root, received)?;
        Ok((count, value))
    });
    match taken {
        Ok((count, value)) => {
            followed.spending = followed.spending.saturating_add(usize::from(!known));
            followed.came_back = followed.came_back.saturating_add(count);
            followed.value = followed.value.checked_add(value).unwrap_or(followed.value);
            Ok(())
        }
        // What the wallet knows better, for instance from a block that has just come.
        Err(WalletHandleError::Wallet(error)) => {
            tracing::warn!(%txid, %error, "a transaction that spends a coin of ours does not fit the wallet");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the input of `tx` that spends `outpoint` is signed with the coin's key.
fn is_signed(tx: &Transaction, outpoint: &OutPoint, coin: &TxOut) -> bool {
    let index = tx.inputs.iter().position(|input| &input.previous == outpoint);
    index.is_some_and(|index| verify_p2pkh(tx, &SighashCache::new(tx), index, coin).is_ok())
}

/// Finds the anchors and ads that this key has made, from a height upwards, and what came back to us from each. Their data outputs are what peers
/// that serve the chain can look for, so no index of scripts is needed. Some of what is found may be spent since: a wallet that is then
/// brought up to date with [`catch_up`] has every coin to which payments lead from one of these transactions.
///
/// # Errors
/// [`RecoveryError`].
pub async fn find_signposts(
    chain: &ChainAccess,
    identity: &Identity,
    gap: u64,
    from_height: u32,
) -> Result<Found, RecoveryError> {
    let mut window = KeyWindow::new(identity.key(), gap);
    let mut found = Found::default();
    // The longest prefix that can be asked for is 32 bytes: the tag, the version and 18 bytes of the key. An ad has its key further on, so
    // all ads are looked through.
    let mut anchors = PROOF_PREFIX.to_vec();
    anchors.push(PROOF_VERSION);
    let room = LONGEST_PREFIX.saturating_sub(anchors.len());
    anchors.extend(identity.public().to_bytes().iter().take(room));
    for prefix in [anchors.as_slice(), ADV_PREFIX] {
        let mut next = Some(ScanPosition::at_height(from_height));
        while let Some(from) = next {
            let (page, then) = chain.scan_page(prefix, from, MAX_SCANNED).await?;
            for scanned in page {
                let Some((tx, path)) = proven(&scanned.beef, &scanned.txid) else { continue };
                for input in &tx.inputs {
                    found.remove(&input.previous);
                }
                for output in window.recognise(&tx) {
                    found.add(tx.clone(), path.clone(), output)?;
                }
            }
            next = then;
        }
    }
    Ok(found.numbers(&window))
}

/// Notes that what happened since a restore has been looked up, where there was one.
///
/// # Errors
/// [`StoreError`].
pub fn mark_followed(store: &Store) -> Result<(), StoreError> {
    match store.read(restored::get)? {
        Some(note) if !note.followed => {
            store.write(|tx| restored::put(tx, &Restored { followed: true, ..note }))
        }
        _ => Ok(()),
    }
}

/// After a restore: brings the wallet up to date as soon as the chain can be asked, and notes it. Nothing to do otherwise.
/// Until it is done the wallet spends nothing twice, for the network refuses coins that are gone; it only has fewer coins than it could.
pub async fn follow_restored(
    store: Store,
    wallet: WalletHandle,
    chain: ChainAccess,
    identity: Identity,
    clock: Clock,
) {
    let mut again = TRY_AGAIN;
    loop {
        match store.read(restored::get) {
            Ok(Some(Restored { followed: false, .. })) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::error!(%error, "it is not known whether this home was restored");
                return;
            }
        }
        let outcome = match catch_up(&wallet, &chain, &identity, &clock, DEFAULT_GAP).await {
            // Who knows nothing of a coin has not said that nothing has spent it.
            Ok(followed) if followed.unknown > 0 => {
                let unknown = followed.unknown;
                tracing::warn!(
                    unknown,
                    "whoever was asked does not know some coins of the restored wallet; nothing is swept or sent of itself until somebody does, or `sensora wallet recover` has looked"
                );
                tokio::time::sleep(again).await;
                again = again.saturating_mul(2).min(LONGEST_AGAIN);
                continue;
            }
            Ok(followed) => mark_followed(&store).map(|()| followed).map_err(RecoveryError::from),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(followed) => {
                let Followed { spending, came_back, .. } = followed;
                tracing::info!(spending, came_back, "the restored wallet is up to date with the chain");
                return;
            }
            Err(error) => tracing::debug!(%error, "the restored wallet is not up to date with the chain yet"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

fn proven(beef: &[u8], txid: &Txid) -> Option<(Transaction, MerklePath)> {
    let beef = Beef::parse(beef, &BeefLimits::default()).ok()?;
    let path = beef.bump_of(txid)?.extract(&[*txid]).ok()?;
    Some((beef.transaction(txid)?.clone(), path))
}

impl Found {
    /// As [`Found::credit`], into a node's wallet, stored in one step.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub fn credit_to(
        &self,
        wallet: &WalletHandle,
        root: &PrivateKey,
        now_ms: i64,
    ) -> Result<Satoshis, RecoveryError> {
        wallet.update(|wallet: &mut Wallet, tx| {
            let mut new = self.clone();
            for txid in self.transactions.keys() {
                if store::wallet::is_archived_in(tx, txid)? {
                    new.transactions.remove(txid);
                }
            }
            Ok(new.credit(wallet, root, now_ms)?)
        })
    }
}
