//! Scripts as bytes: writing them with minimal pushes, and walking through what others wrote.
//!
//! There is no interpreter here. Scripts are recognised by their template (see [`crate::contract`]); what fits no
//! template has to come with a Merkle proof that miners accepted it.

use std::fmt;

use crate::encode::hash160;

/// The opcodes that this project writes or recognises.
pub mod op {
    #![allow(missing_docs, reason = "the names are the standard's own")]
    pub const FALSE: u8 = 0x00;
    pub const PUSHDATA1: u8 = 0x4c;
    pub const PUSHDATA2: u8 = 0x4d;
    pub const PUSHDATA4: u8 = 0x4e;
    pub const NEGATE1: u8 = 0x4f;
    pub const TRUE: u8 = 0x51;
    pub const N2: u8 = 0x52;
    pub const N4: u8 = 0x54;
    pub const N16: u8 = 0x60;
    pub const IF: u8 = 0x63;
    pub const ELSE: u8 = 0x67;
    pub const ENDIF: u8 = 0x68;
    pub const VERIFY: u8 = 0x69;
    pub const RETURN: u8 = 0x6a;
    pub const DROP: u8 = 0x75;
    pub const DUP: u8 = 0x76;
    pub const NIP: u8 = 0x77;
    pub const SWAP: u8 = 0x7c;
    pub const CAT: u8 = 0x7e;
    pub const SPLIT: u8 = 0x7f;
    pub const BIN2NUM: u8 = 0x81;
    pub const SIZE: u8 = 0x82;
    pub const EQUAL: u8 = 0x87;
    pub const EQUALVERIFY: u8 = 0x88;
    pub const ADD1: u8 = 0x8b;
    pub const NOT: u8 = 0x91;
    pub const SUB: u8 = 0x94;
    pub const WITHIN: u8 = 0xa5;
    pub const SHA256: u8 = 0xa8;
    pub const HASH160: u8 = 0xa9;
    pub const HASH256: u8 = 0xaa;
    pub const CHECKSIG: u8 = 0xac;
    pub const CHECKSIGVERIFY: u8 = 0xad;
    pub const CHECKMULTISIG: u8 = 0xae;
}

/// A locking or unlocking script: bytes that need not make sense.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Script(Vec<u8>);

/// One step of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Puts bytes on the stack, `OP_0`, `OP_1NEGATE` and `OP_1`…`OP_16` included.
    Push {
        /// The opcode that pushes.
        opcode: u8,
        /// The bytes that end up on the stack.
        data: &'a [u8],
    },
    /// Any other opcode.
    Code(u8),
}

impl<'a> Op<'a> {
    /// The pushed bytes, if this is a push.
    pub const fn data(&self) -> Option<&'a [u8]> {
        match self {
            Op::Push { data, .. } => Some(data),
            Op::Code(_) => None,
        }
    }

    /// Whether this is a push in the shortest form that exists for its bytes (the relay rule MINIMALDATA).
    pub fn is_minimal_push(&self) -> bool {
        match self {
            Op::Push { opcode, data } => *opcode == minimal_push_opcode(data),
            Op::Code(_) => false,
        }
    }
}

/// A push says that more bytes follow than do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a push at byte {offset} of the script reaches past its end")]
pub struct TruncatedPush {
    /// Where the push starts.
    pub offset: usize,
}

