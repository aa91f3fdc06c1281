//! `sensora verify FILE…`: evidence files against block headers, or a proof of misbehaviour by itself, trusting neither who made it nor who
//! sent it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sensora_chain::Network;
use sensora_chain::header::{Header, HeaderChain, HeaderView};
use sensora_protocol::anchor::Standing;
use sensora_protocol::evidence::{Evidence, Verified};
use sensora_protocol::market::key_release::misbehaviour::{Conviction, MAX_JSON_LEN, MisbehaviourProof};
use serde::Serialize;
use serde_json::json;

use super::offline::{Offline, chain_of};
use crate::args::VerifyArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// No evidence file is longer. A reading takes about 120 bytes in it, so this is two million readings.
const MAX_EVIDENCE: u64 = 256 << 20;
/// No file of headers is longer: eight million headers as hex, more than any BSV network has.
const MAX_HEADERS: u64 = 8_000_000 * 161;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    verified: bool,
    anchored: bool,
    #[serde(flatten)]
    shown: Verified,
    /// Blocks on top of the anchor's, its own included.
    confirmations: u32,
    tip_height: u32,
}

/// What `--json` prints of a proof of misbehaviour.
#[derive(Serialize)]
struct Convicted<'a> {
    file: &'a Path,
    verified: bool,
    convicted: bool,
    #[serde(flatten)]
    of: &'a Conviction,
}

/// Checks the files: all of them, or the first that does not verify is named.
pub(super) fn run(args: &VerifyArgs, context: &Context) -> Outcome<Exit> {
    if let ([file], true) = (args.files.as_slice(), args.misbehaviour) {
        return misbehaviour(file, context);
    }
    if args.misbehaviour {
        return Err(Failure::usage("--misbehaviour checks one file at a time"));
    }
    // Of one network are the headers of all.
    let mut known: Option<(Network, HeaderChain)> = None;
    let mut reports = Vec::with_capacity(args.files.len());
    for file in &args.files {
        let evidence = read_evidence(file)?;
        let headers = match &known {
            Some((network, headers)) if *network == evidence.network => headers,
            _ => &known.insert((evidence.network, headers(args, context, &evidence)?)).1,
        };
        let report = check(file, &evidence, headers)?;
        if !context.out.is_json() {
            show(&report, headers, context)?;
        }
        reports.push(report);
    }
    match reports.as_slice() {
        _ if !context.out.is_json() => {}
        [report] => context.out.document(report)?,
        reports => context.out.document(&json!({ "files": reports }))?,
    }
    Ok(if reports.iter().all(|report| report.anchored) { Exit::Ok } else { Exit::NotAnchored })
}

fn check<'a>(file: &'a Path, evidence: &Evidence, headers: &HeaderChain) -> Outcome<Report<'a>> {
    let verified = evidence.verify(headers).map_err(|error| {
        Failure::new(Exit::Unverified, format!("{} does not verify: {error}", file.display()))
    });
    let verified = verified.map_err(|failure| match &evidence.anchor {
        Some(anchor) if anchor.height.is_some_and(|height| height > headers.tip_height()) => {
            failure.hint(format!(
                "its anchor is at height {}, the headers end at {}: bring them up to date with --sync",
                anchor.height.unwrap_or_default(),
                headers.tip_height()
            ))
        }
        _ => failure,
    })?;
    let anchored = matches!(verified.standing, Standing::Mined { .. });
    let confirmations = match verified.standing {
        Standing::Mined { height, .. } => headers.confirmations(height),
        _ => 0,
    };
    let tip_height = headers.tip_height();
    Ok(Report { file, verified: true, anchored, shown: verified, confirmations, tip_height })
}

fn show(report: &Report<'_>, headers: &HeaderChain, context: &Context) -> Outcome {
    let Report { file, shown: verified, confirmations, .. } = report;
    let (out, paint) = (&context.out, context.out.paint());
    let last = verified.first.saturating_add(verified.count.saturating_sub(1));
    out.line(format!("{} {}", paint.good("verified"), file.display()))?;
    out.field("stream", format!("{} {}", verified.name, paint.dim(&verified.stream.to_string())))?;
    out.field("seller", &verified.seller)?;
    out.field("readings", format!("{} ({} to {last}, none missing)", verified.count, verified.first))?;
    match verified.standing {
        Standing::Mined { txid, height } => {
            let time = headers
                .header_at(height)
                .map(|header| crate::output::time_ms(i64::from(header.time()).saturating_mul(1000)));
            out.field(
                "anchored",
                format!("block {height} ({}), {confirmations} deep", time.unwrap_or_default()),
            )?;
            out.field("transaction", txid)
        }
        Standing::Broadcast { txid } => {
            out.field("anchored", paint.warn("not yet: its transaction is in no block"))?;
            out.field("transaction", txid)
        }
        _ => out.field("anchored", paint.warn("not yet: signed by the seller, nothing on chain")),
    }
}

