//! `sensora init`: a key, shown once as words, and a configuration with every key explained.

use std::io::{IsTerminal as _, Read as _};

use sensora_chain::Network;
use sensora_node::config::Config;
use sensora_node::home::Home;
use sensora_node::keystore::{Key, KeystoreError, WordCount, Words};
use sensora_protocol::identity::peer_id;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args::{InitArgs, NetworkArgs};
use crate::context::{Context, PASSPHRASE_VARIABLE, ask_secret, passphrase_from_environment};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// No phrase is longer: 24 words of at most 8 letters, with room for generous spacing.
const MAX_PHRASE: u64 = 1024;

/// What `--json` prints.
#[derive(Serialize)]
struct Made<'a> {
    home: &'a std::path::Path,
    peer_id: String,
    network: Network,
    sealed: bool,
    /// The words of a new key; absent where the key was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<&'a str>,
}

/// Makes the home.
pub(super) fn run(args: &InitArgs, context: &Context) -> Outcome<Exit> {
    let paths = context.paths()?;
    let home = Home::create(paths.clone())?;
    let key_path = paths.key();
    // Before anybody types words for nothing.
    if std::fs::symlink_metadata(&key_path).is_ok() {
        return Err(KeystoreError::Exists { path: key_path }.into());
    }
    let network = context.global.network.unwrap_or(Network::Regtest);
    let key = if args.restore { Key::from_words(read_words()?)? } else { Key::generate(count(args.words)?)? };
    let passphrase = key_passphrase(args.passphrase)?;
    let config = paths.config();
    if !config.exists() {
        let text = config_text(network, &args.bootstrap)?;
        std::fs::write(&config, text).map_err(|error| Failure::file("write", &config, &error))?;
    }
    key.create(&key_path, passphrase.as_ref().map(|text| text.as_str()))?;

    let phrase = key.words().phrase();
    let peer_id = peer_id(&key.public_key());
    let out = &context.out;
    if out.is_json() {
        let words = (!args.restore).then_some(phrase.as_str());
        out.document(&Made {
            home: home.paths().root(),
            peer_id,
            network,
            sealed: passphrase.is_some(),
            words,
        })?;
        return Ok(Exit::Ok);
    }
    out.field("home", home.paths().root().display())?;
    out.field("peer id", &peer_id)?;
    out.field("network", network)?;
    if !args.restore {
        out.line("")?;
        out.line(
            "These words are the key. Write them on paper; who has them has the node's money and name.",
        )?;
        out.line("")?;
        for (row, words) in phrase.split(' ').collect::<Vec<_>>().chunks(6).enumerate() {
            let number = row.saturating_mul(6).saturating_add(1);
            out.line(format!("  {number:>2}  {}", out.paint().bold(&words.join(" "))))?;
        }
    }
    out.note(format!(
        "\nNext: look into {}, then `sensora agent` to sell or `sensora search` to buy.",
        config.display()
    ));
    Ok(Exit::Ok)
}

/// The default configuration, with the network and the addresses that were given.
pub(super) fn config_text(network: Network, flags: &NetworkArgs) -> Outcome<String> {
    // The flags are checked as addresses first, so that no mistake is written down.
    super::session::apply(&mut Config::default(), flags)?;
    let list = |texts: &[String]| {
        format!("[{}]", texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", "))
    };
    let network = format!("\"{network}\"");
    let (bootstrap, listen) = (list(&flags.bootstrap), list(&flags.listen));
    let mut set = vec![("", "network", network.as_str())];
    if !flags.bootstrap.is_empty() {
        set.push(("net", "bootstrap", &bootstrap));
    }
    if !flags.listen.is_empty() {
        set.push(("net", "listen", &listen));
    }
    Config::default_toml_with(&set).map_err(|error| Failure::usage(error.to_string()))
}

fn count(words: u8) -> Outcome<WordCount> {
    match words {
        12 => Ok(WordCount::Twelve),
        24 => Ok(WordCount::TwentyFour),
        other => Err(Failure::usage(format!("a new key has 12 or 24 words, not {other}")).hint("--words 12")),
    }
}

/// The words of a key, typed or from standard input.
pub(super) fn read_words() -> Outcome<Words> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(Words::parse(&ask_secret("Words of the key: ")?)?);
    }
    let mut text = Zeroizing::new(String::with_capacity(2048));
    let read = stdin.lock().take(MAX_PHRASE).read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("cannot read the words from standard input: {error}")))?;
    Ok(Words::parse(&text)?)
}

/// A passphrase to seal a new key file under, where one is wanted.
pub(super) fn key_passphrase(wanted: bool) -> Outcome<Option<Zeroizing<String>>> {
    if let Some(given) = passphrase_from_environment() {
        return Ok(Some(given));
    }
    if !wanted {
        return Ok(None);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("--passphrase needs a terminal to ask on")
            .hint(format!("set {PASSPHRASE_VARIABLE}")));
    }
    let first = ask_secret("Passphrase for the key: ")?;
    if first != ask_secret("The same again: ")? {
        return Err(Failure::usage("the two passphrases differ").hint("try again"));
    }
    Ok(Some(first))
}
