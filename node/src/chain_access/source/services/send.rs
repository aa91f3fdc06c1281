//! Sending transactions to services: parents first, each with what it spends.

use std::sync::Arc;
use std::time::Duration;

use sensora_chain::beef::{Beef, Proof};
use sensora_chain::header::HeaderView as _;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::service::{Need, Report, Service, ServiceKind, SourceError, Submission};
use sensora_chain::{TxOut, Txid, spv};
use sensora_protocol::chain_access::Refusal;
use tokio::time::{Instant, sleep};

use super::{ServicesSource, lock};
use crate::chain_access::error::{BroadcastError, Failure};
use crate::chain_access::headers::Headers;
use crate::chain_access::source::broadcast::{self, AT_ONCE, Cargo, Taker};
use crate::chain_access::source::swarm::ASK_DEADLINE;

/// ARC's status code of a double spend.
const CONFLICT: u16 = 466;
/// How often, and after how long each time, a broadcaster is asked what became of a transaction that it has taken and not seen on the
/// network: what is paid for is delivered only when somebody says that the network has it.
const PENDING_LOOKS: usize = 5;
/// As above.
const PENDING_WAIT: Duration = Duration::from_secs(1);
/// How long after a first look a service is asked again for a transaction that it refused for a conflict with one that it does not name: the other
/// copy of it is checked meanwhile.
const CONFLICT_WAIT: Duration = Duration::from_millis(500);
/// ARC's status code of inputs that are not there.
const INPUTS: u16 = 462;

impl ServicesSource {
    /// Sends the transaction to all broadcasters at once, and to some peers where there are any.
    pub(in crate::chain_access::source) async fn broadcast(
        &self,
        headers: &Arc<Headers>,
        parsed: Beef,
        bytes: &[u8],
    ) -> Result<(), BroadcastError> {
        let deadline = Instant::now() + ASK_DEADLINE;
        let services = self.candidates(Need::Broadcast);
        let mut takers: Vec<Taker> =
            services.into_iter().map(|index| Taker::Service(self.clone(), index)).collect();
        if let Some(swarm) = &self.swarm {
            // Who has chosen broadcasters has not chosen whoever happens to be connected: that may be the payer.
            let chosen = !self.of(Need::Broadcast).is_empty();
            takers.extend(swarm.takers(chosen).await.into_iter().take(AT_ONCE));
        }
        let cargo = Cargo::new(parsed, bytes);
        let round = broadcast::round(headers, &cargo, &takers, deadline).await?;
        if round.is_decided() {
            return broadcast::decide(headers, &cargo.beef, round).await;
        }
        if round.tried.is_empty() {
            return Err(match self.nobody(Need::Broadcast, Vec::new(), None) {
                crate::chain_access::ChainError::Unavailable { tried } => {
                    BroadcastError::Unavailable { tried }
                }
                error => BroadcastError::Failed(error),
            });
        }
        Err(BroadcastError::Unavailable { tried: round.tried })
    }

    /// Sends it to one service. That it was taken is its word.
    pub(in crate::chain_access::source) async fn send(
        &self,
        headers: &Arc<Headers>,
        index: usize,
        beef: &Beef,
    ) -> Result<(), Failure> {
        let submissions = submissions(beef)?;
        let service = self.service(index)?;
        if submissions.is_empty() {
            // It came with a Merkle path: there is nothing to send, only to be asked whether it is so.
            let subject = beef.subject().unwrap_or_default();
            return self.verdict(index, service.report(&subject).await?);
        }
        let mut report = service.submit(&submissions).await?;
        if report == Report::Orphan && knows_all_parents(headers, service, beef).await {
            // It may have learned of them only now.
            report = service.submit(&submissions).await?;
            if report == Report::Orphan && knows_all_parents(headers, service, beef).await {
                // What made the coin is in its chain, and the coin is not there. It does not say what has spent it: that is too long ago.
                report = Report::DoubleSpent { competing: Vec::new() };
            }
        }
        let subject = beef.subject().unwrap_or_default();
        if report == (Report::DoubleSpent { competing: Vec::new() }) {
            report = conflict(service, &subject, report).await;
        }
        for _ in 0..PENDING_LOOKS {
            if report != Report::Pending {
                break;
            }
            sleep(PENDING_WAIT).await;
            report = service.report(&subject).await?;
        }
        self.verdict(index, report)
    }

    fn verdict(&self, index: usize, report: Report) -> Result<(), Failure> {
        let rejected = |double_spent, code, reason| {
            Err(Failure::Refused(Refusal::Rejected { double_spent, code, reason }.tamed()))
        };
        match report {
            Report::Seen | Report::Mined(_) | Report::MinedUnproven { .. } => Ok(()),
            Report::Pending => Err(Failure::Pending),
            Report::Orphan => Err(Failure::Orphan),
            Report::DoubleSpent { competing } => {
                let by: Vec<String> = competing.iter().take(4).map(ToString::to_string).collect();
                let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
                rejected(true, CONFLICT, format!("another transaction spends one of its inputs{by}"))
            }
            Report::Rejected { txid, code, reason } => {
                lock(&self.inner.ledger).deny(txid, index);
                rejected(code == CONFLICT, code, format!("{reason} (transaction {txid})"))
            }
            _ => Err(Failure::Service(Box::new(SourceError::Malformed {
                service: self.asked(index).to_string(),
                reason: "it does not say what became of the transaction".to_owned(),
            }))),
        }
    }
}

