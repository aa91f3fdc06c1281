//! The faucet's coins: finding them on the chain, cutting them, paying with them.

use std::collections::HashMap;

use serde_json::json;

use super::{Regtest, RegtestError};
use crate::contract::payment::{self, sign_input};
use crate::header::Tip;
use crate::sources::dev::COINBASE_MATURITY;
use crate::sources::service::SourceError;
use crate::{BlockHash, OutPoint, Satoshis, Script, Transaction, TxIn, TxOut};

/// How many of the newest blocks are searched for the faucet's coins, about 1 ms each. What lies deeper is left: up to
/// this height new blocks bring more, and above it regtest brings nothing any more, so that the coins which are still
/// used are in newer blocks.
const SEARCHED: u32 = 5_000;

/// The most coins kept in memory, smallest of them forgotten first.
const MAX_COINS: usize = 20_000;

/// The most coins of one payment.
const MAX_INPUTS: usize = 200;

/// A coin above this is cut …
const CUT_ABOVE: u64 = 50_000_000;
/// … into this many when it is spent: enough for many small payments between two blocks.
const CUT_INTO: usize = 50;
/// How many of the faucet's coins are to be there for small payments.
const WANTED_COINS: usize = 25;

/// The most rounds of mining for one payment: on a new chain one for the coinbases and one for the cut, and one more
/// if a reorganisation comes between.
const ROUNDS: usize = 4;

/// A coin of the faucet.
#[derive(Clone, Copy, Debug)]
struct Coin {
    sat: u64,
    /// The height of its block; `None` while it waits for one.
    height: Option<u32>,
    coinbase: bool,
}

/// What the faucet has, as far as the chain was looked at.
#[derive(Debug, Default)]
pub(super) struct Coins {
    have: HashMap<OutPoint, Coin>,
    /// The last block that was looked at; if it is gone, all is looked at again.
    seen: Option<(u32, BlockHash)>,
}

impl Coins {
    /// Coins that can be spent in the next block and are no coinbases.
    fn ready(&self) -> Vec<(OutPoint, u64)> {
        let ready = self.have.iter().filter(|(_, coin)| coin.height.is_some() && !coin.coinbase);
        ready.map(|(outpoint, coin)| (*outpoint, coin.sat)).collect()
    }

    /// Coinbases that can be spent in the block after `tip`.
    fn ripe(&self, tip: u32) -> Vec<(OutPoint, u64)> {
        let old = |height: u32| tip.saturating_add(1).saturating_sub(height) >= COINBASE_MATURITY;
        let ripe = self.have.iter().filter(|(_, coin)| coin.coinbase && coin.height.is_some_and(old));
        ripe.map(|(outpoint, coin)| (*outpoint, coin.sat)).collect()
    }

    fn total(&self) -> u64 {
        self.have.values().fold(0u64, |sum, coin| sum.saturating_add(coin.sat))
    }

    /// Takes in the outputs of a transaction that are the faucet's, and lets go of what it spends.
    fn follow(&mut self, tx: &Transaction, own: &Script, height: Option<u32>) {
        for input in &tx.inputs {
            self.have.remove(&input.previous);
        }
        let (txid, coinbase) = (tx.txid(), tx.is_coinbase());
        for (vout, output) in (0u32..).zip(&tx.outputs) {
            let outpoint = OutPoint { txid, vout };
            let sat = output.value.as_u64();
            if output.locking == *own && sat > 0 {
                self.have.insert(outpoint, Coin { sat, height, coinbase });
            }
        }
        while self.have.len() > MAX_COINS {
            let smallest = self.have.iter().min_by_key(|(_, coin)| coin.sat).map(|(outpoint, _)| *outpoint);
            match smallest {
                Some(outpoint) => self.have.remove(&outpoint),
                None => break,
            };
        }
    }
}

impl Regtest {
    pub(super) async fn fund(&self, coins: &mut Coins, amount: Satoshis) -> Result<(), RegtestError> {
        for _ in 0..ROUNDS {
            let tip = self.look(coins).await?;
            let ready = coins.ready();
            let sum = ready.iter().fold(0u64, |sum, (_, sat)| sum.saturating_add(*sat));
            // Half as reserve: what a payment changes comes back only with the next block.
            if ready.len() >= WANTED_COINS && sum / 2 >= amount.as_u64() {
                return Ok(());
            }
            let mut ripe = coins.ripe(tip.height);
            if ripe.is_empty() {
                // One more than it takes, so that the next round has something to cut.
                self.mine_now(COINBASE_MATURITY.saturating_add(1)).await?;
                continue;
            }
            ripe.sort_by_key(|(outpoint, sat)| (std::cmp::Reverse(*sat), *outpoint));
            ripe.truncate(MAX_INPUTS);
            let tx = self.build(&ripe, None)?;
            self.send(&tx).await?;
            coins.follow(&tx, &self.own, None);
            self.mine_now(1).await?;
        }
        self.look(coins).await?;
        match coins.ready().iter().fold(0u64, |sum, (_, sat)| sum.saturating_add(*sat)) {
            sum if sum >= amount.as_u64() => Ok(()),
            available => Err(empty(available, amount)),
        }
    }