impl Script {
    /// A script of exactly these bytes.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Script(bytes)
    }

    /// Starts an empty script to append to.
    pub const fn builder() -> Builder {
        Builder(Vec::new())
    }

    /// Pay to public key hash: `DUP HASH160 <hash> EQUALVERIFY CHECKSIG`.
    pub fn p2pkh(hash: &[u8; 20]) -> Self {
        Self::builder().op(op::DUP).op(op::HASH160).push(hash).op(op::EQUALVERIFY).op(op::CHECKSIG).build()
    }

    /// The hash in a script that is exactly [`Script::p2pkh`].
    pub fn p2pkh_hash(&self) -> Option<[u8; 20]> {
        match self.0.as_slice() {
            [op::DUP, op::HASH160, 20, hash @ .., op::EQUALVERIFY, op::CHECKSIG] => hash.try_into().ok(),
            _ => None,
        }
    }

    /// The script's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The script's bytes, taken out.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// HASH160 of the script's bytes.
    pub fn hash160(&self) -> [u8; 20] {
        hash160(&self.0)
    }

    /// Whether no transaction can ever spend an output with this script: it starts with `OP_FALSE OP_RETURN`.
    /// A bare `OP_RETURN` can be spent since the Genesis rules.
    pub fn is_unspendable(&self) -> bool {
        self.0.starts_with(&[op::FALSE, op::RETURN])
    }

    /// The steps of the script, in order. After the first error there are no more.
    pub fn pushes(&self) -> Ops<'_> {
        Ops::new(&self.0)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script({})", hex::encode(&self.0))
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl From<Vec<u8>> for Script {
    fn from(bytes: Vec<u8>) -> Self {
        Script(bytes)
    }
}

crate::bytes_serde::impl_bytes_serde!(Script, "a script", Script::as_bytes, |b| Ok(Script(b.to_vec())));

/// Walks through a script; see [`Script::pushes`].
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    script: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Ops<'a> {
    /// Walks through any bytes, for scripts that are part of something else.
    pub const fn new(script: &'a [u8]) -> Self {
        Ops { script, rest: script }
    }

    /// What has not been walked through yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn next_op(&mut self) -> Option<Op<'a>> {
        let (&opcode, rest) = self.rest.split_first()?;
        let (len, rest) = match opcode {
            0x01..=0x4b => (usize::from(opcode), rest),
            op::PUSHDATA1 => {
                rest.split_first_chunk::<1>().map(|(n, r)| (usize::from(u8::from_le_bytes(*n)), r))?
            }
            op::PUSHDATA2 => {
                rest.split_first_chunk::<2>().map(|(n, r)| (usize::from(u16::from_le_bytes(*n)), r))?
            }
            op::PUSHDATA4 => {
                let (n, r) = rest.split_first_chunk::<4>()?;
                (usize::try_from(u32::from_le_bytes(*n)).ok()?, r)
            }
            _ => {
                self.rest = rest;
                return Some(match small_number(opcode) {
                    Some(data) => Op::Push { opcode, data },
                    None => Op::Code(opcode),
                });
            }
        };
        let (data, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some(Op::Push { opcode, data })
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>, TruncatedPush>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(self.next_op().ok_or_else(|| {
            let offset = self.script.len().saturating_sub(self.rest.len());
            self.rest = &[];
            TruncatedPush { offset }
        }))
    }
}

impl std::iter::FusedIterator for Ops<'_> {}

/// The bytes that `OP_0`, `OP_1NEGATE` and `OP_1`…`OP_16` put on the stack.
fn small_number(opcode: u8) -> Option<&'static [u8]> {
    const NUMBERS: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    match opcode {
        op::FALSE => Some(&[]),
        op::NEGATE1 => Some(&[0x81]),
        op::TRUE..=op::N16 => {
            let at = usize::from(opcode.checked_sub(op::TRUE)?);
            NUMBERS.get(at..=at)
        }
        _ => None,
    }
}

/// The opcode of the shortest push of `data`.
fn minimal_push_opcode(data: &[u8]) -> u8 {
    match data {
        [] => op::FALSE,
        [n @ 1..=16] => op::TRUE.saturating_add(n.saturating_sub(1)),
        [0x81] => op::NEGATE1,
        // The arms bound the length to one byte.
        _ if data.len() <= 75 => u8::try_from(data.len()).unwrap_or(op::PUSHDATA1),
        _ if data.len() <= 0xff => op::PUSHDATA1,
        _ if data.len() <= 0xffff => op::PUSHDATA2,
        _ => op::PUSHDATA4,
    }
}

/// Writes a script step by step; every push is in its shortest form.
#[derive(Clone, Debug, Default)]
pub struct Builder(Vec<u8>);

impl Builder {
    /// Appends one opcode.
    #[must_use]
    pub fn op(mut self, opcode: u8) -> Self {
        self.0.push(opcode);
        self
    }

