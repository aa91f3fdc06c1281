use std::sync::LazyLock;

use proptest::prelude::*;
use sensora_chain::keys::PrivateKey;
use sensora_chain::wallet::{KeyRow, OwnedOutput, Received, Wallet};
use sensora_chain::{Satoshis, Transaction, TxOut};
use sensora_protocol::Identity;
use zeroize::Zeroizing;

use super::*;
use crate::clock::Clock;
use crate::keystore::{Key, Words};
use crate::store::{self, Store, tables};

const WORDS: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
/// Cheap enough for tests; what is cheap to make is cheap to guess.
const CHEAP: u8 = 4;

fn key() -> Key {
    Key::from_words(Words::parse(WORDS).unwrap()).unwrap()
}

fn other() -> PrivateKey {
    PrivateKey::from_bytes([9; 32]).unwrap()
}

/// A wallet with a coin of 5,000 sat that nobody has mined yet, and two addresses given out.
fn wallet(root: &PrivateKey) -> Wallet {
    let mut wallet = Wallet::new();
    wallet.funding_address(root, Network::Regtest).unwrap();
    let address = wallet.funding_address(root, Network::Regtest).unwrap();
    let pays = TxOut { value: Satoshis::from_sat(5_000), locking: address.locking_script() };
    let received = Received {
        tx: Transaction::new(vec![sensora_chain::TxIn::new(Default::default())], vec![pays]),
        outputs: vec![OwnedOutput {
            vout: 0,
            key: KeyRow::Funding.key(1),
            purpose: KeyRow::Funding.purpose(),
        }],
        ancestors: None,
        path: None,
        broadcast: true,
        label: "a friend".to_owned(),
        now_ms: 1,
    };
    // The all-zero outpoint with the index 0 is no coinbase's.
    wallet.receive(root, received).unwrap();
    wallet
}

fn store() -> Store {
    let key = key();
    let store = Store::in_memory(Network::Regtest, &key.public_key()).unwrap();
    store.write(|tx| store::wallet::put(tx, &wallet(key.private_key()))).unwrap();
    store
}

fn backup(with_words: bool) -> Backup {
    let key = key();
    Backup::take(&store(), Network::Regtest, &key.public_key(), with_words.then_some(&key), 7).unwrap()
}

#[test]
fn a_backup_gives_back_what_it_was_given() {
    let (key, backup) = (key(), backup(false));
    let file = backup.seal(Lock::Key(key.private_key())).unwrap();
    assert_eq!(lock_of(&file).unwrap(), LockKind::Key);
    let opened = Backup::open(&file, Lock::Key(key.private_key())).unwrap();
    assert_eq!(opened.fingerprint().unwrap(), backup.fingerprint().unwrap());
    assert!(opened.is_of(&backup) && opened.key().unwrap().is_none());
    let summary = opened.summary().unwrap();
    assert_eq!((summary.coins, summary.transactions, summary.created_ms), (1, 1, 7));
    assert_eq!(summary.balance.total, Satoshis::from_sat(5_000));
    let restored = opened.in_memory().unwrap();
    assert_eq!(restored.read(store::wallet::get).unwrap(), wallet(key.private_key()));
    let note = restored.read(store::restored::get).unwrap().unwrap();
    assert_eq!((note.backup_ms, note.followed), (7, false));
}

#[test]
fn a_passphrase_brings_the_words_with_it() {
    let backup = backup(true);
    let file = backup.seal_at(Lock::Passphrase("correct horse"), CHEAP).unwrap();
    assert_eq!(lock_of(&file).unwrap(), LockKind::Passphrase);
    let opened = Backup::open(&file, Lock::Passphrase("correct horse")).unwrap();
    let found = opened.key().unwrap().unwrap();
    assert_eq!(*found.words().phrase(), WORDS);
    assert_eq!(found.public_key(), *opened.public_key());
    assert!(matches!(
        Backup::open(&file, Lock::Passphrase("wrong horse")),
        Err(BackupError::WrongPassphrase)
    ));
    assert!(matches!(Backup::open(&file, Lock::Key(&other())), Err(BackupError::PassphraseNeeded)));
    assert!(matches!(backup.seal_at(Lock::Passphrase(""), CHEAP), Err(BackupError::EmptyPassphrase)));
}

