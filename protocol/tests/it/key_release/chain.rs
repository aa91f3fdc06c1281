//! A chain that does as it is told: it takes transactions by the rules that matter here, mines, forgets and reorganises.

use sensora_chain::contract::verify_input;
use sensora_chain::header::{Header, HeaderChain, HeaderView};
use sensora_chain::{OutPoint, SighashCache, Transaction, TxOut, Txid};
use sensora_protocol::market::key_release::coin::{Coin, CoinView, Spend, Standing};

pub(crate) struct Model {
    base: u32,
    /// Transactions that were there before.
    ground: Transaction,
    blocks: Vec<Vec<Transaction>>,
    pool: Vec<Transaction>,
}

/// Headers as far as the model goes: the real ones, and numbers above them.
pub(crate) struct Headers<'a> {
    pub(crate) real: &'a HeaderChain,
    pub(crate) tip: u32,
}

impl HeaderView for Headers<'_> {
    fn header_at(&self, height: u32) -> Option<Header> {
        self.real.at(height)
    }

    fn tip_height(&self) -> u32 {
        self.tip
    }
}

impl Model {
    pub(crate) fn new(base: u32, ground: Transaction) -> Self {
        Self { base, ground, blocks: Vec::new(), pool: Vec::new() }
    }

    pub(crate) fn tip(&self) -> u32 {
        self.base + self.blocks.len() as u32
    }

    fn known(&self) -> impl Iterator<Item = &Transaction> {
        std::iter::once(&self.ground).chain(self.blocks.iter().flatten()).chain(&self.pool)
    }

    fn output(&self, at: OutPoint) -> Option<&TxOut> {
        let tx = self.known().find(|tx| tx.txid() == at.txid)?;
        tx.outputs.get(at.vout as usize)
    }

    pub(crate) fn spender(&self, at: OutPoint) -> Option<&Transaction> {
        self.known().find(|tx| tx.inputs.iter().any(|input| input.previous == at))
    }

    /// Takes a transaction, or has it already. The error says whether another one spends its coin.
    pub(crate) fn submit(&mut self, tx: &Transaction) -> Result<(), bool> {
        let txid = tx.txid();
        if self.known().any(|known| known.txid() == txid) {
            return Ok(());
        }
        let cache = SighashCache::new(tx);
        for (index, input) in tx.inputs.iter().enumerate() {
            let spent = self.output(input.previous).ok_or(false)?;
            if self.spender(input.previous).is_some() {
                return Err(true);
            }
            verify_input(tx, &cache, index, spent).map_err(|_| false)?;
        }
        if !tx.is_final_at(self.tip() + 1) {
            return Err(false);
        }
        self.pool.push(tx.clone());
        Ok(())
    }

    /// Mines a block, with what waits in the pool or without.
    pub(crate) fn mine(&mut self, with_pool: bool) {
        let block = if with_pool { std::mem::take(&mut self.pool) } else { Vec::new() };
        self.blocks.push(block);
    }

    /// The last `depth` blocks are replaced by one more of them, empty; what was in them waits again, or is forgotten.
    pub(crate) fn reorganise(&mut self, depth: usize, keep: bool) {
        let from = self.blocks.len().saturating_sub(depth);
        let gone: Vec<Transaction> = self.blocks.drain(from..).flatten().collect();
        let depth = depth.min(self.blocks.len() + depth - from);
        if keep {
            self.pool.splice(0..0, gone);
        }
        for _ in 0..=depth {
            self.blocks.push(Vec::new());
        }
        // What follows from something that is forgotten is forgotten too.
        loop {
            let before = self.pool.len();
            let lost: Vec<Txid> = self
                .pool
                .iter()
                .filter(|tx| tx.inputs.iter().any(|input| self.output(input.previous).is_none()))
                .map(Transaction::txid)
                .collect();
            self.pool.retain(|tx| !lost.contains(&tx.txid()));
            if self.pool.len() == before {
                return;
            }
        }
    }

    fn height(&self, txid: &Txid) -> Option<u32> {
        let at = self.blocks.iter().position(|block| block.iter().any(|tx| &tx.txid() == txid))?;
        Some(self.base + 1 + at as u32)
    }

    pub(crate) fn standing(&self, txid: &Txid) -> Standing {
        match self.height(txid) {
            Some(height) => Standing::Mined(height),
            None if self.pool.iter().any(|tx| &tx.txid() == txid) => Standing::Seen,
            None => Standing::Unknown,
        }
    }

    pub(crate) fn view(&self, coin: &Coin) -> CoinView {
        let spender = self.spender(OutPoint { txid: coin.txid, vout: coin.vout });
        let spend = spender.map(|tx| Spend { transaction: tx.clone(), height: self.height(&tx.txid()) });
        CoinView { tip: self.tip(), coin: self.standing(&coin.txid), spend }
    }
}
