//! `sensora wallet export-keys`, `export-watch` and `watch`: keys for other wallets, and a view without keys.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::Path;

use sensora_chain::keys::PrivateKey;
use sensora_chain::wallet::{Coin, CoinState, Counterparty, KeyRow, KeySource, Wallet};
use sensora_chain::{Network, Satoshis};
use sensora_node::store::{self, StoreError};
use sensora_node::watch_only::{self, WatchFile, WatchWallet};
use sensora_protocol::identity::peer_id;
use serde::Serialize;
use serde_json::json;

use crate::args::{ExportKeysArgs, ExportWatchArgs, WatchArgs};
use crate::cmd::session::Session;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, counted, sat};

/// One key.
#[derive(Serialize)]
struct Line {
    outpoint: Option<String>,
    value_sat: Option<Satoshis>,
    state: Option<&'static str>,
    address: String,
    counterparty: String,
    invoice: String,
    wif: String,
}

/// Prints the keys of the coins.
pub(super) fn keys(args: &ExportKeysArgs, context: &Context) -> Outcome<Exit> {
    if !args.i_know_these_are_secrets {
        return Err(Failure::usage("whoever sees private keys can spend the coins, so they are not printed just like that")
            .hint("look who can see your screen, your shell's history and the file you write to; then add --i-know-these-are-secrets"));
    }
    let open = context.open_home()?;
    let wallet = open.store.read::<_, StoreError>(store::wallet::get)?;
    let (root, network) = (open.identity.key(), open.network);
    let mut lines: Vec<Line> = wallet.coins().iter().map(|coin| line_of(coin, root, network)).collect();
    if args.all {
        lines.extend(rows(&wallet).map(|source| key_line(&source, root, network)));
    }
    let out = &context.out;
    out.warn("these are private keys: whoever has one can spend what its address holds");
    if out.is_json() {
        out.document(&json!({"network": network, "keys": lines}))?;
        return Ok(Exit::Ok);
    }
    if lines.is_empty() {
        out.note("the wallet holds no coin");
        return Ok(Exit::Ok);
    }
    let mut table =
        Table::new(["coin", "#value", "state", "address", "derived with", "invoice", "key (WIF)"]);
    for line in lines {
        table.row([
            line.outpoint.unwrap_or_default(),
            line.value_sat.map(sat).unwrap_or_default(),
            line.state.unwrap_or_default().to_owned(),
            line.address,
            line.counterparty,
            line.invoice,
            line.wif,
        ]);
    }
    out.table(&table)?;
    Ok(Exit::Ok)
}

/// Every key that follows from a number and may have been used.
fn rows(wallet: &Wallet) -> impl Iterator<Item = KeySource> {
    let numbers = KeyRow::ALL.map(|row| (row, wallet.next_number(row)));
    numbers.into_iter().flat_map(|(row, next)| (0..next).map(move |number| row.key(number)))
}

fn line_of(coin: &Coin, root: &PrivateKey, network: Network) -> Line {
    let state = match coin.state {
        CoinState::Confirmed(_) => "confirmed",
        CoinState::Unconfirmed => "unconfirmed",
        CoinState::Reserved => "reserved",
        CoinState::Pending => "pending",
    };
    Line {
        outpoint: Some(coin.outpoint.to_string()),
        value_sat: Some(coin.value),
        state: Some(state),
        ..key_line(&coin.key, root, network)
    }
}

fn key_line(source: &KeySource, root: &PrivateKey, network: Network) -> Line {
    let key = source.private_key(root);
    Line {
        outpoint: None,
        value_sat: None,
        state: None,
        address: key.public().address(network).to_string(),
        counterparty: match &source.counterparty {
            Counterparty::Myself => "self".to_owned(),
            Counterparty::Peer(peer) => peer_id(peer),
        },
        invoice: source.invoice.clone(),
        wif: key.wif(network).to_string(),
    }
}

