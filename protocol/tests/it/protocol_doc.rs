//! The documents tell the truth: every example in them decodes, is golden, and every error code and limit is there.

use std::collections::BTreeMap;

use sensora_chain::beef::BeefLimits;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{ad, chain_access, codec, market, stream};

use crate::golden::{self, Vector};

const DOCUMENTS: [&str; 2] = ["protocol.md", "onchain.md"];

fn path(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The golden vectors by type and name, as in the first line of an example: `hex order: order body`.
fn by_name() -> BTreeMap<String, Vector> {
    golden::all().into_iter().map(|vector| (format!("{}: {}", vector.kind, vector.name), vector)).collect()
}

/// The bytes of an example, 64 to a line.
fn lines(bytes: &[u8]) -> Vec<String> {
    bytes.chunks(64).map(hex::encode).collect()
}

/// Each example: its first line after `hex`, and its hex digits.
fn examples(text: &str) -> Vec<(String, String)> {
    let mut examples = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(label) = line.strip_prefix("```hex ") {
            let body: String = lines.by_ref().take_while(|line| *line != "```").collect();
            examples.push((label.to_owned(), body));
        }
    }
    examples
}

/// With `SENSORA_WRITE_GOLDEN=1` the examples are written anew from the golden bytes.
fn write(name: &str, text: &str, golden: &BTreeMap<String, Vector>) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut source = text.lines();
    while let Some(line) = source.next() {
        out.push(line.to_owned());
        if let Some(label) = line.strip_prefix("```hex ") {
            let vector = golden.get(label).unwrap_or_else(|| panic!("{name}: no golden bytes {label}"));
            source.by_ref().take_while(|line| *line != "```").for_each(drop);
            out.extend(lines(&vector.bytes));
            out.push("```".to_owned());
        }
    }
    let text = out.join("\n") + "\n";
    std::fs::write(path(name), &text).unwrap();
    text
}

#[test]
fn every_example_in_the_documents_is_golden() {
    let golden = by_name();
    let rewrite = std::env::var("SENSORA_WRITE_GOLDEN").is_ok_and(|value| value == "1");
    for name in DOCUMENTS {
        let mut text = text(name);
        if rewrite {
            text = write(name, &text, &golden);
        }
        let examples = examples(&text);
        assert!(examples.len() >= 6, "{name}: the examples are no longer found");
        for (label, body) in examples {
            let vector = golden.get(&label).unwrap_or_else(|| panic!("{name}: no golden bytes {label}"));
            let bytes = hex::decode(&body).unwrap_or_else(|e| panic!("{name}: {label}: {e}"));
            let written = golden::rewrite(&vector.kind, &bytes).unwrap();
            assert_eq!(written, bytes, "{name}: {label} is not written the same again");
            assert_eq!(bytes, vector.bytes, "{name}: {label} is not the golden one");
        }
    }
}

/// Hashes and keys within the text are golden, too.
#[test]
fn every_long_number_in_the_documents_is_golden() {
    let mut known = String::new();
    for vector in golden::all() {
        known += &hex::encode(&vector.bytes);
        for value in vector.more.values() {
            known.push(' ');
            known += value;
        }
        known.push(' ');
    }
    for name in DOCUMENTS {
        let text = text(name);
        let words = text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() >= 24);
        let inline: Vec<&str> = words.collect();
        assert!(inline.len() > 6, "{name}");
        for word in inline {
            assert!(known.contains(word), "{name}: {word} is not in the golden files");
        }
        assert!(!text.contains("{{"), "{name}: a placeholder is left");
    }
    let order = by_name().remove("signed: order signed").unwrap();
    assert!(text("protocol.md").contains(&order.more["invoice"]), "the invoice number is another one now");
}

