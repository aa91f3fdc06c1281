//! `sensora wallet backup` and `verify-backup`: one encrypted file, and what is in one.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::Path;

use sensora_chain::Txid;
use sensora_chain::keys::PrivateKey;
use sensora_node::backup::{self, Backup, BackupError, Lock, LockKind, Overwrite, Summary};
use sensora_node::home::Home;
use sensora_node::keystore::{self, Key};
use sensora_node::store::{self, Store, StoreError};
use sensora_protocol::identity::peer_id;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::BalanceReport;
use crate::args::{BackupArgs, VerifyBackupArgs};
use crate::cmd::init::read_words;
use crate::context::{Context, ask_secret};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{counted, duration, sat, time_ms};

/// The passphrase of a backup, for programs; people are asked.
pub(super) const PASSPHRASE_VARIABLE: &str = "SENSORA_BACKUP_PASSPHRASE";

/// Writes a backup.
pub(super) fn write(args: &BackupArgs, context: &Context) -> Outcome<Exit> {
    let passphrase = new_passphrase(args.passphrase)?;
    let home = Home::open(context.paths()?)?;
    let config = context.config(home.paths())?;
    let network = context.global.network.unwrap_or(config.network);
    let key = context.open_key(home.paths())?;
    let store = Store::open(&home.paths().store(), network, &key.public_key())?;
    let with_words = passphrase.as_ref().map(|_| &key);
    let backup = Backup::take(&store, network, &key.public_key(), with_words, context.clock.now_ms())?;
    // What cannot be read back is no backup: that shows here, and not when it is needed.
    let summary = backup.summary()?;
    let lock = match &passphrase {
        Some(passphrase) => Lock::Passphrase(passphrase),
        None => Lock::Key(key.private_key()),
    };
    let sealed = backup.seal(lock)?;
    if !args.force {
        backup::refuse_richer(&args.file, &backup, lock)?;
    }
    let overwrite = if args.force { Overwrite::Anything } else { Overwrite::Own(lock) };
    backup::write_file(&args.file, &sealed, &backup, overwrite)?;
    let out = &context.out;
    if out.is_json() {
        let mut document = summary_json(&summary);
        document.insert("file".to_owned(), json!(args.file));
        document.insert("bytes".to_owned(), json!(sealed.len()));
        document.insert(
            "locked_with".to_owned(),
            json!(locked_with(passphrase.as_ref().map_or(LockKind::Key, |_| LockKind::Passphrase))),
        );
        out.document(&document)?;
        return Ok(Exit::Ok);
    }
    out.field("file", args.file.display())?;
    out.field("bytes", sealed.len())?;
    show_summary(&summary, context)?;
    out.note(match passphrase {
        Some(_) => "\nThe passphrase opens it, and nothing else does: the words of the key are in it.",
        None => "\nThe words of the key open it (`sensora wallet words`), and so does a home with that key.",
    });
    Ok(Exit::Ok)
}

/// Opens a backup and says what is in it.
pub(super) fn verify(args: &VerifyBackupArgs, context: &Context) -> Outcome<Exit> {
    let file = backup::read_file(&args.file)?;
    let kind = backup::lock_of(&file)?;
    let paths = context.paths()?;
    let home_key = keystore::inspect(&paths.key()).ok().map(|info| info.public_key);
    let backup = match kind {
        LockKind::Passphrase => Backup::open(&file, Lock::Passphrase(&passphrase()?))?,
        LockKind::Key if !args.words && home_key.is_some() => {
            let key = context.open_key(&paths)?;
            open_with_key(&file, key.private_key())?
        }
        LockKind::Key => open_with_key(&file, Key::from_words(read_words()?)?.private_key())?,
    };
    let summary = backup.summary()?;
    let same = home_key.as_ref() == Some(backup.public_key());
    let behind = if same { behind(&backup, context)? } else { None };
    let out = &context.out;
    if out.is_json() {
        let mut document = summary_json(&summary);
        document.insert("ok".to_owned(), json!(true));
        document.insert("file".to_owned(), json!(args.file));
        document.insert("locked_with".to_owned(), json!(locked_with(kind)));
        document.insert("of_this_home".to_owned(), json!(same));
        document.insert(
            "behind".to_owned(),
            behind
                .map_or(json!(null), |behind| json!({"transactions": behind.transactions, "ms": behind.ms})),
        );
        out.document(&document)?;
        return Ok(Exit::Ok);
    }
    show_summary(&summary, context)?;
    out.field("opened by", locked_with(kind))?;
    match (same, home_key, behind) {
        (_, None, _) => {
            out.field("this home", "has no key: `sensora wallet restore` puts the backup there")?;
        }
        (false, Some(key), _) => {
            out.field("this home", out.paint().warn(&format!("has another key: {}", peer_id(&key))))?;
        }
        (true, _, None) => out.field("this home", "has the same key, and another network")?,
        (true, _, Some(behind)) => {
            let age = duration(std::time::Duration::from_millis(behind.ms));
            out.field("this home", format!("has the same key; the backup is {age} old"))?;
            let more = counted(behind.transactions, "transaction");
            out.field(
                "behind",
                if behind.transactions == 0 { "nothing: all is in it".to_owned() } else { more },
            )?;
        }
    }
    out.line(out.paint().good("the backup is whole and can be restored"))?;
    Ok(Exit::Ok)
}