    /// Appends the shortest push of `data`. A push holds at most 2³² − 1 bytes; what is beyond is cut off, and no
    /// transaction is that large.
    #[must_use]
    pub fn push(mut self, data: &[u8]) -> Self {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let data = data.get(..len as usize).unwrap_or(data);
        let opcode = minimal_push_opcode(data);
        self.0.push(opcode);
        let [a, b, c, d] = len.to_le_bytes();
        match opcode {
            0x01..=0x4b => {}
            op::PUSHDATA1 => self.0.push(a),
            op::PUSHDATA2 => self.0.extend([a, b]),
            op::PUSHDATA4 => self.0.extend([a, b, c, d]),
            _ => return self,
        }
        self.0.extend_from_slice(data);
        self
    }

    /// Appends the shortest push of a number in the script's own form: little-endian, the sign in the last bit.
    #[must_use]
    pub fn push_int(self, number: i64) -> Self {
        let mut bytes = number.unsigned_abs().to_le_bytes().to_vec();
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        if bytes.last().is_some_and(|last| last & 0x80 != 0) {
            bytes.push(0);
        }
        if number < 0
            && let Some(last) = bytes.last_mut()
        {
            *last |= 0x80;
        }
        self.push(&bytes)
    }

    /// Appends bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The finished script.
    pub fn build(self) -> Script {
        Script(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pushes_take_the_shortest_form() {
        let cases: [(Vec<u8>, Vec<u8>); 9] = [
            (vec![], vec![0x00]),
            (vec![1], vec![0x51]),
            (vec![16], vec![0x60]),
            (vec![17], vec![1, 17]),
            (vec![0], vec![1, 0]),
            (vec![0x81], vec![0x4f]),
            (vec![9; 75], [vec![75], vec![9; 75]].concat()),
            (vec![9; 76], [vec![0x4c, 76], vec![9; 76]].concat()),
            (vec![9; 256], [vec![0x4d, 0, 1], vec![9; 256]].concat()),
        ];
        for (data, script) in cases {
            assert_eq!(Script::builder().push(&data).build().into_bytes(), script);
        }
        let long = Script::builder().push(&vec![9; 65_536]).build();
        assert_eq!(long.as_bytes()[..5], [0x4e, 0, 0, 1, 0]);
    }

    #[test]
    fn numbers_take_the_shortest_form() {
        let cases: [(i64, &[u8]); 8] = [
            (0, &[0x00]),
            (1, &[0x51]),
            (-1, &[0x4f]),
            (127, &[1, 0x7f]),
            (128, &[2, 0x80, 0]),
            (-128, &[2, 0x80, 0x80]),
            (-2, &[1, 0x82]),
            (500_000_000, &[4, 0x00, 0x65, 0xcd, 0x1d]),
        ];
        for (number, script) in cases {
            assert_eq!(Script::builder().push_int(number).build().as_bytes(), script, "{number}");
        }
    }

    #[test]
    fn p2pkh_is_recognised_exactly() {
        let script = Script::p2pkh(&[5; 20]);
        assert_eq!(script.len(), 25);
        assert_eq!(script.p2pkh_hash(), Some([5; 20]));
        let mut longer = script.into_bytes();
        longer.push(0x61);
        assert_eq!(Script::new(longer).p2pkh_hash(), None);
    }

    #[test]
    fn only_false_return_is_unspendable() {
        assert!(Script::new(vec![0x00, 0x6a]).is_unspendable());
        assert!(!Script::new(vec![0x6a, 0x00]).is_unspendable());
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read_back(items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let script = items.iter().fold(Script::builder(), |b, item| b.push(item)).build();
            let ops: Vec<_> = script.pushes().collect::<Result<_, _>>().unwrap();
            prop_assert!(ops.iter().all(Op::is_minimal_push));
            let read: Vec<_> = ops.iter().filter_map(|op| op.data().map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(read, items);
        }

        #[test]
        fn no_script_makes_the_walk_panic_or_loop(bytes: Vec<u8>) {
            let script = Script::new(bytes.clone());
            prop_assert!(script.pushes().count() <= bytes.len());
        }
    }
}
