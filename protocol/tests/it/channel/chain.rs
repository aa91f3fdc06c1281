//! A chain as the two parties of a channel see it: a mempool that takes what comes first, blocks, and reorganisations.

use std::collections::HashMap;

use sensora_chain::contract::verify_input;
use sensora_chain::{OutPoint, Satoshis, Script, SighashCache, Transaction, TxOut, Txid};

/// Why the network does not take a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    DoubleSpent,
    NotYet,
    Invalid(String),
}

#[derive(Clone, Default)]
pub(crate) struct Chain {
    /// Outputs that were there before the first block.
    coins: HashMap<OutPoint, TxOut>,
    first: u32,
    blocks: Vec<Vec<Transaction>>,
    mempool: Vec<Transaction>,
}

impl Chain {
    pub(crate) fn new(first: u32) -> Self {
        Self { first, ..Self::default() }
    }

    pub(crate) fn give(&mut self, outpoint: OutPoint, output: TxOut) {
        self.coins.insert(outpoint, output);
    }

    pub(crate) fn tip(&self) -> u32 {
        self.first + u32::try_from(self.blocks.len()).unwrap()
    }

    fn all(&self) -> impl Iterator<Item = &Transaction> {
        self.blocks.iter().flatten().chain(&self.mempool)
    }

    pub(crate) fn output(&self, outpoint: &OutPoint) -> Option<TxOut> {
        let made = self.all().find(|tx| tx.txid() == outpoint.txid);
        made.map(|tx| tx.outputs[outpoint.vout as usize].clone())
            .or_else(|| self.coins.get(outpoint).cloned())
    }

    pub(crate) fn spender(&self, outpoint: &OutPoint) -> Option<&Transaction> {
        self.all().find(|tx| tx.inputs.iter().any(|input| &input.previous == outpoint))
    }

    /// What lies on a script and is not spent.
    pub(crate) fn balance(&self, script: &Script) -> Satoshis {
        let made = self.all().flat_map(|tx| {
            let txid = tx.txid();
            tx.outputs.iter().zip(0..).map(move |(output, vout)| (OutPoint { txid, vout }, output))
        });
        let coins = self.coins.iter().map(|(outpoint, output)| (*outpoint, output));
        let ours = made
            .chain(coins)
            .filter(|(outpoint, output)| &output.locking == script && self.spender(outpoint).is_none());
        Satoshis::sum(ours.map(|(_, output)| output.value)).unwrap()
    }

    pub(crate) fn height_of(&self, txid: &Txid) -> Option<u32> {
        let at = self.blocks.iter().position(|block| block.iter().any(|tx| &tx.txid() == txid))?;
        Some(self.first + 1 + u32::try_from(at).unwrap())
    }

    /// The mined transaction that spends an output, with its height.
    pub(crate) fn spent(&self, outpoint: &OutPoint) -> Option<(Transaction, u32)> {
        let tx = self.spender(outpoint)?;
        Some((tx.clone(), self.height_of(&tx.txid())?))
    }

    pub(crate) fn submit(&mut self, tx: &Transaction) -> Result<(), Refused> {
        if self.all().any(|known| known.txid() == tx.txid()) {
            return Ok(());
        }
        if !tx.is_final_at(self.tip() + 1) && !tx.is_final() {
            return Err(Refused::NotYet);
        }
        let cache = SighashCache::new(tx);
        for (index, input) in tx.inputs.iter().enumerate() {
            if self.spender(&input.previous).is_some() {
                return Err(Refused::DoubleSpent);
            }
            let Some(spent) = self.output(&input.previous) else { return Err(Refused::DoubleSpent) };
            verify_input(tx, &cache, index, &spent).map_err(|error| Refused::Invalid(error.to_string()))?;
        }
        self.mempool.push(tx.clone());
        Ok(())
    }

    pub(crate) fn mine(&mut self) {
        let block = std::mem::take(&mut self.mempool);
        self.blocks.push(block);
    }

    /// A longer branch replaces the newest blocks. What was in them waits again, or is forgotten by everybody.
    pub(crate) fn reorganise(&mut self, depth: usize, forget: bool) {
        let keep = self.blocks.len().saturating_sub(depth);
        let lost: Vec<Transaction> = self.blocks.drain(keep..).flatten().collect();
        let replaced = depth.min(self.blocks.len() + depth - keep);
        let waiting = std::mem::take(&mut self.mempool);
        for _ in 0..=replaced {
            self.blocks.push(Vec::new());
        }
        let again = if forget { Vec::new() } else { lost };
        for tx in again.iter().chain(&waiting) {
            // A child of what was forgotten, or a refund that is early again, is forgotten with it.
            drop(self.submit(tx));
        }
    }
}