/// How much has happened here since a backup of this home.
struct Behind {
    transactions: u64,
    ms: u64,
}

fn behind(backup: &Backup, context: &Context) -> Outcome<Option<Behind>> {
    let home = crate::cmd::offline::Offline::open(context)?;
    if home.network != backup.network() {
        return Ok(None);
    }
    let then = backup.transactions()?;
    let now = transactions(&home.store)?;
    let transactions = u64::try_from(now.difference(&then).count()).unwrap_or(u64::MAX);
    let ms = context.clock.now_ms().saturating_sub(backup.created_ms());
    Ok(Some(Behind { transactions, ms: u64::try_from(ms).unwrap_or(0) }))
}

fn transactions(store: &Store) -> Outcome<BTreeSet<Txid>> {
    let archived = store.read(store::wallet::archived)?;
    let wallet = store.read::<_, StoreError>(store::wallet::get)?;
    Ok(archived.into_iter().chain(wallet.history()).map(|line| line.txid).collect())
}

/// Opens a backup that is locked with the words.
pub(super) fn open_with_key(file: &[u8], key: &PrivateKey) -> Outcome<Backup> {
    Ok(Backup::open(file, Lock::Key(key))?)
}

/// The passphrase of a backup that has one.
pub(super) fn passphrase() -> Outcome<Zeroizing<String>> {
    if let Ok(given) = std::env::var(PASSPHRASE_VARIABLE) {
        return Ok(Zeroizing::new(given));
    }
    if !std::io::stdin().is_terminal() {
        return Err(BackupError::PassphraseNeeded.into());
    }
    ask_secret("Passphrase of the backup: ")
}

/// A passphrase to lock a new backup with, where one is wanted.
fn new_passphrase(wanted: bool) -> Outcome<Option<Zeroizing<String>>> {
    let passphrase = match std::env::var(PASSPHRASE_VARIABLE) {
        Ok(given) => Zeroizing::new(given),
        Err(_) if !wanted => return Ok(None),
        Err(_) if !std::io::stdin().is_terminal() => {
            return Err(Failure::usage("--passphrase needs a terminal to ask on").hint(format!(
                "set {PASSPHRASE_VARIABLE}, or leave out --passphrase to lock the backup with the words"
            )));
        }
        Err(_) => {
            let first = ask_secret("Passphrase for the backup: ")?;
            if first != ask_secret("The same again: ")? {
                return Err(Failure::usage("the two passphrases differ").hint("try again"));
            }
            first
        }
    };
    if passphrase.is_empty() { Err(BackupError::EmptyPassphrase.into()) } else { Ok(Some(passphrase)) }
}

fn locked_with(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Key => "words",
        LockKind::Passphrase => "passphrase",
    }
}

/// What is in a backup, as JSON.
pub(super) fn summary_json(summary: &Summary) -> serde_json::Map<String, Value> {
    let fields = [
        ("network", json!(summary.network)),
        ("peer_id", json!(summary.peer_id)),
        ("created_ms", json!(summary.created_ms)),
        ("program", json!(summary.program)),
        ("has_words", json!(summary.has_words)),
        ("balance", json!(BalanceReport::from(summary.balance))),
        ("coins", json!(summary.coins)),
        ("transactions", json!(summary.transactions)),
        ("purchases", json!(summary.purchases)),
        ("sales", json!(summary.sales)),
        ("waiting", json!(summary.waiting)),
        ("streams", json!(summary.streams)),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

/// What is in a backup, for people.
pub(super) fn show_summary(summary: &Summary, context: &Context) -> Outcome {
    let out = &context.out;
    out.field("node", &summary.peer_id)?;
    out.field("network", summary.network)?;
    out.field("made", format!("{} by sensora {}", time_ms(summary.created_ms), summary.program))?;
    out.field("balance", out.paint().bold(&sat(summary.balance.total)))?;
    let count = |count: usize, thing: &str| counted(u64::try_from(count).unwrap_or(u64::MAX), thing);
    out.field(
        "wallet",
        format!("{}, {}", count(summary.coins, "coin"), count(summary.transactions, "transaction")),
    )?;
    let orders = format!("{}, {}", count(summary.purchases, "purchase"), count(summary.sales, "sale"));
    out.field("orders", format!("{orders}, {} to go out", count(summary.waiting, "transaction")))?;
    if summary.streams > 0 {
        out.field("streams", format!("{} by name; readings are not in backups", summary.streams))?;
    }
    Ok(())
}

/// Whether the words could be read from where the command gets its input.
pub(super) fn key_for(file: &[u8], home_key: Option<Key>, path: &Path) -> Outcome<(Backup, Key)> {
    match (backup::lock_of(file)?, home_key) {
        (LockKind::Passphrase, _) => {
            let backup = Backup::open(file, Lock::Passphrase(&passphrase()?))?;
            let key = backup.key()?.ok_or_else(|| {
                Failure::new(Exit::Unverified, format!("{} holds no words of a key", path.display()))
            })?;
            Ok((backup, key))
        }
        (LockKind::Key, Some(key)) => Ok((open_with_key(file, key.private_key())?, key)),
        (LockKind::Key, None) => {
            let key = Key::from_words(read_words()?)?;
            Ok((open_with_key(file, key.private_key())?, key))
        }
    }
}
