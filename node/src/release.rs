//! What the chain shows of coins that wait for a key, for both sides of a batch.
//!
//! Nobody's word takes a conclusion: what is said to be mined is proven, and a spend that is in no block counts only where its script
//! would be valid, or where it shows the key.

use sensora_chain::contract::key_release::{KeyRelease, KeyReleaseSpend};
use sensora_chain::contract::verify_input;
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{KeySource, OwnedOutput, Purpose, Received, Wallet};
use sensora_chain::{OutPoint, PrivateKey, SighashCache, Transaction, Txid};
use sensora_protocol::market::key_release::coin::{CoinView, Spend, Standing};

use crate::chain_access::{ChainAccess, ChainError, SpentBy, TxStanding};
use crate::store;
use crate::wallet::WalletHandleError;

/// A coin that is looked after.
pub(crate) struct Watched {
    /// The contract it waits in.
    pub(crate) release: KeyRelease,
    /// What we have sent to spend it. Whoever answers may have forgotten an old spend, but can be asked for its proof.
    pub(crate) ours: Option<Transaction>,
}

/// What is seen of a coin.
pub(crate) struct Seen {
    /// For the state machine.
    pub(crate) view: CoinView,
    /// Proof of the transaction that holds the coin.
    pub(crate) coin_path: Option<MerklePath>,
    /// Proof of the transaction that spends it.
    pub(crate) spend_path: Option<MerklePath>,
}

impl Seen {
    /// What is seen where there is no coin, or nobody to ask about it: how far the chain is.
    pub(crate) fn nothing(chain: &ChainAccess) -> Self {
        let view = CoinView { tip: chain.headers().tip_height(), coin: Standing::Unknown, spend: None };
        Self { view, coin_path: None, spend_path: None }
    }
}

/// Asks the chain about coins; one answer for each, in their order.
///
/// # Errors
/// [`ChainError`] where it cannot be asked: then nothing is known.
pub(crate) async fn look(chain: &ChainAccess, coins: &[Watched]) -> Result<Vec<Seen>, ChainError> {
    let outpoints: Vec<OutPoint> = coins.iter().map(|coin| coin.release.outpoint()).collect();
    let holders: Vec<Txid> = outpoints.iter().map(|outpoint| outpoint.txid).collect();
    let spent = chain.spent(&outpoints).await?;
    let held = chain.proofs(&holders).await?;
    let mut spends: Vec<Option<(Transaction, Option<MerklePath>)>> = Vec::with_capacity(coins.len());
    let mut ours = Vec::new();
    for (index, coin) in coins.iter().enumerate() {
        let spend = match spent.get(index) {
            Some((_, SpentBy::Transaction { tx, mined })) => Some((tx.clone(), mined.clone())),
            _ => None,
        };
        let spend = spend.filter(|(tx, mined)| mined.is_some() || is_valid(&coin.release, tx));
        if let (Some(own), None | Some((_, None))) = (&coin.ours, &spend) {
            ours.push((index, own.clone(), own.txid()));
        }
        spends.push(spend);
    }
    if !ours.is_empty() {
        let txids: Vec<Txid> = ours.iter().map(|(_, _, txid)| *txid).collect();
        for ((index, own, _), (_, standing)) in ours.into_iter().zip(chain.proofs(&txids).await?) {
            let Some(spend) = spends.get_mut(index) else { continue };
            match standing {
                TxStanding::Mined(path) => *spend = Some((own, Some(path))),
                TxStanding::Mempool if spend.is_none() => *spend = Some((own, None)),
                TxStanding::Mempool | TxStanding::Unknown => {}
            }
        }
    }
    // Last, so that no proof is of a block above it.
    let tip = chain.headers().tip_height();
    let seen = held.into_iter().zip(spends).map(|((_, held), spend)| {
        let (coin, coin_path) = match held {
            TxStanding::Unknown => (Standing::Unknown, None),
            TxStanding::Mempool => (Standing::Seen, None),
            TxStanding::Mined(path) => (Standing::Mined(path.block_height()), Some(path)),
        };
        let (spend, spend_path) = match spend {
            Some((transaction, path)) => {
                let height = path.as_ref().map(MerklePath::block_height);
                (Some(Spend { transaction, height }), path)
            }
            None => (None, None),
        };
        Seen { view: CoinView { tip, coin, spend }, coin_path, spend_path }
    });
    Ok(seen.collect())
}

/// Whether a spend that is in no block can be believed: it shows the key, or miners would take it for what it spends.
fn is_valid(release: &KeyRelease, tx: &Transaction) -> bool {
    if matches!(release.spend_in(tx), Some(KeyReleaseSpend::Claim { .. })) {
        return true;
    }
    let index = tx.inputs.iter().position(|input| input.previous == release.outpoint());
    index.is_some_and(|index| verify_input(tx, &SighashCache::new(tx), index, release.output()).is_ok())
}

/// Takes the mined claim or refund of a coin into the wallet.
///
/// # Errors
/// [`WalletHandleError`].
pub(crate) fn credit(
    wallet: &mut Wallet,
    tx: &redb::WriteTransaction,
    root: &PrivateKey,
    earned: Earned,
) -> Result<(), WalletHandleError> {
    let Earned { transaction, path, counterparty, invoice, purpose, label, now_ms } = earned;
    if store::wallet::is_archived_in(tx, &transaction.txid())? {
        return Ok(());
    }
    let key = KeySource::peer(counterparty, invoice);
    let script = key.locking_script(root);
    let at = transaction.outputs.iter().position(|output| output.locking == script);
    let Some(vout) = at.and_then(|at| u32::try_from(at).ok()) else {
        // We sign none that does not pay us, so another holder of our key has.
        tracing::warn!(txid = %transaction.txid(), "what took a coin pays no key of this order");
        return Ok(());
    };
    let received = Received {
        tx: transaction,
        outputs: vec![OwnedOutput { vout, key, purpose }],
        ancestors: None,
        path,
        broadcast: true,
        label,
        now_ms,
    };
    wallet.receive(root, received)?;
    Ok(())
}

/// A mined claim or refund.
pub(crate) struct Earned {
    pub(crate) transaction: Transaction,
    pub(crate) path: Option<MerklePath>,
    pub(crate) counterparty: PublicKey,
    /// Under which our key is derived.
    pub(crate) invoice: String,
    pub(crate) purpose: Purpose,
    pub(crate) label: String,
    pub(crate) now_ms: i64,
}