/// The service says of a transaction that another one spends the same, and names none. A node says so, too, of the second of two copies of one transaction
/// that come at the same moment, and services pass that on: where the service has it, it was no conflict.
async fn conflict(service: &Service, txid: &Txid, said: Report) -> Report {
    // Whom it names later counts, too. What it does not answer changes nothing of what it has said.
    let tells = |report: &Report| {
        matches!(report, Report::Seen | Report::Mined(_) | Report::MinedUnproven { .. })
            || matches!(report, Report::DoubleSpent { competing } if !competing.is_empty())
    };
    // The client of nodes has looked twice itself.
    let looks = if service.config().kind == ServiceKind::NodeRpc { 1 } else { 2 };
    for look in 0..looks {
        if look > 0 {
            sleep(CONFLICT_WAIT).await;
        }
        match service.report(txid).await {
            Ok(report) if tells(&report) => return report,
            _ => {}
        }
    }
    said
}

/// Whether everything that the transactions of the BEEF rest on is proven to be in the service's own chain: it follows our best chain, and
/// at least as far as the highest of the proofs.
async fn knows_all_parents(headers: &Arc<Headers>, service: &Service, beef: &Beef) -> bool {
    if !service.config().kind.can(Need::Headers) {
        return false;
    }
    let Ok(tip) = service.tip().await else { return false };
    let headers = headers.snapshot();
    let follows = headers.header_at(tip.height).is_some_and(|header| header.hash() == tip.hash);
    let highest = beef.bumps().iter().map(MerklePath::block_height).max();
    let proven = || beef.subject().is_some_and(|subject| spv::verify(beef, &subject, &headers).is_ok());
    follows && highest.is_some_and(|highest| highest <= tip.height) && proven()
}

/// Every transaction of the BEEF that has no Merkle path, parents first, each with the outputs that it spends.
fn submissions(beef: &Beef) -> Result<Vec<Submission>, Failure> {
    let unproven = beef.txs().iter().filter(|entry| entry.proof() == Proof::Unproven);
    let submission = |entry: &sensora_chain::beef::BeefTx| {
        let tx = entry.transaction().clone();
        let spent: Option<Vec<TxOut>> = tx
            .inputs
            .iter()
            .map(|input| {
                let parent = beef.transaction(&input.previous.txid)?;
                parent.outputs.get(usize::try_from(input.previous.vout).ok()?).cloned()
            })
            .collect();
        let spent = spent.ok_or_else(|| {
            let reason = format!("the BEEF lacks an output that transaction {} spends", tx.txid());
            Failure::Refused(Refusal::Rejected { double_spent: false, code: INPUTS, reason })
        })?;
        Ok(Submission { tx, spent })
    };
    unproven.map(submission).collect()
}

#[cfg(test)]
mod tests {
    use sensora_chain::merkle_path::MerklePath;
    use sensora_chain::{OutPoint, Satoshis, Script, Transaction, TxIn};

    use super::*;

    fn tx(inputs: &[OutPoint], outputs: usize) -> Transaction {
        let output = |n: usize| TxOut {
            value: Satoshis::from_sat(u64::try_from(n).unwrap() + 1),
            locking: Script::p2pkh(&[u8::try_from(n).unwrap(); 20]),
        };
        Transaction::new(
            inputs.iter().map(|outpoint| TxIn::new(*outpoint)).collect(),
            (0..outputs).map(output).collect(),
        )
    }

    #[test]
    fn parents_go_first_and_each_brings_what_it_spends() {
        let root = tx(&[OutPoint { txid: sensora_chain::Txid([9; 32]), vout: 0 }], 2);
        let path = MerklePath::for_block(7, &[root.txid()], 0).unwrap();
        let parent = tx(&[OutPoint { txid: root.txid(), vout: 1 }], 1);
        let child =
            tx(&[OutPoint { txid: parent.txid(), vout: 0 }, OutPoint { txid: root.txid(), vout: 0 }], 1);
        let mut beef = Beef::new();
        beef.add(root.clone(), Some(&path)).unwrap();
        beef.add(parent.clone(), None).unwrap();
        beef.add(child.clone(), None).unwrap();
        let sent = submissions(&beef).unwrap();
        let order: Vec<_> = sent.iter().map(|submission| submission.tx.txid()).collect();
        assert_eq!(order, [parent.txid(), child.txid()], "what is mined is not sent");
        assert_eq!(sent[0].spent, [root.outputs[1].clone()]);
        assert_eq!(sent[1].spent, [parent.outputs[0].clone(), root.outputs[0].clone()]);

        let beyond = tx(&[OutPoint { txid: parent.txid(), vout: 7 }], 1);
        beef.add(beyond, None).unwrap();
        assert!(matches!(submissions(&beef), Err(Failure::Refused(Refusal::Rejected { code: 462, .. }))));
    }
}