#[test]
fn every_error_code_is_in_its_table() {
    let text = text("protocol.md");
    let (_, tables) = text.split_once("\n### Market\n").unwrap();
    let (market, rest) = tables.split_once("\n### Chain\n").unwrap();
    let (chain, _) = rest.split_once("\n## ").unwrap();
    let check = |table: &str, codes: Vec<(&'static str, bool)>| {
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), codes.len(), "rows and codes");
        for (code, temporary) in codes {
            let row = rows.iter().find(|row| row[1] == format!("`{code}`"));
            let row = row.unwrap_or_else(|| panic!("`{code}` is not in the document"));
            assert_eq!(row[2], if temporary { "yes" } else { "no" }, "{code}");
        }
    };
    check(market, golden::market_refusals().iter().map(|r: &Refusal| (r.code(), r.is_temporary())).collect());
    check(chain, golden::chain_refusals().iter().map(|r| (r.code(), r.is_temporary())).collect());
}

#[test]
fn the_limits_are_those_of_the_code() {
    let text = text("protocol.md");
    let grouped = |number: usize| {
        let digits = number.to_string();
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
        groups.join(",")
    };
    let beef = BeefLimits::DEFAULT;
    let rows = [
        format!("| market request | {} bytes |", grouped(market::message::MAX_REQUEST_LEN)),
        format!("| market response | {} bytes |", grouped(market::message::MAX_RESPONSE_LEN)),
        format!("| frame to a seller | {} bytes |", grouped(market::delivery::frame::MAX_TO_SELLER_LEN)),
        format!("| frame to a buyer | {} bytes |", grouped(market::delivery::frame::MAX_TO_BUYER_LEN)),
        format!(
            "| frame under an order of single readings, to a seller and to a buyer | {} and {} bytes |",
            grouped(market::reads::frame::MAX_TO_SELLER_LEN),
            grouped(market::reads::frame::MAX_TO_BUYER_LEN)
        ),
        format!(
            "| questions open, runs of readings in an order of single readings | {} and {} |",
            market::reads::serve::MAX_OPEN,
            grouped(market::reads::asked::MAX_RUNS)
        ),
        format!("| orders that run on one channel | {} |", market::channel::spending::MAX_LANES),
        format!("| chain request | {} bytes |", grouped(chain_access::message::MAX_REQUEST_LEN)),
        format!("| chain response | {} bytes |", grouped(chain_access::message::MAX_RESPONSE_LEN)),
        format!(
            "| BEEF | {} bytes, {} transactions, {} Merkle paths |",
            grouped(beef.max_bytes),
            beef.max_txs,
            beef.max_bumps
        ),
        format!(
            "| ad, body and signed | {} and {} bytes |",
            grouped(ad::MAX_AD_LEN),
            grouped(ad::MAX_SIGNED_AD_LEN)
        ),
        format!("| CBOR nesting | {} |", codec::MAX_DEPTH),
        format!(
            "| readings in a run, in a page | {} and {} |",
            grouped(stream::CHUNK_LEN as usize),
            grouped(stream::chunk::MAX_PAGE_COUNT as usize)
        ),
        format!("| runs in a page | {} |", market::delivery::MAX_RUNS),
        format!("| columns of a run | {} bytes |", grouped(stream::columns::MAX_COLUMNS_LEN)),
    ];
    for row in rows {
        assert!(text.contains(&row), "the document does not say: {row}");
    }
    for id in [market::message::PROTOCOL, chain_access::PROTOCOL] {
        assert!(text.contains(id));
    }
    use sensora_protocol::statement::Statement;
    let statement = |name: &str, version: u16, max: usize| {
        let row = format!("| `{name}` | {version} | {max} |");
        assert!(text.contains(&row), "the document does not say: {row}");
    };
    statement(ad::Ad::NAME, ad::Ad::VERSION, ad::Ad::MAX_LEN);
    macro_rules! statements {
        ($($kind:ty),*) => { $(statement(<$kind>::NAME, <$kind>::VERSION, <$kind>::MAX_LEN);)* };
    }
    statements!(
        stream::checkpoint::Checkpoint,
        market::offer::Offer,
        market::order::Order,
        market::receipt::Receipt,
        market::channel::offer::ChannelOffer,
        market::live::LiveOffer,
        market::reads::offer::ReadsOffer,
        market::receipt::ChannelReceipt,
        market::key_release::offer::KeyReleaseOffer
    );
}
