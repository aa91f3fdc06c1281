//! Transactions: their bytes, their ids, and the Extended Format (BRC-30) that carries the spent outputs along.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::amount::Satoshis;
use crate::encode::{DecodeError, Reader, sha256d, varint_len, write_var_bytes, write_varint};
use crate::id::{OutPoint, Txid};
use crate::script::Script;

/// The version of every transaction made here. Since the Chronicle rules, version 2 gives up the consensus rules
/// against malleability: anybody could change the id of such a transaction on its way.
pub const VERSION: u32 = 1;

/// An input with this sequence number does not hold the transaction back; if all have it, `lock_time` is void.
pub const SEQUENCE_FINAL: u32 = 0xffff_ffff;

/// Lock times from here on are Unix times, those below are heights of blocks (consensus).
pub const LOCK_TIME_IS_TIME: u32 = 500_000_000;

/// Six bytes after the version that tell the Extended Format (BRC-30) from the plain one.
const EXTENDED_MARKER: [u8; 6] = [0, 0, 0, 0, 0, 0xef];

/// Outpoint, empty script, sequence.
const MIN_INPUT_SIZE: usize = OutPoint::SIZE + 1 + 4;
/// Value, empty script.
const MIN_OUTPUT_SIZE: usize = 8 + 1;

/// An input: which output it spends, and the script that may do so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TxIn {
    /// The output that is spent.
    pub previous: OutPoint,
    /// The script that satisfies the spent output's locking script.
    pub unlocking: Script,
    /// [`SEQUENCE_FINAL`] unless `lock_time` is to have an effect.
    pub sequence: u32,
}

impl TxIn {
    /// An input that spends `previous`, not signed yet, final.
    pub const fn new(previous: OutPoint) -> Self {
        TxIn { previous, unlocking: Script::new(Vec::new()), sequence: SEQUENCE_FINAL }
    }
}

/// An output: an amount, and what it takes to spend it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TxOut {
    /// The amount.
    pub value: Satoshis,
    /// The script that an input has to satisfy.
    pub locking: Script,
}

impl TxOut {
    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        8usize.saturating_add(var_len(self.locking.len()))
    }

    /// Appends value and script.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.value.as_u64().to_le_bytes());
        write_var_bytes(out, self.locking.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = reader.u64("an output")?;
        let value = Satoshis::new(value)
            .map_err(|_| DecodeError::OutOfRange { what: "the value of an output", value })?;
        Ok(TxOut { value, locking: Script::new(reader.var_bytes("a locking script")?.to_vec()) })
    }
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// [`VERSION`] for every transaction made here.
    pub version: u32,
    /// What is spent.
    pub inputs: Vec<TxIn>,
    /// What is made.
    pub outputs: Vec<TxOut>,
    /// 0, or the first height (below 500,000,000) or Unix time at which the transaction may be mined.
    pub lock_time: u32,
}

impl Transaction {
    /// A transaction of [`VERSION`] without lock time.
    pub const fn new(inputs: Vec<TxIn>, outputs: Vec<TxOut>) -> Self {
        Transaction { version: VERSION, inputs, outputs, lock_time: 0 }
    }