    pub(super) async fn pay(
        &self,
        coins: &mut Coins,
        locking: &Script,
        amount: Satoshis,
    ) -> Result<Transaction, RegtestError> {
        let paid = TxOut { value: amount, locking: locking.clone() };
        let mut wanted = amount;
        for round in 0..ROUNDS {
            self.look(coins).await?;
            let fee = |inputs: usize| self.fee(inputs, &paid).as_u64();
            let enough = |inputs: usize| amount.as_u64().saturating_add(fee(inputs));
            wanted = Satoshis::from_sat(enough(1));
            if let Some(chosen) = choose(coins.ready(), enough) {
                // Others may have spent them, or a reorganisation taken them away.
                let gone = self.gone(&chosen).await?;
                if gone.is_empty() {
                    let tx = self.build(&chosen, Some(&paid))?;
                    self.send(&tx).await?;
                    coins.follow(&tx, &self.own, None);
                    return Ok(tx);
                }
                for outpoint in gone {
                    coins.have.remove(&outpoint);
                }
                coins.seen = None;
                continue;
            }
            let waiting = coins.have.values().any(|coin| coin.height.is_none());
            if round == 0 && waiting {
                // What the last payments changed is enough once it is mined.
                self.mine_now(1).await?;
            } else {
                self.fund(coins, wanted).await?;
            }
        }
        Err(empty(coins.total(), wanted))
    }

    /// Looks at the blocks that have come since, from where the chain is still the same.
    async fn look(&self, coins: &mut Coins) -> Result<Tip, RegtestError> {
        let tip = self.node.tip().await?;
        let known = coins.seen;
        if known == Some((tip.height, tip.hash)) {
            return Ok(tip);
        }
        // A block that is no longer where it was takes all that is known with it: it is a chain of small blocks.
        let still = match known {
            Some((height, hash)) => {
                let headers = self.node.headers(height, 1).await?;
                headers.first().is_some_and(|header| header.hash() == hash)
            }
            None => false,
        };
        let first = match known {
            Some((height, _)) if still => height.saturating_add(1),
            _ => {
                *coins = Coins::default();
                tip.height.saturating_sub(SEARCHED.saturating_sub(1)).max(1)
            }
        };
        for height in first..=tip.height {
            let Some(block) = self.node.block(height).await? else { break };
            for tx in &block.txs {
                coins.follow(tx, &self.own, Some(height));
            }
            coins.seen = Some((height, block.header.hash()));
        }
        if !still {
            // Coins whose spending waits, or lies deeper than what was searched.
            let all: Vec<(OutPoint, u64)> =
                coins.have.iter().map(|(outpoint, coin)| (*outpoint, coin.sat)).collect();
            for some in all.chunks(MAX_INPUTS) {
                for outpoint in self.gone(some).await? {
                    coins.have.remove(&outpoint);
                }
            }
        }
        Ok(tip)
    }

    /// Which of these are not unspent on the chain, or are spent by what waits.
    async fn gone(&self, coins: &[(OutPoint, u64)]) -> Result<Vec<OutPoint>, SourceError> {
        let questions = coins.iter().map(|(at, _)| json!([at.txid, at.vout, true])).collect();
        let answers =
            self.node.client.batch("gettxout", questions, MAX_INPUTS.saturating_mul(super::FRAME)).await?;
        let mut gone = Vec::new();
        for ((outpoint, _), answer) in coins.iter().zip(answers) {
            let found: Option<serde::de::IgnoredAny> = answer?;
            if found.is_none() {
                gone.push(*outpoint);
            }
        }
        Ok(gone)
    }

    /// What a payment costs with as many outputs as it can have.
    fn fee(&self, inputs: usize, paid: &TxOut) -> Satoshis {
        let change = payment::OUTPUT_SIZE.saturating_mul(CUT_INTO);
        let spending = payment::INPUT_SIZE.saturating_mul(inputs);
        // Version, lock time, counts.
        self.rate.fee(spending.saturating_add(change).saturating_add(paid.size()).saturating_add(16))
    }

