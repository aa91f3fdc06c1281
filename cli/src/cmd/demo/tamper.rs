//! What a dishonest seller, or anybody on the way, could hand over: the demo does it, and the real verifier must refuse it.
//!
//! Each forgery is made in the bytes of an evidence file, as somebody without our types would make it.

use sensora_chain::header::HeaderView;
use sensora_protocol::evidence::{Evidence, EvidenceAnchor, EvidenceError};
use serde_json::Value;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// A forgery was taken for genuine: the demo has failed.
fn taken(what: &str) -> Failure {
    Failure::new(Exit::Unverified, format!("the verifier took a forgery for genuine: {what}"))
}

/// Makes a forgery in the file's JSON and has it verified; answers why it was refused.
fn refused<H: HeaderView>(
    evidence: &Evidence,
    headers: &H,
    what: &str,
    forge: impl FnOnce(&mut Vec<Value>) -> Option<()>,
) -> Outcome<String> {
    let unreadable =
        |error: serde_json::Error| Failure::other(format!("the evidence cannot be rewritten: {error}"));
    let bytes = serde_json::to_vec(evidence).map_err(unreadable)?;
    let mut file: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
    let readings = file.get_mut("readings").and_then(Value::as_array_mut);
    readings
        .and_then(forge)
        .ok_or_else(|| Failure::other(format!("the evidence has too little in it to forge: {what}")))?;
    let bytes = serde_json::to_vec(&file).map_err(unreadable)?;
    if bytes == serde_json::to_vec(evidence).map_err(unreadable)? {
        return Err(Failure::other(format!("nothing was forged: {what}")));
    }
    let forged: Evidence = serde_json::from_slice(&bytes).map_err(unreadable)?;
    match forged.verify(headers) {
        Ok(_) => Err(taken(what)),
        Err(error) => Ok(error.to_string()),
    }
}

/// One reading in the middle says something else.
pub(super) fn altered<H: HeaderView>(evidence: &Evidence, headers: &H) -> Outcome<String> {
    // The time alone, for a stream that has no numbers.
    refused(evidence, headers, "a later time", |readings| {
        let middle = readings.len() / 2;
        let time = readings.get_mut(middle)?.get_mut("time_ns")?;
        let later = time.as_str()?.parse::<i64>().ok()?.checked_add(1)?;
        *time = later.to_string().into();
        Some(())
    })?;
    refused(evidence, headers, "another value", |readings| {
        let middle = readings.len() / 2;
        let values = readings.get_mut(middle)?.get_mut("values")?.as_array_mut()?;
        let value = values.iter_mut().find(|value| value.is_number())?;
        *value = match (value.as_i64(), value.as_f64()) {
            (Some(number), _) => number.checked_add(1)?.into(),
            (None, Some(number)) => (number * 1.01 + 0.1).into(),
            (None, None) => return None,
        };
        Some(())
    })
}

/// A reading was left out: plainly, at the end, and with the later ones renumbered to hide it.
pub(super) fn omitted<H: HeaderView>(evidence: &Evidence, headers: &H) -> Outcome<String> {
    refused(evidence, headers, "the last reading left out", |readings| readings.pop().map(|_| ()))?;
    refused(evidence, headers, "a reading left out and the rest renumbered", |readings| {
        let middle = readings.len() / 2;
        (readings.len() > 1).then(|| readings.remove(middle))?;
        for later in readings.get_mut(middle..)? {
            let seq = later.get_mut("seq")?;
            *seq = seq.as_u64()?.checked_sub(1)?.into();
        }
        Some(())
    })?;
    refused(evidence, headers, "a reading left out", |readings| {
        let middle = readings.len() / 2;
        (readings.len() > 2).then(|| readings.remove(middle)).map(|_| ())
    })
}

/// The anchor is real, mined, and somebody else's.
pub(super) fn foreign_anchor<H: HeaderView>(
    evidence: &Evidence,
    anchor: EvidenceAnchor,
    headers: &H,
) -> Outcome<String> {
    let forged = Evidence { anchor: Some(anchor), ..evidence.clone() };
    match forged.verify(headers) {
        Ok(_) => Err(taken("somebody else's anchor")),
        Err(error @ EvidenceError::Anchor(_)) => Ok(error.to_string()),
        Err(other) => {
            Err(Failure::other(format!("the foreign anchor was refused for another reason: {other}")))
        }
    }
}