#[test]
fn another_key_opens_nothing() {
    let key = key();
    let file = backup(false).seal(Lock::Key(key.private_key())).unwrap();
    let error = Backup::open(&file, Lock::Key(&other())).unwrap_err();
    assert!(matches!(error, BackupError::LockedForAnother { .. }), "{error}");
    assert!(matches!(Backup::open(&file, Lock::Passphrase("x")), Err(BackupError::WordsNeeded)));
}

#[test]
fn a_file_cannot_ask_for_more_work_than_is_sensible() {
    let file = backup(true).seal_at(Lock::Passphrase("x"), CHEAP).unwrap();
    let text = String::from_utf8_lossy(&file);
    let line = text.lines().find(|line| line.starts_with("-> scrypt")).unwrap().to_owned();
    let dear = line.strip_suffix(" 4").map(|start| format!("{start} 30")).unwrap();
    let at = file.windows(line.len()).position(|window| window == line.as_bytes()).unwrap();
    let mut changed = file[..at].to_vec();
    changed.extend_from_slice(dear.as_bytes());
    changed.extend_from_slice(&file[at + line.len()..]);
    assert!(matches!(Backup::open(&changed, Lock::Passphrase("x")), Err(BackupError::TooHard { found: 30 })));
}

#[test]
fn a_restore_never_overwrites_and_belongs_to_one_key_and_network() {
    let backup = backup(false);
    let used = store();
    let error = backup.restore(&used, 8).unwrap_err();
    assert!(matches!(error, BackupError::Used { rows: 1.. }), "{error}");
    assert_eq!(used.read(store::restored::get).unwrap(), None);
    // What is no part of a backup is not in its way.
    let fresh = Store::in_memory(Network::Regtest, &key().public_key()).unwrap();
    fresh.write(|tx| store::peers::put(tx, &[])).unwrap();
    backup.restore(&fresh, 8).unwrap();
    assert!(matches!(backup.restore(&fresh, 9), Err(BackupError::Used { .. })));
}

#[test]
fn what_is_left_out_are_tables_that_exist_and_everything_else_is_kept() {
    let names = store().read(tables::names).unwrap();
    for name in LEFT_OUT {
        assert!(names.iter().any(|known| known == name), "there is no table {name}");
    }
    let kept: Vec<&str> = names.iter().map(String::as_str).filter(|name| !LEFT_OUT.contains(name)).collect();
    for money in ["outbox", "own_ad", "purchases", "purchases_open", "sales", "streams_closed", "wallet"] {
        assert!(kept.contains(&money), "{money} is not kept");
    }
}

#[test]
fn only_the_newest_anchors_are_kept_and_streams_by_name_only() {
    let store = store();
    let key = key();
    let identity = Identity::new(key.private_key().clone());
    let field = sensora_protocol::stream::Field::new("t", sensora_protocol::stream::Kind::Float);
    let schema = sensora_protocol::stream::Schema::new(vec![field]).unwrap();
    let id = sensora_protocol::StreamId::derive(Network::Regtest, identity.public(), "greenhouse", &schema)
        .unwrap();
    let record = store::streams::StreamRecord {
        id,
        name: "greenhouse".into(),
        schema: schema.clone(),
        secret: [0x5e; 32],
        salting: sensora_protocol::stream::Salting::Tree,
        fingerprint: None,
    };
    let total = u64::try_from(ANCHORS_KEPT).unwrap() + 10;
    store
        .write(|tx| {
            store::streams::put(tx, &record)?;
            for number in 0..total {
                let anchor = store::anchors::AnchorRecord {
                    number,
                    txid: Default::default(),
                    checkpoints: Vec::new(),
                    beef: Vec::new(),
                    height: None,
                    made_ms: 0,
                };
                store::anchors::put(tx, &anchor, &[id])?;
            }
            Ok::<_, crate::store::StoreError>(())
        })
        .unwrap();
    let backup = Backup::take(&store, Network::Regtest, &key.public_key(), None, 0).unwrap();
    assert_eq!(backup.summary().unwrap().streams, 1);
    let restored = backup.in_memory().unwrap();
    let anchors = restored.read(|tx| store::anchors::newest(tx, usize::MAX)).unwrap();
    assert_eq!(anchors.len(), ANCHORS_KEPT);
    assert_eq!(anchors[0].number, total - 1);
    // The salts' secret stays where the readings are.
    assert!(restored.read(store::streams::all).unwrap().is_empty());
    let recorder =
        crate::agent::recorder::Recorder::open(restored, identity, Network::Regtest, Clock::fixed(0));
    let recorder = recorder.unwrap();
    assert!(recorder.stream("cellar", &schema, None).is_ok());
    let error = recorder.stream("greenhouse", &schema, None).unwrap_err();
    assert!(error.to_string().contains("--name"), "{error}");
}

