//! Proofs of what was bought: tying readings to the chain, checking them anew, and handing the evidence on.

use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_protocol::Hash;
use sensora_protocol::anchor::Standing;
use sensora_protocol::evidence::{
    self, Evidence, EvidenceAnchor, EvidenceCheckpoint, EvidenceReading, EvidenceStream,
};
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::delivery::salts_of;
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::key_release::buy::BatchPurchaseState;
use sensora_protocol::market::key_release::offer::KeyReleaseOffer;
use sensora_protocol::market::live::LiveOffer;
use sensora_protocol::market::message::{AnchoredProof, Answer, Request, Response};
use sensora_protocol::market::offer::Offer;
use sensora_protocol::market::purchase::PurchaseState;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::leaf::Salt;
use sensora_protocol::stream::log::{ProofError, RangeProof, RangeVerifier, verify_consistency};
use sensora_protocol::stream::{Frontier, Reading, Schema};
use sensora_protocol::{OrderId, Signed, SignedBytes, StreamId};

use super::{BuyError, Buyer, BuyerParts, ProofFailure, unexpected};
use crate::store::{StoreError, bought, channels, release};

/// Runs that are read from the store at a time, at most 16,384 readings: what a proof or a listener takes in memory does not grow with what there is.
pub(super) const RUNS_AT_A_TIME: usize = 16;

/// How far a seller's anchors are behind what was bought, in its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnchorDue {
    /// Readings of the order's checkpoint that are under no anchor of the seller yet.
    pub behind: u64,
    /// About how long until its next anchor is made, in milliseconds. A block is still to come after that.
    pub due_ms: u64,
}

/// Some readings of an order, and how firmly they stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// First sequence number.
    pub first: u64,
    /// Sequence number after the last one.
    pub end: u64,
    /// How firmly.
    pub standing: Standing,
}

/// The readings of an order that are here, and the checkpoint that all of them are proven under.
struct Held {
    order: OrderId,
    seller: PublicKey,
    stream: StreamId,
    name: String,
    schema: Schema,
    first: u64,
    end: u64,
    checkpoint: Signed<Checkpoint>,
    /// Whether more may come, and anchors cover what has come bit by bit.
    is_live: bool,
}

impl Held {
    const fn count_to(&self, end: u64) -> u64 {
        end.saturating_sub(self.first)
    }
}

impl Buyer {
    /// Ties an order's readings to the chain: asks the seller for the proof under its anchored checkpoint, verifies it and keeps it.
    ///
    /// # Errors
    /// [`BuyError`]. A seller that has not anchored yet is no error: the readings stand as [`Standing::Signed`].
    pub async fn upgrade(&self, id: &OrderId) -> Result<Standing, BuyError> {
        Ok(self.upgrade_or_due(id).await?.0)
    }

    /// As [`Buyer::upgrade`]; where the seller has not anchored all of the readings yet, with what it says of how far it is behind. Of a live
    /// stream, what is anchored of it is kept, see [`Buyer::parts`].
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn upgrade_or_due(&self, id: &OrderId) -> Result<(Standing, Option<AnchorDue>), BuyError> {
        let held = self.held(id)?;
        // A live stream is always ahead of its anchors: it is enough that its own readings are under one.
        let size = if held.is_live { held.end } else { held.checkpoint.value().size };
        let (proof, due) = match self.ask_proof(&held, held.end, size).await? {
            Ok(proof) => (Some((held.end, proof)), None),
            Err(due) => {
                let anchored = size.saturating_sub(due.behind).min(held.end);
                let proof = match held.is_live && anchored > held.first {
                    true => self.ask_proof(&held, anchored, anchored).await?.ok(),
                    false => None,
                };
                (proof.map(|proof| (anchored, proof)), Some(due))
            }
        };
        if let Some((end, proof)) = proof {
            self.keep_proof(held, end, proof).await?;
        }
        Ok((self.standing(id)?, due))
    }

    /// The proof of an order's readings before `end` under an anchor; or how far the seller's anchors are behind.
    async fn ask_proof(
        &self,
        held: &Held,
        end: u64,
        size: u64,
    ) -> Result<Result<AnchoredProof, AnchorDue>, BuyError> {
        let (stream, first, count) = (held.stream, held.first, held.count_to(end));
        let request = Request::Proof { stream, first, count, size };
        match self.ask(&held.seller, &request).await? {
            Response::Ok(Answer::Proof(proof)) => Ok(Ok(*proof)),
            Response::Refused(Refusal::NotAnchored { size: anchored, due_ms }) => {
                Ok(Err(AnchorDue { behind: size.saturating_sub(anchored), due_ms }))
            }
            other => Err(unexpected(&request, other)),
        }
    }