/// Writes what others may watch.
pub(super) fn watch_file(args: &ExportWatchArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    let wallet = open.store.read::<_, StoreError>(store::wallet::get)?;
    let file = WatchFile::of(&wallet, open.identity.key(), open.network, context.clock.now_ms())?;
    let mut text = serde_json::to_string_pretty(&file)
        .map_err(|error| Failure::other(format!("cannot write the watch file: {error}")))?;
    text.push('\n');
    let out = &context.out;
    if args.file == Path::new("-") {
        let mut stdout = crate::output::Out::raw();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::stdout(&error))?;
        return Ok(Exit::Ok);
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(args.force).create_new(!args.force);
    // No secret is in it, but all that this home has.
    sensora_node::home::private(&mut options);
    let written = options.open(&args.file).and_then(|mut to| {
        to.write_all(text.as_bytes())?;
        to.sync_all()
    });
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} is there already", args.file.display()))
                .hint("name another file, or replace it with --force")
        }
        _ => Failure::file("write", &args.file, &error),
    })?;
    if out.is_json() {
        out.document(
            &json!({"file": args.file, "coins": file.coins.len(), "addresses": file.addresses.len()}),
        )?;
    } else {
        let count = |count: usize, thing: &str| counted(u64::try_from(count).unwrap_or(u64::MAX), thing);
        out.field("file", args.file.display())?;
        out.field("coins", file.coins.len())?;
        out.field("addresses", file.addresses.len())?;
        out.note(format!(
            "\nThere is no key in it. Who has it sees {} and what becomes of them.",
            count(file.coins.len(), "coin")
        ));
    }
    Ok(Exit::Ok)
}

/// Shows what a watch file is worth.
pub(super) fn watch(args: &WatchArgs, context: &Context) -> Outcome<Exit> {
    let opened =
        std::fs::File::open(&args.file).map_err(|error| Failure::file("open", &args.file, &error))?;
    let mut bytes = Vec::new();
    let read = opened.take(watch_only::MAX_FILE.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Failure::file("read", &args.file, &error))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > watch_only::MAX_FILE) {
        let text = format!(
            "{} is longer than {} bytes: it is no watch file",
            args.file.display(),
            watch_only::MAX_FILE
        );
        return Err(Failure::new(Exit::Unverified, text));
    }
    let file = WatchFile::parse(&bytes)?;
    let open = context.open_home()?;
    let mut watched = WatchWallet::new(&file, open.network)?;
    context.block_on(async {
        let session = Session::start_alone(context, open, &args.network).await?;
        let refreshed = async {
            if session.node.chain().dev_chain().is_none() {
                session.ready(context).await?;
            }
            session.sync().await?;
            Ok::<_, Failure>(watched.refresh(session.node.chain()).await?)
        }
        .await;
        session.stop().await;
        refreshed
    })?;
    let balance = watched.balance();
    let out = &context.out;
    let total = balance.confirmed.checked_add(balance.unconfirmed).unwrap_or(Satoshis::MAX);
    if out.is_json() {
        let spent: Vec<_> =
            watched.spent().iter().map(|(coin, by)| json!({"coin": coin.to_string(), "by": by})).collect();
        out.document(&json!({
            "total_sat": total,
            "confirmed_sat": balance.confirmed,
            "unconfirmed_sat": balance.unconfirmed,
            "coins": balance.coins,
            "spent": spent,
            "made_ms": file.made_ms,
        }))?;
        return Ok(Exit::Ok);
    }
    out.field("total", out.paint().bold(&sat(total)))?;
    out.field("confirmed", sat(balance.confirmed))?;
    out.field("unconfirmed", sat(balance.unconfirmed))?;
    out.field("coins", balance.coins)?;
    if !watched.spent().is_empty() {
        out.field("spent", format!("{} since the file was made", watched.spent().len()))?;
    }
    Ok(Exit::Ok)
}