    /// Parses exactly one transaction.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are no transaction, carry a value above [`Satoshis::MAX`], or go on after it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let tx = Self::read(&mut reader)?;
        reader.finish("the transaction")?;
        Ok(tx)
    }

    /// Reads one transaction out of a longer run of bytes.
    ///
    /// # Errors
    /// As [`Transaction::from_bytes`].
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = reader.u32("a transaction's version")?;
        let count = reader.count(MIN_INPUT_SIZE, "inputs")?;
        let mut inputs = Vec::with_capacity(count);
        for _ in 0..count {
            inputs.push(read_input(reader)?);
        }
        let (outputs, lock_time) = read_tail(reader)?;
        Ok(Transaction { version, inputs, outputs, lock_time })
    }

    /// The transaction's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        self.write(&mut out);
        out
    }

    /// Appends the transaction's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.to_le_bytes());
        write_varint(out, self.inputs.len() as u64);
        for input in &self.inputs {
            write_input(out, input);
        }
        self.write_tail(out);
    }

    /// The transaction's id.
    pub fn txid(&self) -> Txid {
        Txid(sha256d(&self.to_bytes()))
    }

    /// Length of [`Transaction::to_bytes`].
    pub fn size(&self) -> usize {
        let inputs = self
            .inputs
            .iter()
            .map(|i| OutPoint::SIZE.saturating_add(4).saturating_add(var_len(i.unlocking.len())));
        let outputs = self.outputs.iter().map(TxOut::size);
        inputs
            .chain(outputs)
            .fold(8usize, usize::saturating_add)
            .saturating_add(varint_len(self.inputs.len() as u64))
            .saturating_add(varint_len(self.outputs.len() as u64))
    }

    /// The sum of all outputs.
    ///
    /// # Errors
    /// [`crate::AmountError`] if it is more than all coins.
    pub fn output_sum(&self) -> Result<Satoshis, crate::AmountError> {
        Satoshis::sum(self.outputs.iter().map(|o| o.value))
    }

    /// Whether this makes new coins: one input that refers to no transaction.
    pub fn is_coinbase(&self) -> bool {
        matches!(self.inputs.as_slice(), [input] if input.previous == OutPoint::NULL)
    }

    /// Whether the transaction can be mined at any height and time: no lock time, or no input that enables it.
    pub fn is_final(&self) -> bool {
        self.lock_time == 0 || self.inputs.iter().all(|i| i.sequence == SEQUENCE_FINAL)
    }

    /// Whether the transaction can be in the block at `height`, as far as heights can tell: final anyway, or locked to
    /// a height below. A lock to a time is decided by the median time of blocks, which a height does not say.
    pub fn is_final_at(&self, height: u32) -> bool {
        self.is_final() || (self.lock_time < LOCK_TIME_IS_TIME && self.lock_time < height)
    }

    /// The Extended Format (BRC-30): each input is followed by the value and locking script that it spends.
    /// `spent` has one output for each input, in the same order; with any other number the answer is `None`.
    pub fn to_extended(&self, spent: &[TxOut]) -> Option<Vec<u8>> {
        if spent.len() != self.inputs.len() {
            return None;
        }
        let mut out =
            Vec::with_capacity(self.size().saturating_add(spent.iter().map(TxOut::size).sum::<usize>()));
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&EXTENDED_MARKER);
        write_varint(&mut out, self.inputs.len() as u64);
        for (input, spent) in self.inputs.iter().zip(spent) {
            write_input(&mut out, input);
            spent.write(&mut out);
        }
        self.write_tail(&mut out);
        Some(out)
    }

    /// Parses exactly one transaction in Extended Format; the second value are the spent outputs, one for each input.
    /// They are the sender's claim: only the digest of a signature, or the parent transaction, proves them.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not in Extended Format.
    pub fn from_extended(bytes: &[u8]) -> Result<(Self, Vec<TxOut>), DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u32("a transaction's version")?;
        let marker: [u8; 6] = reader.array("the Extended Format marker")?;
        if marker != EXTENDED_MARKER {
            let [a, b, c, d, e, f] = marker;
            let value = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
            return Err(DecodeError::OutOfRange { what: "the Extended Format marker", value });
        }
        let count = reader.count(MIN_INPUT_SIZE.saturating_add(MIN_OUTPUT_SIZE), "inputs")?;
        let mut inputs = Vec::with_capacity(count);
        let mut spent = Vec::with_capacity(count);
        for _ in 0..count {
            inputs.push(read_input(&mut reader)?);
            spent.push(TxOut::read(&mut reader)?);
        }
        let (outputs, lock_time) = read_tail(&mut reader)?;
        reader.finish("the transaction")?;
        Ok((Transaction { version, inputs, outputs, lock_time }, spent))
    }

    fn write_tail(&self, out: &mut Vec<u8>) {
        write_varint(out, self.outputs.len() as u64);
        for output in &self.outputs {
            output.write(out);
        }
        out.extend_from_slice(&self.lock_time.to_le_bytes());
    }
}

impl fmt::Display for Transaction {
    /// The transaction's bytes in hex, as nodes and services take them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.to_bytes()))
    }
}

crate::bytes_serde::impl_bytes_serde!(Transaction, "a transaction", Transaction::to_bytes, |b| {
    Transaction::from_bytes(b).map_err(|e| e.to_string())
});

fn var_len(bytes: usize) -> usize {
    varint_len(bytes as u64).saturating_add(bytes)
}

fn read_input(reader: &mut Reader<'_>) -> Result<TxIn, DecodeError> {
    let previous = OutPoint::read(reader)?;
    let unlocking = Script::new(reader.var_bytes("an unlocking script")?.to_vec());
    Ok(TxIn { previous, unlocking, sequence: reader.u32("an input's sequence")? })
}

fn write_input(out: &mut Vec<u8>, input: &TxIn) {
    input.previous.write(out);
    write_var_bytes(out, input.unlocking.as_bytes());
    out.extend_from_slice(&input.sequence.to_le_bytes());
}