    /// Checks a proof and keeps it.
    async fn keep_proof(&self, held: Held, end: u64, proof: AnchoredProof) -> Result<(), BuyError> {
        let mut checked = self.check_proof(&held, end, &proof);
        if checked.as_ref().is_err_and(BuyError::is_ahead_of_headers) {
            // The seller has seen a block that we have not: look before calling it false.
            if let Err(error) = self.inner.chain.refresh().await {
                tracing::debug!(%error, "the headers could not be brought up to date");
            }
            checked = self.check_proof(&held, end, &proof);
        }
        checked?;
        let (order, is_live) = (held.order, held.is_live);
        let stored = self.inner.store.commit(move |tx| {
            bought::put_anchored(tx, &order, &proof)?;
            if is_live { channels::put_anchored_to(tx, &order, end) } else { Ok(()) }
        });
        Ok(stored.await?)
    }

    /// How firmly all of an order's readings stand by what is kept, checked anew.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn standing(&self, id: &OrderId) -> Result<Standing, BuyError> {
        let parts = self.parts(id)?;
        match parts.as_slice() {
            [all] => Ok(all.standing),
            // Some of them are under no anchor.
            _ => Ok(Standing::Signed),
        }
    }

    /// How firmly an order's readings stand by what is kept, checked anew: those of a live stream that are anchored, and those that are not yet.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn parts(&self, id: &OrderId) -> Result<Vec<Part>, BuyError> {
        let held = self.held(id)?;
        let (first, end) = (held.first, held.end);
        let anchored = self.anchored_part(&held)?;
        if let Some((to, standing, _)) = &anchored
            && *to >= end
        {
            return Ok(vec![Part { first, end, standing: *standing }]);
        }
        let proof = self.inner.store.read(|tx| bought::proof(tx, id))?.whole();
        self.check_range(&held, end, &proof, held.checkpoint.value())?;
        let signed = |first| Part { first, end, standing: Standing::Signed };
        Ok(match anchored {
            Some((to, standing, _)) => vec![Part { first, end: to, standing }, signed(to)],
            None => vec![signed(first)],
        })
    }

    /// Up to where the readings of a live order stand under an anchor, and how firmly.
    pub(super) fn standing_to(&self, id: &OrderId) -> Result<Option<(u64, Standing)>, BuyError> {
        let held = self.held(id)?;
        Ok(self.anchored_part(&held)?.map(|(end, standing, _)| (end, standing)))
    }

    /// What of an order is under an anchor, checked anew.
    fn anchored_part(&self, held: &Held) -> Result<Option<(u64, Standing, AnchoredProof)>, BuyError> {
        let store = &self.inner.store;
        let Some(proof) = store.read(|tx| bought::anchored(tx, &held.order))? else { return Ok(None) };
        let end = match held.is_live {
            true => store.read(|tx| channels::live_proof(tx, &held.order))?.and_then(|live| live.anchored),
            false => Some(held.end),
        };
        let Some(end) = end else { return Ok(None) };
        let standing = self.check_proof(held, end, &proof)?;
        Ok(Some((end, standing, proof)))
    }

    /// The readings of an order, whichever way it was paid: of a range when all are here, of a live stream those that are.
    fn held(&self, id: &OrderId) -> Result<Held, BuyError> {
        let BuyerParts { store, network, .. } = &*self.inner;
        let not = |state| BuyError::NotComplete { order: *id, state };
        if let Some(purchase) = store.read(|tx| channels::purchase(tx, id))? {
            return match (&purchase.state, &purchase.offer) {
                (ChannelPurchaseState::Ended { missing: 0, .. }, Offered::Range(offer)) => {
                    let offer = offer.clone().verify_by::<Offer>(*network, &purchase.seller)?;
                    self.held_range(id, &purchase.seller, offer.value())
                }
                (_, Offered::Live(offer)) => self.held_live(&purchase, offer),
                (_, Offered::Reads(_)) => Err(not("of single readings")),
                (state, _) => Err(not(state.name())),
            };
        }
        if let Some(purchase) = store.read(|tx| release::purchase(tx, id))? {
            return match &purchase.state {
                BatchPurchaseState::Complete => {
                    let offer = purchase.offer.verify_by::<KeyReleaseOffer>(*network, &purchase.seller)?;
                    self.held_range(id, &purchase.seller, &offer.value().plain())
                }
                state => Err(not(state.name())),
            };
        }
        let purchase = self.purchase(id)?;
        match &purchase.state {
            PurchaseState::Complete { .. } => {
                self.held_range(id, &purchase.seller, purchase.terms(*network)?.value())
            }
            state => Err(not(state.name())),
        }
    }

    fn held_range(&self, id: &OrderId, seller: &PublicKey, terms: &Offer) -> Result<Held, BuyError> {
        let checkpoint = terms.checkpoint.clone().verify_by::<Checkpoint>(self.inner.network, seller)?;
        Ok(Held {
            order: *id,
            seller: *seller,
            stream: terms.stream,
            name: terms.name.clone(),
            schema: terms.schema.clone(),
            first: terms.first,
            end: terms.first.saturating_add(terms.count),
            checkpoint,
            is_live: false,
        })
    }

    fn held_live(&self, purchase: &ChannelPurchase, offer: &SignedBytes) -> Result<Held, BuyError> {
        let BuyerParts { store, network, .. } = &*self.inner;
        let (id, seller) = (purchase.id, purchase.seller);
        let offer = offer.clone().verify_by::<LiveOffer>(*network, &seller)?;
        let terms = offer.value();
        let proof = store.read(|tx| channels::live_proof(tx, &id))?;
        let proof = proof.filter(|_| purchase.next > terms.first);
        let proof = proof.ok_or(BuyError::NotComplete { order: id, state: "still without readings" })?;
        Ok(Held {
            order: id,
            seller,
            stream: terms.stream,
            name: terms.name.clone(),
            schema: terms.schema.clone(),
            first: terms.first,
            end: purchase.next,
            checkpoint: proof.checkpoint.verify_by::<Checkpoint>(*network, &seller)?,
            is_live: true,
        })
    }

    /// Calls `f` with each reading `[first, end)` of an order that is here, in order, with its salt and its leaf.
    fn each(
        &self,
        held: &Held,
        first: u64,
        end: u64,
        mut f: impl FnMut(Reading, &Salt, Hash),
    ) -> Result<(), BuyError> {
        let mut at = first;
        while at < end {
            let (from, stream) = (at, &held.stream);
            let runs = self.inner.store.read(|tx| bought::runs(tx, stream, from, end, RUNS_AT_A_TIME))?;
            // Two orders may have brought the same readings.
            for bought in runs {
                let open = bought.run.open(&held.schema).map_err(ProofFailure::Chunk)?;
                let salts = salts_of(&bought.run, open.readings.len());
                for ((reading, salt), leaf) in open.readings.into_iter().zip(&salts).zip(open.leaves) {
                    if reading.seq == at && at < end {
                        at = at.saturating_add(1);
                        f(reading, salt, leaf);
                    }
                }
            }
            if at == from {
                break;
            }
        }
        if at < end {
            let missing = format!("reading {at} of order {} is missing", held.order);
            return Err(StoreError::Damaged(missing).into());
        }
        Ok(())
    }

    fn check_range(
        &self,
        held: &Held,
        end: u64,
        proof: &RangeProof,
        checkpoint: &Checkpoint,
    ) -> Result<(), BuyError> {
        let verifier = RangeVerifier::new(held.first, held.count_to(end), checkpoint.size, proof);
        let mut verifier = verifier.map_err(ProofFailure::Range)?;
        let mut pushed = Ok(());
        self.each(held, held.first, end, |_, _, leaf| {
            if pushed.is_ok() {
                pushed = verifier.push_leaf(leaf);
            }
        })?;
        pushed.and_then(|()| verifier.verify(&checkpoint.root)).map_err(ProofFailure::Range)?;
        Ok(())
    }

    /// Checks that an order's readings before `end` are in a log that continues the one they were sold from, and that is anchored.
    fn check_proof(&self, held: &Held, end: u64, proof: &AnchoredProof) -> Result<Standing, BuyError> {
        let BuyerParts { network, chain, store, .. } = &*self.inner;
        let anchored = proof.checkpoint.clone().verify_by::<Checkpoint>(*network, &held.seller);
        let anchored = anchored.map_err(ProofFailure::from)?;
        let (old, new) = (held.checkpoint.value(), anchored.value());
        if new.stream != held.stream {
            return Err(ProofFailure::OtherStream(new.stream).into());
        }
        let needed = if held.is_live { end } else { old.size };
        if new.size < needed {
            return Err(ProofFailure::TooSmall { bought: needed, anchored: new.size }.into());
        }
        if held.is_live {
            // The log before `end` is the same in both, or one of the hashes beside the readings differs: the seller signed both.
            let kept = store.read(|tx| bought::proof(tx, &held.order))?;
            if !proof.range.hashes.starts_with(&kept.left) {
                let source = ProofError::WrongRoot { root: new.root };
                return Err(ProofFailure::Inconsistent { bought: end, anchored: new.size, source }.into());
            }
        } else {
            verify_consistency(old.size, &old.root, new.size, &new.root, &proof.consistency).map_err(
                |source| ProofFailure::Inconsistent { bought: old.size, anchored: new.size, source },
            )?;
        }
        self.check_range(held, end, &proof.range, new)?;
        Ok(proof.anchor.verify(&anchored, *network, &chain.headers()).map_err(ProofFailure::Anchor)?)
    }

    /// Everything that proves an order's readings, in one portable value. Where only some of a live stream are anchored yet, all of them are shown
    /// under the seller's signature alone: [`Buyer::evidence_parts`] shows what is anchored.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn evidence(&self, id: &OrderId) -> Result<Evidence, BuyError> {
        let held = self.held(id)?;
        let (first, end) = (held.first, held.end);
        match self.anchored_part(&held)? {
            Some((to, standing, proof)) if to >= end => {
                self.evidence_of(&held, first, end, proof.range.clone(), Some((standing, proof)))
            }
            _ => {
                let proof = self.inner.store.read(|tx| bought::proof(tx, id))?.whole();
                self.check_range(&held, end, &proof, held.checkpoint.value())?;
                self.evidence_of(&held, first, end, proof, None)
            }
        }
    }

    /// The evidence of each of an order's [parts](Buyer::parts).
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn evidence_parts(&self, id: &OrderId) -> Result<Vec<Evidence>, BuyError> {
        let held = self.held(id)?;
        let (first, end) = (held.first, held.end);
        let Some((to, standing, proof)) = self.anchored_part(&held)? else {
            return Ok(vec![self.evidence(id)?]);
        };
        let mut parts =
            vec![self.evidence_of(&held, first, to, proof.range.clone(), Some((standing, proof)))?];
        if to < end {
            // The hashes left of the second part follow from those left of the first and from its readings.
            let kept = self.inner.store.read(|tx| bought::proof(tx, id))?;
            let damaged = |error: &dyn std::fmt::Display| StoreError::Damaged(format!("order {id}: {error}"));
            let mut before =
                Frontier::from_peaks(first, kept.left.clone()).map_err(|error| damaged(&error))?;
            self.each(&held, first, to, |_, _, leaf| before.push_leaf(leaf))?;
            let proof = RangeProof { hashes: [before.peaks(), &kept.right].concat() };
            parts.push(self.evidence_of(&held, to, end, proof, None)?);
        }
        Ok(parts)
    }

    fn evidence_of(
        &self,
        held: &Held,
        first: u64,
        end: u64,
        range_proof: RangeProof,
        anchored: Option<(Standing, AnchoredProof)>,
    ) -> Result<Evidence, BuyError> {
        let BuyerParts { network, chain, .. } = &*self.inner;
        let signed = match &anchored {
            Some((_, proof)) => proof.checkpoint.clone(),
            None => held.checkpoint.bytes().clone(),
        };
        let checkpoint = signed.clone().verify_by::<Checkpoint>(*network, &held.seller)?;
        let checkpoint = checkpoint.value();
        let mut readings = Vec::new();
        self.each(held, first, end, |reading, salt, _| readings.push(EvidenceReading::new(&reading, salt)))?;
        let headers = chain.headers();
        let anchor = anchored.and_then(|(standing, proof)| {
            let (txid, height) = match standing {
                Standing::Mined { txid, height } => (txid, Some(height)),
                Standing::Broadcast { txid } => (txid, None),
                _ => return None,
            };
            let header =
                height.and_then(|height| headers.header_at(height)).map(|header| hex::encode(header.0));
            Some(EvidenceAnchor { txid, height, header, proof: proof.anchor })
        });
        Ok(Evidence {
            format: evidence::FORMAT.to_owned(),
            version: evidence::VERSION,
            network: *network,
            seller: held.seller,
            stream: EvidenceStream { id: held.stream, name: held.name.clone(), schema: held.schema.clone() },
            readings,
            range_proof,
            checkpoint: EvidenceCheckpoint { size: checkpoint.size, root: checkpoint.root, signed },
            anchor,
        })
    }
}
