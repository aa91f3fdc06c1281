//! Keys on disk: what is written can be read, by its owner alone.

use std::fs;
use std::path::{Path, PathBuf};

use sensora_node::keystore::{Key, KeystoreError, PassphraseCost, WordCount, Words, inspect};

/// So that a test does not take the second that an attacker's guess should.
const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };

const ABANDON: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    (directory, path)
}

fn rewrite(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed, "the test changes something");
    fs::write(path, changed).unwrap();
}

#[test]
fn words_give_the_key_that_any_bip32_tool_gives() {
    // Computed with an independent implementation of BIP39 and BIP32 at m/44'/236'/0'/0/0.
    let cases = [
        (ABANDON.to_owned(), "254049fefeda0c03ab93b1d92d47aac33823f8bd40682a4c2631758a379b2b2e"),
        (
            "legal winner thank year wave sausage worth useful legal winner thank yellow".to_owned(),
            "e2be8438dca10791c762ec20e4daffc668214d96ef0469b1e71d1345cad6a729",
        ),
        (
            format!("{}art", "abandon ".repeat(23)),
            "6c4644afcef5f19e829e3e672a3487ef49c9fdf9ffe7b34500b8ff8391b408a5",
        ),
    ];
    for (words, expected) in cases {
        let key = Key::from_words(Words::parse(&words).unwrap()).unwrap();
        assert_eq!(hex::encode(*key.private_key().to_bytes()), expected);
    }
}

#[test]
fn a_key_is_read_back_with_and_without_a_passphrase() {
    for passphrase in [None, Some("correct horse"), Some("Schlüssel 🔑")] {
        let (_directory, path) = place();
        let key = Key::generate(WordCount::TwentyFour).unwrap();
        key.create_at_cost(&path, passphrase, CHEAP).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        let info = inspect(&path).unwrap();
        assert_eq!((info.public_key, info.is_sealed), (key.public_key(), passphrase.is_some()));
        let again = Key::open(&path, passphrase).unwrap();
        assert_eq!(again.words(), key.words());
        assert_eq!(again.public_key(), key.public_key());
        let written = fs::read_to_string(&path).unwrap();
        let secret = hex::encode(*key.private_key().to_bytes());
        assert!(!written.contains(&secret) && !written.contains(&*key.words().phrase()));
        assert!(!format!("{key:?}").contains(&secret));
        let exists = key.create(&path, None).unwrap_err();
        assert!(matches!(exists, KeystoreError::Exists { .. }), "{exists}");
    }
}

#[test]
fn a_wrong_or_missing_passphrase_is_told_apart_from_a_damaged_file() {
    let (_directory, path) = place();
    let key = Key::generate(WordCount::Twelve).unwrap();
    assert!(matches!(key.create(&path, Some("")), Err(KeystoreError::EmptyPassphrase)));
    assert!(matches!(Key::open(&path, None), Err(KeystoreError::Missing { .. })));
    key.create_at_cost(&path, Some("right"), CHEAP).unwrap();
    assert!(matches!(Key::open(&path, None), Err(KeystoreError::PassphraseNeeded { .. })));
    assert!(matches!(Key::open(&path, Some("wrong")), Err(KeystoreError::WrongPassphrase { .. })));

    let written = fs::read_to_string(&path).unwrap();
    let damages: [(&str, &str); 5] = [
        ("memory_kib = 64", "memory_kib = 4294967295"),
        ("passes = 1", "passes = 1000000"),
        ("salt = \"", "salt = \"zz"),
        ("[sealed]", "entropy = \"00\"\n[sealed]"),
        ("kdf = \"argon2id\"", "kdf = \"md5\""),
    ];
    for (from, to) in damages {
        assert!(written.contains(from), "{from}");
        fs::write(&path, written.replace(from, to)).unwrap();
        let error = Key::open(&path, Some("right")).unwrap_err();
        assert!(matches!(error, KeystoreError::Damaged { .. }), "{from}: {error}");
    }

    // Another node's name on this secret does not open.
    let other = Key::generate(WordCount::Twelve).unwrap().public_key().to_bytes();
    fs::write(&path, written.replace(&hex::encode(key.public_key().to_bytes()), &hex::encode(other)))
        .unwrap();
    assert!(matches!(Key::open(&path, Some("right")), Err(KeystoreError::WrongPassphrase { .. })));
}

#[test]
fn a_damaged_or_newer_file_is_refused_and_never_panics() {
    let (_directory, path) = place();
    let key = Key::generate(WordCount::Twelve).unwrap();
    key.create(&path, None).unwrap();
    let written = fs::read(&path).unwrap();
    for length in 0..written.len() - 1 {
        fs::write(&path, &written[..length]).unwrap();
        let error = Key::open(&path, None).unwrap_err();
        assert!(matches!(error, KeystoreError::Damaged { .. }), "{length}: {error}");
    }
    for junk in [&[0xff; 100][..], &[0; 100_000], b"version = \"x\""] {
        fs::write(&path, junk).unwrap();
        assert!(matches!(Key::open(&path, None), Err(KeystoreError::Damaged { .. })));
    }
    fs::write(&path, &written).unwrap();
    rewrite(&path, |text| text.replace("version = 1", "version = 2\nsomething_new = true"));
    assert!(matches!(Key::open(&path, None), Err(KeystoreError::Newer { version: 2, .. })));
    fs::write(&path, &written).unwrap();
    rewrite(&path, |text| text.replace("entropy = \"", "entropy = \"00000000"));
    assert!(matches!(Key::open(&path, None), Err(KeystoreError::Damaged { .. })));
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_directory, path) = place();
    Key::generate(WordCount::Twelve).unwrap().create(&path, None).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o660, 0o700] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Key::open(&path, None).unwrap_err();
        assert!(matches!(error, KeystoreError::TooOpen { .. }), "{mode:o}");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Key::open(&path, None).unwrap();
    }
}

#[test]
fn a_passphrase_can_be_changed_and_an_interrupted_change_leaves_the_old_key() {
    let (_directory, path) = place();
    let key = Key::generate(WordCount::Twelve).unwrap();
    key.create(&path, None).unwrap();
    fs::write(path.with_file_name("key.new"), "half a file").unwrap();
    assert_eq!(Key::open(&path, None).unwrap().public_key(), key.public_key());
    Key::change_passphrase(&path, None, Some("new")).unwrap();
    assert!(!path.with_file_name("key.new").exists());
    assert!(matches!(Key::open(&path, None), Err(KeystoreError::PassphraseNeeded { .. })));
    assert_eq!(Key::open(&path, Some("new")).unwrap().words(), key.words());
}
