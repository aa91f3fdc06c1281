//! What WhatsOnChain answers, read without believing it.

use serde::Deserialize;

use crate::header::{Header, Tip};
use crate::merkle_path::TscProof;
use crate::sources::http::{Read, json, tame};
use crate::sources::service::Unspent;
use crate::{BlockHash, OutPoint, Satoshis, Transaction, Txid};

/// The longest token for a next page that is sent back.
const MAX_TOKEN: usize = 1024;

#[derive(Deserialize)]
struct ChainInfo {
    chain: Option<String>,
    blocks: u32,
    bestblockhash: BlockHash,
}

/// The end of the chain, and the network that it is of.
pub(in crate::sources) fn chain_info(bytes: &[u8]) -> Read<(Tip, Option<String>)> {
    let info: ChainInfo = json(bytes)?;
    let chain = info.chain.filter(|chain| !chain.is_empty()).map(|chain| tame(&chain));
    Ok((Tip { height: info.blocks, hash: info.bestblockhash }, chain))
}

#[derive(Deserialize)]
struct HeaderBody {
    hash: BlockHash,
    height: u32,
    version: i64,
    merkleroot: BlockHash,
    time: u32,
    nonce: u32,
    bits: String,
    previousblockhash: Option<String>,
}

/// A header, put together from its fields, with its height. Its hash is the one that is named.
pub(in crate::sources) fn header(bytes: &[u8]) -> Read<(Header, u32)> {
    let body: HeaderBody = json(bytes)?;
    // Nodes write the version as a signed number.
    let version = match (u32::try_from(body.version), i32::try_from(body.version)) {
        (Ok(version), _) => version,
        (_, Ok(version)) => version.cast_unsigned(),
        _ => return Err(format!("a header's version cannot be {}", body.version)),
    };
    let bits = u32::from_str_radix(&body.bits, 16)
        .map_err(|_| format!("a header's bits are 8 hexadecimal digits, not \"{}\"", tame(&body.bits)))?;
    let previous = match body.previousblockhash.as_deref() {
        None | Some("") => BlockHash::default(),
        Some(text) => text.parse().map_err(|e| format!("previousblockhash: {e}"))?,
    };
    let header = Header::new(version, previous, body.merkleroot.0, body.time, bits, body.nonce);
    if header.hash() != body.hash {
        return Err(format!("its header {} has the hash {}", body.hash, header.hash()));
    }
    Ok((header, body.height))
}

/// A transaction in hex that has the id that was asked for.
pub(in crate::sources) fn transaction(bytes: &[u8], txid: &Txid) -> Read<Transaction> {
    let bytes = hex::decode(trim(bytes)).map_err(|e| format!("a transaction in hex was asked for: {e}"))?;
    let tx = Transaction::from_bytes(&bytes).map_err(|e| e.to_string())?;
    if tx.txid() == *txid { Ok(tx) } else { Err(format!("asked for {txid}, it sends {}", tx.txid())) }
}

/// Without the space around, and without the quotes that make JSON of it.
fn trim(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.trim_ascii();
    bytes.strip_prefix(b"\"").and_then(|bytes| bytes.strip_suffix(b"\"")).unwrap_or(bytes)
}

/// The id that it gives to a transaction that was sent.
pub(in crate::sources) fn sent(bytes: &[u8], txid: &Txid) -> Read<()> {
    let text = String::from_utf8_lossy(trim(bytes));
    match text.trim().parse::<Txid>() {
        Ok(found) if found == *txid => Ok(()),
        _ => Err(format!("{txid} was sent, it answers \"{}\"", tame(&text))),
    }
}

/// Where a transaction stands.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sources) enum Standing {
    Unknown,
    Waiting,
    Mined(Mined),
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::sources) struct Mined {
    pub(in crate::sources) height: Option<u32>,
    pub(in crate::sources) block: Option<BlockHash>,
}

#[derive(Deserialize)]
struct StatusBody {
    txid: Txid,
    error: Option<String>,
    blockhash: Option<String>,
    blockheight: Option<i64>,
    confirmations: Option<i64>,
}