fn read_tail(reader: &mut Reader<'_>) -> Result<(Vec<TxOut>, u32), DecodeError> {
    let count = reader.count(MIN_OUTPUT_SIZE, "outputs")?;
    let mut outputs = Vec::with_capacity(count);
    for _ in 0..count {
        outputs.push(TxOut::read(reader)?);
    }
    Ok((outputs, reader.u32("a transaction's lock time")?))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_output() -> impl Strategy<Value = TxOut> {
        (0..=Satoshis::MAX.as_u64(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(value, script)| TxOut { value: Satoshis::from_sat(value), locking: Script::new(script) },
        )
    }

    fn any_input() -> impl Strategy<Value = TxIn> {
        (any::<[u8; 32]>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..120), any::<u32>()).prop_map(
            |(txid, vout, script, sequence)| TxIn {
                previous: OutPoint { txid: Txid(txid), vout },
                unlocking: Script::new(script),
                sequence,
            },
        )
    }

    /// Any transaction with at least one input; without one, the bytes of a longer transaction could not be told
    /// from the Extended Format.
    pub(crate) fn any_tx() -> impl Strategy<Value = Transaction> {
        (
            any::<u32>(),
            prop::collection::vec(any_input(), 1..5),
            prop::collection::vec(any_output(), 0..5),
            any::<u32>(),
        )
            .prop_map(|(version, inputs, outputs, lock_time)| Transaction {
                version,
                inputs,
                outputs,
                lock_time,
            })
    }

    proptest! {
        #[test]
        fn bytes_round_trip(tx in any_tx()) {
            let bytes = tx.to_bytes();
            prop_assert_eq!(bytes.len(), tx.size());
            let json = serde_json::to_string(&tx).unwrap();
            prop_assert_eq!(serde_json::from_str::<Transaction>(&json).unwrap(), Transaction::from_bytes(&bytes).unwrap());
            prop_assert_eq!(Transaction::from_bytes(&bytes).unwrap(), tx);
        }

        #[test]
        fn extended_format_round_trips(tx in any_tx(), output in any_output()) {
            let spent = vec![output; tx.inputs.len()];
            let bytes = tx.to_extended(&spent).unwrap();
            prop_assert_eq!(Transaction::from_extended(&bytes).unwrap(), (tx.clone(), spent));
            prop_assert!(Transaction::from_bytes(&bytes).is_err());
            prop_assert!(Transaction::from_extended(&tx.to_bytes()).is_err());
        }

        #[test]
        fn a_cut_or_longer_transaction_is_refused(tx in any_tx(), at: prop::sample::Index) {
            let mut bytes = tx.to_bytes();
            prop_assert!(Transaction::from_bytes(&bytes[..at.index(bytes.len())]).is_err());
            bytes.push(0);
            prop_assert!(Transaction::from_bytes(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = Transaction::from_bytes(&bytes);
            let _ = Transaction::from_extended(&bytes);
        }
    }

    #[test]
    fn a_value_above_all_coins_is_refused() {
        let mut tx = Transaction::new(vec![TxIn::default()], vec![TxOut::default()]);
        tx.outputs[0].value = Satoshis::MAX;
        let mut bytes = tx.to_bytes();
        let at = bytes.len() - 4 - 1 - 8;
        bytes[at] += 1;
        assert!(matches!(Transaction::from_bytes(&bytes), Err(DecodeError::OutOfRange { .. })));
    }

    #[test]
    fn a_lock_time_needs_an_input_that_enables_it() {
        let mut tx = Transaction::new(vec![TxIn::new(OutPoint::default())], vec![]);
        tx.lock_time = 100;
        assert!(tx.is_final());
        tx.inputs[0].sequence = 0xffff_fffe;
        assert!(!tx.is_final());
        tx.lock_time = 0;
        assert!(tx.is_final());
    }

    #[test]
    fn a_lock_to_a_height_is_over_one_block_later() {
        let mut tx = Transaction::new(vec![TxIn::new(OutPoint::default())], vec![]);
        (tx.lock_time, tx.inputs[0].sequence) = (100, 0xffff_fffe);
        assert!(!tx.is_final_at(100) && tx.is_final_at(101));
        tx.lock_time = LOCK_TIME_IS_TIME;
        assert!(!tx.is_final_at(u32::MAX), "a time is no height");
        tx.inputs[0].sequence = SEQUENCE_FINAL;
        assert!(tx.is_final_at(0));
    }
}
