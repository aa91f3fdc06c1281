//! Free coins: what the chain's miner earned, given to whoever asks.
//!
//! The key is derived from a text that stands here, so everybody has it. That is meant: these coins are worth nothing
//! and exist on no other chain.

use redb::ReadableTable;

use super::store::{self, Tables};
use super::{COINBASE_MATURITY, DevChainError, SPREAD_ABOVE, SPREAD_INTO};
use crate::contract::payment::{self, sign_input};
use crate::encode::sha256;
use crate::{FeeRate, OutPoint, PrivateKey, Satoshis, Script, Transaction, TxIn, TxOut};

/// The text whose SHA-256 is the faucet's private key.
const KEY_LABEL: &[u8] = b"sensora development chain faucet: worthless on purpose";

/// The most coins of one payment.
const MAX_COINS: usize = 200;

/// The faucet's key, the same on every development chain.
pub(super) fn key() -> Result<PrivateKey, DevChainError> {
    PrivateKey::from_bytes(sha256(KEY_LABEL)).map_err(|_| DevChainError::Corrupt("the faucet has no key"))
}

/// A coin of the faucet.
struct Coin {
    unmined: bool,
    sat: u64,
    outpoint: OutPoint,
}

impl Tables<'_> {
    /// Makes and signs a payment of `amount` to `locking` from the faucet's coins. It is not submitted yet.
    pub(super) fn faucet_payment(
        &self,
        key: &PrivateKey,
        locking: &Script,
        amount: Satoshis,
        rate: FeeRate,
    ) -> Result<Transaction, DevChainError> {
        let own = Script::p2pkh(&key.public().hash160());
        let paid = TxOut { value: amount, locking: locking.clone() };
        // Version, lock time, counts; the fee is reckoned with all change outputs there may be.
        let fixed = 16usize.saturating_add(paid.size());
        let change_bytes = payment::OUTPUT_SIZE.saturating_mul(SPREAD_INTO);
        let fee = |coins: usize| {
            let size = coins.saturating_mul(payment::INPUT_SIZE).saturating_add(change_bytes);
            rate.fee(fixed.saturating_add(size)).as_u64()
        };
        let chosen = self.faucet_coins(|coins| amount.as_u64().saturating_add(fee(coins)))?;
        let total = chosen.iter().fold(0u64, |sum, coin| sum.saturating_add(coin.sat));
        let change =
            total.saturating_sub(amount.as_u64()).checked_sub(fee(chosen.len())).ok_or(store::MISSING)?;
        let mut outputs = vec![paid];
        for sat in pieces(change) {
            outputs.push(TxOut { value: store::sat(sat)?, locking: own.clone() });
        }
        let inputs = chosen.iter().map(|coin| TxIn::new(coin.outpoint)).collect();
        let mut tx = Transaction::new(inputs, outputs);
        for (index, coin) in chosen.iter().enumerate() {
            let spent = TxOut { value: store::sat(coin.sat)?, locking: own.clone() };
            sign_input(&mut tx, index, &spent, key).map_err(|error| super::Reject::Script(error.into()))?;
        }
        Ok(tx)
    }

    /// Coins worth `needed(how many)`: the smallest mined one that suffices, then the smallest unmined one, then
    /// several, largest first.
    fn faucet_coins(&self, needed: impl Fn(usize) -> u64) -> Result<Vec<Coin>, DevChainError> {
        let mut coins = Vec::new();
        for line in self.faucet.iter()? {
            let (key, value) = line?;
            let (sat, coinbase) = value.value();
            coins.push((store::outpoint_of(key.value()), sat, coinbase));
        }
        let (tip, _) = store::tip(&self.headers)?;
        let mut usable = Vec::new();
        for (outpoint, sat, coinbase) in coins {
            let place = self.places.get(&outpoint.txid.0)?.map(|guard| guard.value().0);
            let mature = |height: u32| tip.saturating_add(1).saturating_sub(height) >= COINBASE_MATURITY;
            if !coinbase || place.is_some_and(mature) {
                usable.push(Coin { unmined: place.is_none(), sat, outpoint });
            }
        }
        usable.sort_by_key(|coin| (coin.unmined, coin.sat, coin.outpoint));
        if let Some(index) = usable.iter().position(|coin| coin.sat >= needed(1)) {
            return Ok(vec![usable.swap_remove(index)]);
        }
        usable.sort_by(|a, b| b.sat.cmp(&a.sat).then(a.outpoint.cmp(&b.outpoint)));
        let mut sum = 0u64;
        for count in 1..=usable.len().min(MAX_COINS) {
            sum = sum.saturating_add(usable.get(count.saturating_sub(1)).map_or(0, |coin| coin.sat));
            if sum >= needed(count) {
                usable.truncate(count);
                return Ok(usable);
            }
        }
        Err(DevChainError::FaucetEmpty { available: store::sat(sum)? })
    }
}

/// Large change is cut, so that many payments can be made between two blocks, each from a mined coin.
fn pieces(change: u64) -> Vec<u64> {
    if change == 0 {
        return Vec::new();
    }
    if change < SPREAD_ABOVE {
        return vec![change];
    }
    const COUNT: u64 = SPREAD_INTO as u64;
    let mut pieces = vec![change / COUNT; SPREAD_INTO];
    if let Some(first) = pieces.first_mut() {
        *first = first.saturating_add(change % COUNT);
    }
    pieces
}