/// Where the one transaction that was asked about stands.
pub(in crate::sources) fn standing(bytes: &[u8], txid: &Txid) -> Read<Standing> {
    let all: Option<Vec<StatusBody>> = json(bytes)?;
    let Some(body) = all.into_iter().flatten().find(|body| body.txid == *txid) else {
        return Err(format!("asked about {txid}, it says nothing about it"));
    };
    match body.error.as_deref() {
        None | Some("") => {}
        Some("unknown") => return Ok(Standing::Unknown),
        Some(other) => return Err(format!("it says of {txid}: {}", tame(other))),
    }
    let block = match body.blockhash.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|e| format!("blockhash: {e}"))?),
    };
    let height = body.blockheight.and_then(|height| u32::try_from(height).ok()).filter(|height| *height > 0);
    let is_mined = block.is_some() || body.confirmations.is_some_and(|count| count > 0);
    Ok(if is_mined { Standing::Mined(Mined { height, block }) } else { Standing::Waiting })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Proofs {
    Many(Vec<TscProof>),
    One(TscProof),
}

/// The proof for a block, the one that is named or else the first; `None` if there is none.
pub(in crate::sources) fn proof(
    bytes: &[u8],
    block: Option<&BlockHash>,
) -> Read<Option<(TscProof, BlockHash)>> {
    let proofs = match json::<Option<Proofs>>(bytes)? {
        None => Vec::new(),
        Some(Proofs::Many(proofs)) => proofs,
        Some(Proofs::One(proof)) => vec![proof],
    };
    for proof in proofs {
        let target = proof.target.parse().map_err(|e| format!("the target of a proof: {e}"))?;
        if block.is_none_or(|block| *block == target) {
            return Ok(Some((proof, target)));
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
struct SpentBody {
    txid: Txid,
    status: Option<String>,
}

/// What spends an output, and whether that still waits for a block.
pub(in crate::sources) fn spent(bytes: &[u8]) -> Read<(Txid, bool)> {
    let body: SpentBody = json(bytes)?;
    Ok((body.txid, body.status.is_some_and(|status| status.eq_ignore_ascii_case("unconfirmed"))))
}

#[derive(Deserialize)]
struct UnspentPage {
    result: Option<Vec<UnspentBody>>,
    error: Option<String>,
    #[serde(rename = "nextPageToken")]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum UnspentAnswer {
    Page(UnspentPage),
    /// Without pages, as older paths answer.
    All(Vec<UnspentBody>),
}

#[derive(Deserialize)]
struct UnspentBody {
    tx_hash: Txid,
    tx_pos: u32,
    value: u64,
    height: Option<i64>,
    status: Option<String>,
    #[serde(rename = "isSpentInMempoolTx", default)]
    is_spent: bool,
}

/// Unspent outputs, and the token for more of them, fit for an address.
pub(in crate::sources) fn unspent(bytes: &[u8]) -> Read<(Vec<Unspent>, Option<String>)> {
    let page = match json(bytes).map_err(|e| format!("a list of unspent outputs was asked for ({e})"))? {
        UnspentAnswer::Page(page) => page,
        UnspentAnswer::All(result) => {
            UnspentPage { result: Some(result), error: None, next_page_token: None }
        }
    };
    if let Some(error) = page.error.filter(|error| !error.is_empty()) {
        return Err(format!("it says: {}", tame(&error)));
    }
    let outputs = page.result.unwrap_or_default().into_iter().filter(|output| !output.is_spent);
    let outputs = outputs.map(|output| {
        let waits = output.status.is_some_and(|status| status.eq_ignore_ascii_case("unconfirmed"));
        let height = output.height.filter(|height| !waits && *height > 0);
        Ok(Unspent {
            outpoint: OutPoint { txid: output.tx_hash, vout: output.tx_pos },
            value: Satoshis::new(output.value).map_err(|e| e.to_string())?,
            height: height.and_then(|height| u32::try_from(height).ok()),
        })
    });
    let outputs = outputs.collect::<Read<Vec<_>>>()?;
    let token = page.next_page_token.filter(|token| !token.is_empty());
    match token {
        Some(token) if token.len() > MAX_TOKEN => {
            Err(format!("its token for the next page has {} characters", token.len()))
        }
        token => Ok((outputs, token.map(|token| percent_encoded(&token)))),
    }
}

/// A stranger's text as part of an address.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
    }
    out
}

/// Whether a script was ever used.
pub(in crate::sources) fn used(bytes: &[u8]) -> Read<bool> {
    json(bytes).map_err(|e| format!("true or false was asked for ({e})"))
}

#[cfg(test)]
mod tests;