    /// Signs a payment of `paid` and change, or of change alone.
    fn build(&self, chosen: &[(OutPoint, u64)], paid: Option<&TxOut>) -> Result<Transaction, RegtestError> {
        let total = chosen.iter().fold(0u64, |sum, (_, sat)| sum.saturating_add(*sat));
        let fee = self.fee(chosen.len(), paid.unwrap_or(&TxOut::default())).as_u64();
        let spent = paid.map_or(0, |paid| paid.value.as_u64()).saturating_add(fee);
        let change = total.checked_sub(spent).ok_or_else(|| empty(total, Satoshis::from_sat(spent)))?;
        let mut outputs: Vec<TxOut> = paid.into_iter().cloned().collect();
        for sat in pieces(change) {
            outputs.push(TxOut { value: Satoshis::from_sat(sat), locking: self.own.clone() });
        }
        let inputs = chosen.iter().map(|(outpoint, _)| TxIn::new(*outpoint)).collect();
        let mut tx = Transaction::new(inputs, outputs);
        for (index, (_, sat)) in chosen.iter().enumerate() {
            let spent = TxOut { value: Satoshis::from_sat(*sat), locking: self.own.clone() };
            sign_input(&mut tx, index, &spent, &self.key).map_err(|e| RegtestError::Refused {
                what: "a payment of the faucet",
                reason: e.to_string(),
            })?;
        }
        Ok(tx)
    }
}

fn empty(available: u64, wanted: Satoshis) -> RegtestError {
    RegtestError::FaucetEmpty { available: Satoshis::from_sat(available), wanted }
}

/// Coins worth `enough(how many)`: the smallest that suffices alone, else several, largest first.
fn choose(mut coins: Vec<(OutPoint, u64)>, enough: impl Fn(usize) -> u64) -> Option<Vec<(OutPoint, u64)>> {
    coins.sort_by_key(|(outpoint, sat)| (*sat, *outpoint));
    if let Some(one) = coins.iter().find(|(_, sat)| *sat >= enough(1)) {
        return Some(vec![*one]);
    }
    coins.reverse();
    let mut sum = 0u64;
    for count in 1..=coins.len().min(MAX_INPUTS) {
        sum = sum.saturating_add(coins.get(count.saturating_sub(1)).map_or(0, |(_, sat)| *sat));
        if sum >= enough(count) {
            coins.truncate(count);
            return Some(coins);
        }
    }
    None
}

/// Large change is cut into coins of about the same size.
fn pieces(change: u64) -> Vec<u64> {
    const COUNT: u64 = CUT_INTO as u64;
    if change == 0 {
        return Vec::new();
    }
    if change <= CUT_ABOVE {
        return vec![change];
    }
    let mut pieces = vec![change / COUNT; CUT_INTO];
    if let Some(first) = pieces.first_mut() {
        *first = first.saturating_add(change % COUNT);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Txid;

    fn coin(n: u8, sat: u64) -> (OutPoint, u64) {
        (OutPoint { txid: Txid([n; 32]), vout: 0 }, sat)
    }

    #[test]
    fn the_smallest_coin_that_suffices_is_taken_and_else_the_largest_together() {
        let coins = vec![coin(1, 500), coin(2, 100), coin(3, 900)];
        let pick = |amount: u64| {
            choose(coins.clone(), |n| amount + n as u64)
                .map(|c| c.iter().map(|(_, sat)| *sat).collect::<Vec<_>>())
        };
        assert_eq!(pick(99), Some(vec![100]));
        assert_eq!(pick(100), Some(vec![500]));
        assert_eq!(pick(1_000), Some(vec![900, 500]));
        assert_eq!(pick(1_497), Some(vec![900, 500, 100]));
        assert_eq!(pick(1_498), None);
    }

    #[test]
    fn cutting_loses_nothing() {
        for change in [0, 1, CUT_ABOVE, CUT_ABOVE + 1, 4_999_999_999] {
            let pieces = pieces(change);
            assert_eq!(pieces.iter().sum::<u64>(), change);
            assert!(pieces.len() <= CUT_INTO && pieces.iter().all(|sat| *sat > 0));
        }
    }

    #[test]
    fn a_coinbase_ripens_and_is_not_for_payments() {
        let own = Script::p2pkh(&[1; 20]);
        let paid = TxOut { value: Satoshis::from_sat(50), locking: own.clone() };
        let coinbase = Transaction::new(vec![TxIn::new(OutPoint::NULL)], vec![paid.clone()]);
        let mut coins = Coins::default();
        coins.follow(&coinbase, &own, Some(7));
        assert!(coins.ready().is_empty() && coins.ripe(105).is_empty());
        assert_eq!(coins.ripe(106).len(), 1);
        let at = OutPoint { txid: coinbase.txid(), vout: 0 };
        let spend = Transaction::new(vec![TxIn::new(at)], vec![paid]);
        coins.follow(&spend, &own, None);
        assert!(coins.ripe(106).is_empty() && coins.ready().is_empty());
        coins.follow(&spend, &own, Some(107));
        assert_eq!(coins.ready().len(), 1);
    }
}
