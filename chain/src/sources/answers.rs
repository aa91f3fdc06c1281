//! Every parser of a service's answer behind one door, for the fuzzer and for the tests of bad input.

use super::service::Report;
use super::{arc, chaintracks, reject, whatsonchain};
use crate::header::Header;
use crate::{BlockHash, Txid};

/// What came out of [`read_all`], so that it can be held against what must always be so.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Answers {
    /// Reports about the transaction that was asked about.
    pub reports: Vec<Report>,
    /// Headers of the run and of the single header.
    pub headers: Vec<Header>,
    /// Why the others were refused.
    pub refusals: Vec<String>,
}

impl Answers {
    fn keep<T>(&mut self, read: super::http::Read<T>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(reason) => {
                // As it is shown to people.
                self.refusals.push(super::http::tame(&reason));
                None
            }
        }
    }
}

/// Reads `bytes` as an answer to every question there is, all of them about `txid`.
#[doc(hidden)]
#[must_use]
pub fn read_all(bytes: &[u8], txid: &Txid) -> Answers {
    let mut out = Answers::default();
    let status = out.keep(arc::answer::status(bytes, txid));
    out.reports.extend(status);
    for http in [400, 409, 461, 465, 466, 476, 500] {
        let refusal = out.keep(arc::answer::refusal(http, bytes, txid)).flatten();
        out.reports.extend(refusal);
    }
    out.keep(arc::answer::policy(bytes));
    out.reports.extend(reject::report(txid, &String::from_utf8_lossy(bytes)));

    out.keep(whatsonchain::answer::chain_info(bytes));
    let header = out.keep(whatsonchain::answer::header(bytes));
    out.headers.extend(header.map(|(header, _)| header));
    out.keep(whatsonchain::answer::transaction(bytes, txid));
    out.keep(whatsonchain::answer::sent(bytes, txid));
    out.keep(whatsonchain::answer::standing(bytes, txid));
    for block in [None, Some(BlockHash(txid.0))] {
        let proof = out.keep(whatsonchain::answer::proof(bytes, block.as_ref())).flatten();
        if let Some((proof, _)) = proof {
            let path = out.keep(proof.path(1, txid).map_err(|e| e.to_string()));
            out.reports.extend(path.map(Report::Mined));
        }
    }
    out.keep(whatsonchain::answer::spent(bytes));
    out.keep(whatsonchain::answer::unspent(bytes));
    out.keep(whatsonchain::answer::used(bytes));

    out.keep(chaintracks::answer::tip(bytes));
    let run = out.keep(chaintracks::answer::headers(bytes, chaintracks::MAX_HEADERS));
    out.headers.extend(run.into_iter().flatten());
    out
}
