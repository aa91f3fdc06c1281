use proptest::prelude::*;

use super::*;
use crate::amount::Satoshis;
use crate::id::OutPoint;
use crate::script::Script;
use crate::tx::{TxIn, TxOut};

/// A transaction that spends the first output of each parent.
fn tx(parents: &[&Transaction], mark: u8) -> Transaction {
    let mut inputs: Vec<TxIn> =
        parents.iter().map(|p| TxIn::new(OutPoint { txid: p.txid(), vout: 0 })).collect();
    if inputs.is_empty() {
        inputs.push(TxIn::new(OutPoint { txid: Txid([mark; 32]), vout: 0 }));
    }
    let output = TxOut { value: Satoshis::from_sat(u64::from(mark)), locking: Script::p2pkh(&[mark; 20]) };
    Transaction::new(inputs, vec![output])
}

fn path(txs: &[&Transaction], index: usize) -> MerklePath {
    let txids: Vec<Txid> = txs.iter().map(|tx| tx.txid()).collect();
    MerklePath::for_block(9, &txids, index).unwrap()
}

/// Two proven ancestors in one block, an unproven child of both, and its unproven child.
fn family() -> (Beef, [Transaction; 4]) {
    let (a, b) = (tx(&[], 1), tx(&[], 2));
    let c = tx(&[&a, &b], 3);
    let d = tx(&[&c], 4);
    let block = [&a, &b, &tx(&[], 9)];
    let mut beef = Beef::new();
    beef.add(a.clone(), Some(&path(&block, 0))).unwrap();
    beef.add(b.clone(), Some(&path(&block, 1))).unwrap();
    beef.add(c.clone(), None).unwrap();
    beef.add(d.clone(), None).unwrap();
    (beef, [a, b, c, d])
}

fn parse(bytes: &[u8]) -> Result<Beef, BeefError> {
    Beef::parse(bytes, &BeefLimits::DEFAULT)
}

#[test]
fn all_versions_round_trip() {
    let (beef, txs) = family();
    assert_eq!(beef.bumps().len(), 1, "paths of one block are joined");
    assert_eq!(beef.subject(), Some(txs[3].txid()));
    let v1 = beef.to_bytes_v1().unwrap();
    assert_eq!(parse(&v1).unwrap(), beef);
    assert_eq!(parse(&beef.to_bytes_v2()).unwrap(), beef);
    let atomic = parse(&beef.to_atomic(&txs[3].txid()).unwrap()).unwrap();
    assert!(atomic.is_atomic() && !beef.is_atomic());
    assert_eq!(atomic.to_bytes_v1().unwrap(), v1);
    assert!(parse(&[0x01, 0x00, 0xbe, 0xef, 0, 0]).unwrap().subject().is_none());
}

#[test]
fn an_atomic_beef_holds_only_what_its_subject_needs() {
    let (beef, [a, b, c, d]) = family();
    let of_c = parse(&beef.to_atomic(&c.txid()).unwrap()).unwrap();
    assert_eq!(of_c.txs().iter().map(BeefTx::txid).collect::<Vec<_>>(), [a.txid(), b.txid(), c.txid()]);
    let of_b = parse(&beef.to_atomic(&b.txid()).unwrap()).unwrap();
    assert_eq!(of_b.txs().len(), 1);
    assert_eq!(of_b.bumps()[0].txids(), [b.txid()]);
    assert_eq!(beef.to_atomic(&Txid([0; 32])), Err(BeefError::NoSubject(Txid([0; 32]))));

    let mut forged = beef.to_bytes_v1().unwrap();
    forged.splice(0..0, [&[1, 1, 1, 1][..], &c.txid().0].concat());
    assert_eq!(parse(&forged), Err(BeefError::Unrelated(d.txid())));
    forged[4..36].copy_from_slice(&[7; 32]);
    assert_eq!(parse(&forged), Err(BeefError::NoSubject(Txid([7; 32]))));
}

#[test]
fn a_known_transaction_is_an_id_that_the_receiver_must_know() {
    let (a, b) = (tx(&[], 1), tx(&[], 2));
    let c = tx(&[&a, &b], 3);
    let mut beef = Beef::new();
    beef.add_known(a.clone()).unwrap();
    beef.add(b.clone(), Some(&path(&[&b], 0))).unwrap();
    beef.add(c.clone(), None).unwrap();
    assert_eq!(beef.to_bytes_v1(), Err(BeefError::KnownInVersion1(a.txid())));
    for bytes in [beef.to_bytes_v2(), beef.to_atomic(&c.txid()).unwrap()] {
        assert_eq!(parse(&bytes), Err(BeefError::UnknownTxid(a.txid())));
        let wrong = Beef::parse_with(&bytes, &BeefLimits::DEFAULT, &|_| Some(b.clone()));
        assert_eq!(wrong, Err(BeefError::UnknownTxid(a.txid())));
        let parsed = Beef::parse_with(&bytes, &BeefLimits::DEFAULT, &|_| Some(a.clone())).unwrap();
        assert_eq!(parsed.get(&a.txid()).unwrap().proof(), Proof::Known);
        assert_eq!(parsed.transaction(&a.txid()), Some(&a));
    }
}