/// Says who is convicted of what. It needs no headers: the offer that the seller has signed binds all of it.
fn misbehaviour(path: &Path, context: &Context) -> Outcome<Exit> {
    let bytes = read(path, MAX_JSON_LEN as u64)?;
    // No CBOR item of a proof begins like JSON does: it is a map.
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let proof =
        if is_json { MisbehaviourProof::from_json(&bytes) } else { MisbehaviourProof::from_bytes(&bytes) };
    let convicted = proof.and_then(|proof| proof.verify()).map_err(|error| {
        Failure::new(Exit::Unverified, format!("{} convicts nobody: {error}", path.display()))
    })?;
    let out = &context.out;
    if out.is_json() {
        out.document(&Convicted { file: path, verified: true, convicted: true, of: &convicted })?;
        return Ok(Exit::Ok);
    }
    let paint = out.paint();
    let Conviction { seller, offer, stream, part, first, count, fault } = &convicted;
    let last = first.saturating_add(count.saturating_sub(1));
    out.line(format!("{} {}", paint.good("verified"), path.display()))?;
    out.field("convicted", format!("{} {seller}", paint.warn("seller")))?;
    out.field("of", format!("selling readings {first} to {last} and delivering something else: {fault}"))?;
    out.field("stream", stream)?;
    out.field("offer", format!("{offer}, part {part}"))?;
    Ok(Exit::Ok)
}

/// Reads an evidence file.
pub(super) fn read_evidence(path: &Path) -> Outcome<Evidence> {
    let bytes = read(path, MAX_EVIDENCE)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(Exit::Unverified, format!("{} is not an evidence file: {error}", path.display()))
    })
}

fn headers(args: &VerifyArgs, context: &Context, evidence: &Evidence) -> Outcome<HeaderChain> {
    if let Some(path) = &args.headers {
        return chain_of(
            evidence.network,
            args.first_height,
            &parse_headers(path, &read(path, MAX_HEADERS)?)?,
        );
    }
    if args.sync {
        super::session::sync_headers(context, &args.network)?;
    }
    let home = Offline::open(context).map_err(|failure| {
        failure.hint("give the block headers with --headers FILE, or a home that has them with --home DIR")
    })?;
    if home.network != evidence.network {
        return Err(Failure::usage(format!(
            "the evidence is of network {}, this home is of {}",
            evidence.network, home.network
        ))
        .hint("give the headers of its network with --headers FILE"));
    }
    home.headers()
}

fn read(path: &Path, max: u64) -> Outcome<Vec<u8>> {
    let failed = |error: io::Error| Failure::file("read", path, &error);
    let mut source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    let read = source.by_ref().take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > max {
        return Err(Failure::other(format!("{} is longer than {max} bytes", path.display())));
    }
    Ok(bytes)
}

/// Headers from raw bytes, or from hex in lines.
fn parse_headers(path: &Path, bytes: &[u8]) -> Outcome<Vec<Header>> {
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace();
    let raw = if !bytes.is_empty() && bytes.iter().all(is_hex) {
        let digits: Vec<u8> = bytes.iter().copied().filter(u8::is_ascii_hexdigit).collect();
        hex::decode(digits).ok()
    } else {
        Some(bytes.to_vec())
    };
    let headers = raw.and_then(|raw| Header::parse_run(&raw).ok()).filter(|headers| !headers.is_empty());
    headers.ok_or_else(|| {
        Failure::new(
            Exit::Unverified,
            format!("{} does not hold block headers of 80 bytes each", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_raw_and_as_hex() {
        let genesis = Header::regtest_genesis();
        let path = Path::new("headers");
        let text = format!("{}\n", hex::encode(genesis.0));
        for bytes in [genesis.0.to_vec(), text.into_bytes()] {
            let headers = parse_headers(path, &bytes).unwrap();
            assert_eq!(headers, [genesis]);
        }
        for bytes in [&b""[..], b"abc", &[0; 79]] {
            assert_eq!(parse_headers(path, bytes).unwrap_err().exit, Exit::Unverified);
        }
    }
}