#[test]
fn a_file_is_replaced_whole_and_only_by_the_same_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.age");
    let (key, backup) = (key(), backup(false));
    let lock = Lock::Key(key.private_key());
    let sealed = backup.seal(lock).unwrap();
    assert!(matches!(read_file(&path), Err(BackupError::Missing { .. })));
    for _ in 0..2 {
        write_file(&path, &sealed, &backup, Overwrite::Own(lock)).unwrap();
    }
    assert_eq!(read_file(&path).unwrap(), sealed);
    #[cfg(unix)]
    {
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(crate::home::mode_of(&metadata), Some(0o600));
    }
    let strange = Backup::take(
        &Store::in_memory(Network::Regtest, &other().public()).unwrap(),
        Network::Regtest,
        &other().public(),
        None,
        0,
    )
    .unwrap();
    let their_key = other();
    let theirs = Lock::Key(&their_key);
    let error = write_file(&path, b"x", &strange, Overwrite::Own(theirs)).unwrap_err();
    assert!(matches!(error, BackupError::Exists { .. }), "{error}");
    assert_eq!(read_file(&path).unwrap(), sealed, "nothing was touched");
    write_file(&path, b"x", &strange, Overwrite::Anything).unwrap();
    assert_eq!(read_file(&path).unwrap(), b"x");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_keeper_writes_what_has_changed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept.age");
    let (key, store) = (key(), store());
    let parts = KeeperParts {
        path: path.clone(),
        store: store.clone(),
        identity: Identity::new(key.private_key().clone()),
        network: Network::Regtest,
        clock: Clock::fixed(0),
    };
    let mut keeper = Keeper::new(parts.clone());
    assert!(keeper.write().unwrap());
    assert!(!keeper.write().unwrap());
    store
        .write(|tx| {
            let mut wallet = wallet(key.private_key());
            wallet.funding_address(key.private_key(), Network::Regtest).unwrap();
            store::wallet::put(tx, &wallet)
        })
        .unwrap();
    assert!(keeper.write().unwrap());
    // The words alone open what the node has written.
    let words = Key::from_words(Words::parse(WORDS).unwrap()).unwrap();
    let opened = Backup::open(&read_file(&path).unwrap(), Lock::Key(words.private_key())).unwrap();
    let wallet = opened.in_memory().unwrap().read(store::wallet::get).unwrap();
    assert_eq!(wallet.next_number(KeyRow::Funding), 3);
    // A file of somebody else's stays.
    std::fs::write(&path, "my diary").unwrap();
    assert!(matches!(Keeper::new(parts).write(), Err(BackupError::Exists { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"my diary");
}

#[test]
fn a_new_home_does_not_take_the_place_of_the_backup_it_should_be_put_back_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept.age");
    let key = key();
    let keeper = |store: Store| {
        Keeper::new(KeeperParts {
            path: path.clone(),
            store,
            identity: Identity::new(key.private_key().clone()),
            network: Network::Regtest,
            clock: Clock::fixed(0),
        })
    };
    assert!(keeper(store()).write().unwrap());
    let kept = read_file(&path).unwrap();
    // The same words in a new home: it knows of nothing yet.
    let empty = Store::in_memory(Network::Regtest, &key.public_key()).unwrap();
    let error = keeper(empty).write().unwrap_err();
    assert!(matches!(error, BackupError::KnowsMore { missing: 1, .. }), "{error}");
    assert_eq!(read_file(&path).unwrap(), kept, "nothing was touched");
    // A home that knows as much goes on with it.
    let restored = Store::in_memory(Network::Regtest, &key.public_key()).unwrap();
    Backup::open(&kept, Lock::Key(key.private_key())).unwrap().restore(&restored, 2).unwrap();
    assert!(keeper(restored).write().unwrap());
}

#[test]
fn every_kind_of_foreign_file_is_told_apart() {
    let key = key();
    let lock = Lock::Key(key.private_key());
    for (bytes, says) in [
        (&b""[..], "not a backup"),
        (b"PK\x03\x04", "not a backup"),
        (b"age-encryption.org/v9\n", "not a backup"),
    ] {
        let error = Backup::open(bytes, lock).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    // Encrypted to us, but no backup of ours; and one of a time to come.
    let seal = |value: &[u8]| super::lock::seal(value, lock, CHEAP).unwrap();
    assert!(matches!(Backup::open(&seal(b"hello"), lock), Err(BackupError::NotABackup(_))));
    #[derive(serde::Serialize)]
    struct Later {
        format: &'static str,
        version: u64,
        something: u64,
    }
    let later = Later { format: "sensora-backup", version: 2, something: 1 };
    let later = sensora_protocol::codec::encode(&later).unwrap();
    assert!(matches!(Backup::open(&seal(&later), lock), Err(BackupError::Newer { found: 2, known: 1 })));
    let alien = Later { format: "other", version: 1, something: 1 };
    let alien = sensora_protocol::codec::encode(&alien).unwrap();
    assert!(matches!(Backup::open(&seal(&alien), lock), Err(BackupError::NotABackup(_))));
    let half = Later { format: "sensora-backup", version: 1, something: 1 };
    let half = sensora_protocol::codec::encode(&half).unwrap();
    assert!(matches!(Backup::open(&seal(&half), lock), Err(BackupError::Damaged(_))));
}

#[test]
fn a_content_that_does_not_fit_its_digest_is_refused() {
    let key = key();
    let lock = Lock::Key(key.private_key());
    let file = backup(false).seal(lock).unwrap();
    let plain: Zeroizing<Vec<u8>> = super::lock::open(&file, lock).unwrap();
    // Whoever has the key can write anything; the digest still shows bytes that went bad before they were encrypted.
    for at in (0..plain.len()).step_by(37) {
        let mut changed = plain.to_vec();
        changed[at] ^= 0x10;
        let changed = super::lock::seal(&changed, lock, CHEAP).unwrap();
        assert!(Backup::open(&changed, lock).is_err(), "byte {at} of the document was changed unnoticed");
    }
}

/// One file of each kind, made once: making it is what takes the time.
static FILES: LazyLock<(PrivateKey, Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let key = key().into_private_key();
    let locked = backup(false).seal(Lock::Key(&key)).unwrap();
    let sealed = backup(true).seal_at(Lock::Passphrase("p"), 1).unwrap();
    (key, locked, sealed)
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any bit anywhere, any length: refused, or it is the very file.
    #[test]
    fn a_changed_or_cut_file_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<prop::sample::Index>()) {
        let (key, file, _) = &*FILES;
        let lock = Lock::Key(key);
        let mut changed = file.clone();
        let at = at.index(file.len());
        changed[at] ^= 1 << bit;
        prop_assert!(Backup::open(&changed, lock).is_err(), "bit {bit} of byte {at}");
        prop_assert!(Backup::open(&file[..cut.index(file.len())], lock).is_err());
        let mut longer = file.clone();
        longer.push(changed[at]);
        prop_assert!(Backup::open(&longer, lock).is_err());
    }

    /// The same with a passphrase.
    #[test]
    fn a_changed_or_cut_file_with_a_passphrase_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<prop::sample::Index>()) {
        let (_, _, file) = &*FILES;
        let lock = Lock::Passphrase("p");
        let mut changed = file.clone();
        let at = at.index(file.len());
        changed[at] ^= 1 << bit;
        prop_assert!(Backup::open(&changed, lock).is_err(), "bit {bit} of byte {at}");
        prop_assert!(Backup::open(&file[..cut.index(file.len())], lock).is_err());
    }
}