#[test]
fn a_wrong_shape_is_refused() {
    let (a, b) = (tx(&[], 1), tx(&[], 2));
    let c = tx(&[&a, &b], 3);
    let mut beef = Beef::new();
    beef.add(c.clone(), None).unwrap();
    assert!(matches!(beef.add(a.clone(), None), Err(BeefError::ParentAfterChild { .. })));
    assert_eq!(beef.add(b.clone(), Some(&path(&[&a], 0))), Err(BeefError::NotInPath(b.txid())));

    let v1 = |txs: &[(&Transaction, Option<u8>)], bumps: &[&MerklePath]| {
        let mut out = vec![0x01, 0x00, 0xbe, 0xef, bumps.len() as u8];
        bumps.iter().for_each(|bump| bump.write(&mut out));
        out.push(txs.len() as u8);
        for (tx, bump) in txs {
            tx.write(&mut out);
            out.extend(bump.map_or(vec![0], |index| vec![1, index]));
        }
        out
    };
    let only_a = path(&[&a], 0);
    assert!(matches!(parse(&v1(&[(&c, None), (&a, None)], &[])), Err(BeefError::ParentAfterChild { .. })));
    assert_eq!(parse(&v1(&[(&a, None), (&a, None)], &[])), Err(BeefError::Duplicate(a.txid())));
    assert_eq!(parse(&v1(&[(&b, Some(0))], &[&only_a])), Err(BeefError::NotInPath(b.txid())));
    assert_eq!(
        parse(&v1(&[(&a, Some(1))], &[&only_a])),
        Err(BeefError::NoSuchPath { txid: a.txid(), index: 1 })
    );
    // The order of proven transactions does not matter: nothing is concluded from their parents.
    let whole = path(&[&a, &c], 1);
    assert!(parse(&v1(&[(&c, Some(0)), (&a, Some(0))], &[&whole])).is_ok());
    assert_eq!(parse(&[1, 2, 3, 4, 0, 0]), Err(BeefError::Magic(0x0102_0304)));
}

#[test]
fn limits_hold_before_anything_is_reserved() {
    let (beef, _) = family();
    let bytes = beef.to_bytes_v1().unwrap();
    let with = |max_bytes, max_txs, max_bumps| {
        Beef::parse(&bytes, &BeefLimits { max_bytes, max_txs, max_bumps }).map(|_| ())
    };
    assert!(with(bytes.len(), 4, 1).is_ok());
    assert_eq!(
        with(bytes.len() - 1, 4, 1),
        Err(BeefError::TooLarge { size: bytes.len(), max: bytes.len() - 1 })
    );
    assert!(matches!(
        with(bytes.len(), 3, 1),
        Err(BeefError::Decode(DecodeError::TooMany { what: "transactions", .. }))
    ));
    assert!(matches!(
        with(bytes.len(), 4, 0),
        Err(BeefError::Decode(DecodeError::TooMany { what: "Merkle paths", .. }))
    ));
    let bomb = [0x01, 0x00, 0xbe, 0xef, 0, 0xfe, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(
        parse(&bomb),
        Err(BeefError::Decode(DecodeError::TooMany { count: 0xffff_ffff, max: 0, .. }))
    ));
}

#[test]
fn a_long_chain_of_spends_costs_no_stack() {
    let limits = BeefLimits { max_bytes: 1 << 26, max_txs: 100_000, max_bumps: 1 };
    let mut bytes = vec![0x01, 0x00, 0xbe, 0xef, 0, 0xfd];
    bytes.extend(50_000u16.to_le_bytes());
    let mut last = tx(&[], 1);
    for _ in 0..50_000 {
        last.write(&mut bytes);
        bytes.push(0);
        last = tx(&[&last], 1);
    }
    let beef = Beef::parse(&bytes, &limits).unwrap();
    let subject = beef.subject().unwrap();
    assert_eq!(beef.needed_for(&subject).unwrap().len(), 50_000);
}

#[test]
fn merging_keeps_the_better_proof() {
    let (beef, [a, b, c, _]) = family();
    let mut other = Beef::new();
    other.add(c.clone(), Some(&path(&[&c], 0))).unwrap();
    let mut merged = beef.clone();
    merged.merge(&other).unwrap();
    assert!(merged.bump_of(&c.txid()).is_some());
    assert_eq!(merged.txs().len(), 4);
    merged.merge(&beef).unwrap();
    assert!(matches!(merged.get(&c.txid()).unwrap().proof(), Proof::Bump(_)));
    let mut from_nothing = Beef::new();
    from_nothing.merge(&beef).unwrap();
    assert_eq!(from_nothing, beef);
    assert!(from_nothing.bump_of(&a.txid()).is_some() && from_nothing.bump_of(&b.txid()).is_some());
}

proptest! {
    #[test]
    fn a_changed_byte_never_panics_and_reads_as_written(at: prop::sample::Index, mask in 1u8..) {
        let (beef, txs) = family();
        for mut bytes in [beef.to_bytes_v1().unwrap(), beef.to_bytes_v2(), beef.to_atomic(&txs[3].txid()).unwrap()] {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            if let Ok(changed) = parse(&bytes) {
                let v1 = changed.to_bytes_v1().unwrap();
                prop_assert!(bytes.ends_with(&v1) || bytes == changed.to_bytes_v2());
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(version in 0usize..3, tail: Vec<u8>) {
        let magic = [[0x01, 0x00, 0xbe, 0xef], [0x02, 0x00, 0xbe, 0xef], [1, 1, 1, 1]][version];
        let _ = parse(&[&magic[..], &tail].concat());
        let _ = parse(&tail);
    }
}
