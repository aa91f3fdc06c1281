//! `sensora wallet restore`: a backup into an empty home.

use sensora_node::backup::{self, BackupError};
use sensora_node::config::Config;
use sensora_node::home::Home;
use sensora_node::keystore;
use sensora_node::store::Store;
use sensora_protocol::identity::peer_id;
use serde_json::json;

use super::backup::{key_for, show_summary, summary_json};
use crate::args::RestoreArgs;
use crate::cmd::init::{config_text, key_passphrase};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Puts a backup back.
pub(super) fn run(args: &RestoreArgs, context: &Context) -> Outcome<Exit> {
    let file = backup::read_file(&args.file)?;
    // Everything is looked at before anything is made.
    backup::lock_of(&file)?;
    let paths = context.paths()?;
    let has_key = std::fs::symlink_metadata(paths.key()).is_ok();
    let home_key = if has_key { Some(context.open_key(&paths)?) } else { None };
    let known = home_key.as_ref().map(keystore::Key::public_key);
    let (backup, key) = key_for(&file, home_key, &args.file)?;
    if let Some(known) = known.filter(|known| known != backup.public_key()) {
        let (found, expected) = (peer_id(backup.public_key()), peer_id(&known));
        return Err(BackupError::Key { found, expected }.into());
    }
    let has_config = paths.config().exists();
    let configured = if has_config { Some(context.config(&paths)?.network) } else { None };
    if let Some(expected) =
        context.global.network.or(configured).filter(|network| *network != backup.network())
    {
        return Err(BackupError::Network { found: backup.network(), expected }.into());
    }
    let summary = backup.summary()?;
    let passphrase = if has_key { None } else { key_passphrase(args.passphrase)? };

    let home = Home::create(paths.clone())?;
    let store_path = home.paths().store();
    // An empty home of the same key: one that holds anything is refused before a file of it is touched.
    let store = Store::open(&store_path, backup.network(), backup.public_key())?;
    sensora_node::backup::Backup::refuse_used(&store)?;
    // Key and configuration first: a crash between leaves an empty home, into which the same command restores again.
    if !has_config {
        let text = config_text(backup.network(), &args.network)?;
        let config = paths.config();
        std::fs::write(&config, text).map_err(|error| Failure::file("write", &config, &error))?;
        Config::load(&config).map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    }
    if !has_key {
        key.create(&paths.key(), passphrase.as_ref().map(|text| text.as_str()))?;
    }
    backup.restore(&store, context.clock.now_ms())?;
    let out = &context.out;
    if out.is_json() {
        let mut document = summary_json(&summary);
        document.insert("home".to_owned(), json!(home.paths().root()));
        document.insert("restored".to_owned(), json!(true));
        out.document(&document)?;
        return Ok(Exit::Ok);
    }
    out.field("home", home.paths().root().display())?;
    show_summary(&summary, context)?;
    out.note(
        "\nNext: `sensora wallet recover` looks up on the chain what happened since. Do not let two homes with one key run at the same time.",
    );
    Ok(Exit::Ok)
}
