//! The wallet as records: a change touches what it is about, and nothing damaged passes for money.

use std::collections::BTreeMap;

use super::*;
use sensora_chain::wallet::Changes;

/// A store of records, as a node keeps them.
#[derive(Default, Clone, PartialEq)]
pub(super) struct Disk {
    head: Option<Vec<u8>>,
    funding: Option<Vec<u8>>,
    records: BTreeMap<Txid, Vec<u8>>,
}

impl Disk {
    pub(super) fn take(&mut self, changes: Changes) {
        self.head = changes.head.or(self.head.take());
        self.funding = changes.funding.or(self.funding.take());
        self.records.extend(changes.put);
        changes.removed.iter().for_each(|txid| drop(self.records.remove(txid)));
    }

    pub(super) fn wallet(&self) -> Result<Wallet, WalletError> {
        let records = self.records.iter().map(|(txid, bytes)| (*txid, bytes));
        Wallet::from_records(self.head.as_deref(), self.funding.as_deref(), records)
    }
}

fn stored() -> (Wallet, Disk) {
    let (mut wallet, _) = funded(&[1_000, 20_000]);
    pay(&mut wallet, 500).unwrap();
    let mut disk = Disk::default();
    disk.take(wallet.take_changes().unwrap());
    (wallet, disk)
}

#[test]
fn records_give_the_wallet_back() {
    let (mut wallet, mut disk) = stored();
    assert_eq!(disk.wallet().unwrap(), wallet);
    assert!(wallet.changes().unwrap().is_empty());
    assert!(disk.wallet().unwrap().changes().unwrap().is_empty(), "what was read is stored");
    let mut copy = Disk::default();
    copy.take(wallet.everything().unwrap());
    assert!(copy == disk, "everything at once is the same as every change");
    wallet.funding_address(&root(), Network::Regtest).unwrap();
    let changes = wallet.take_changes().unwrap();
    assert!(changes.funding.is_some() && changes.put.is_empty());
    disk.take(changes);
    assert_eq!(disk.wallet().unwrap(), wallet);
    assert_eq!(Disk::default().wallet().unwrap(), Wallet::new());
}

#[test]
fn a_sale_changes_two_records_however_many_coins_there_are() {
    let mut sizes = Vec::new();
    for coins in [10, 400] {
        let (mut wallet, mut blocks) = funded(&vec![1_000; coins]);
        wallet.take_changes().unwrap();
        let sale = funding(&mut wallet, 1_000_000, &[40]);
        wallet.take_changes().unwrap();
        receive(&mut wallet, &sale, None).unwrap();
        let changes = wallet.take_changes().unwrap();
        assert_eq!((changes.put.len(), changes.removed.len()), (1, 0));
        assert_eq!(changes.put[0].0, sale.txid());
        assert!(changes.funding.is_none() && changes.head.is_some());
        sizes.push(changes.put[0].1.len());
        let path = blocks.mine(sale.txid());
        wallet.mark_mined(&sale.txid(), path, &blocks).unwrap();
        assert_eq!(wallet.take_changes().unwrap().put.len(), 1);
    }
    assert!(sizes[0].abs_diff(sizes[1]) < 16, "{sizes:?}");
}

#[test]
fn a_copy_that_is_dropped_leaves_the_wallet_and_its_changes_alone() {
    let (mut wallet, disk) = stored();
    let mut next = wallet.clone();
    pay(&mut next, 700).unwrap();
    next.take_changes().unwrap();
    drop(next);
    assert!(wallet.changes().unwrap().is_empty());
    assert_eq!(disk.wallet().unwrap(), wallet);
    pay(&mut wallet, 600).unwrap();
    assert_eq!(wallet.changes().unwrap().put.len(), 1);
}

#[test]
fn a_torn_or_foreign_record_is_named() {
    let (_, disk) = stored();
    let ids: Vec<Txid> = disk.records.keys().copied().collect();
    let named = |disk: &Disk, txid: &Txid| match disk.wallet() {
        Err(error @ WalletError::StoredRecord { .. }) => {
            assert!(error.to_string().contains(&txid.to_string()), "{error}");
            assert!(error.to_string().contains("restore a backup"), "{error}");
        }
        other => panic!("{other:?}"),
    };
    for txid in &ids {
        let len = disk.records[txid].len();
        for end in 0..len {
            let mut torn = disk.clone();
            torn.records.get_mut(txid).unwrap().truncate(end);
            named(&torn, txid);
        }
    }
    let mut swapped = disk.clone();
    let other = disk.records[&ids[1]].clone();
    swapped.records.insert(ids[0], other);
    named(&swapped, &ids[0]);
    let mut later = disk.clone();
    later.records.get_mut(&ids[0]).unwrap()[0] += 1;
    assert!(later.wallet().unwrap_err().to_string().contains("newer program"));

    let mut lost = disk.clone();
    lost.records.remove(&ids[0]);
    let error = lost.wallet().unwrap_err();
    assert!(error.to_string().contains("it has 3 transactions, 2 are there"), "{error}");
    let mut headless = disk;
    headless.head = None;
    assert!(headless.wallet().unwrap_err().to_string().contains("its head is missing"));
}

proptest! {
    #[test]
    fn a_changed_byte_never_panics_and_never_makes_a_wallet_that_contradicts_itself_unnoticed(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let (wallet, disk) = stored();
        let ids: Vec<Txid> = disk.records.keys().copied().collect();
        let mut damaged = disk;
        let record = damaged.records.get_mut(&ids[which.index(ids.len())]).unwrap();
        let at = at.index(record.len());
        record[at] ^= byte;
        if let Ok(read) = damaged.wallet() {
            let _ = (read.balance(), read.audit(), read.history(), read.unproven(), read.stuck(1_000));
            prop_assert!(byte != 0 || read == wallet);
        }
    }
}
