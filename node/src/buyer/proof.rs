//! Proofs of what was bought: tying readings to the chain, checking them anew, and handing the evidence on.

use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_protocol::anchor::Standing;
use sensora_protocol::evidence::{
    self, Evidence, EvidenceAnchor, EvidenceCheckpoint, EvidenceReading, EvidenceStream,
};
use sensora_protocol::market::delivery::receive::ChannelPurchaseState;
use sensora_protocol::market::delivery::salts_of;
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::key_release::buy::BatchPurchaseState;
use sensora_protocol::market::key_release::offer::KeyReleaseOffer;
use sensora_protocol::market::message::{AnchoredProof, Answer, Request, Response};
use sensora_protocol::market::offer::Offer;
use sensora_protocol::market::purchase::PurchaseState;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::log::{RangeProof, verify_consistency, verify_range};
use sensora_protocol::{OrderId, Signed};

use super::{BuyError, Buyer, BuyerParts, ProofFailure, unexpected};
use crate::store::{bought, channels, release};

/// How far a seller's anchors are behind what was bought, in its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnchorDue {
    /// Readings of the order's checkpoint that are under no anchor of the seller yet.
    pub behind: u64,
    /// About how long until its next anchor is made, in milliseconds. A block is still to come after that.
    pub due_ms: u64,
}

/// What proves an order's readings stands under.
struct Complete {
    seller: PublicKey,
    offer: Offer,
}

impl Buyer {
    /// Ties an order's readings to the chain: asks the seller for the proof under its anchored checkpoint, verifies it and keeps it.
    ///
    /// # Errors
    /// [`BuyError`]. A seller that has not anchored yet is no error: the readings stand as [`Standing::Signed`].
    pub async fn upgrade(&self, id: &OrderId) -> Result<Standing, BuyError> {
        Ok(self.upgrade_or_due(id).await?.0)
    }

    /// As [`Buyer::upgrade`]; where the seller has not anchored the readings yet, with what it says of how far it is behind.
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn upgrade_or_due(&self, id: &OrderId) -> Result<(Standing, Option<AnchorDue>), BuyError> {
        let BuyerParts { network, store, chain, .. } = &*self.inner;
        let purchase = self.complete(id)?;
        let terms = &purchase.offer;
        let checkpoint = terms.checkpoint.clone().verify_by::<Checkpoint>(*network, &purchase.seller)?;
        let (stream, first, count) = (terms.stream, terms.first, terms.count);
        let request = Request::Proof { stream, first, count, size: checkpoint.value().size };
        let proof = match self.ask(&purchase.seller, &request).await? {
            Response::Ok(Answer::Proof(proof)) => proof,
            Response::Refused(Refusal::NotAnchored { size, due_ms }) => {
                let behind = checkpoint.value().size.saturating_sub(size);
                return Ok((self.standing(id)?, Some(AnchorDue { behind, due_ms })));
            }
            other => return Err(unexpected(&request, other)),
        };
        let mut checked = self.check_proof(&purchase, terms, &checkpoint, &proof);
        if checked.as_ref().is_err_and(BuyError::is_ahead_of_headers) {
            // The seller has seen a block that we have not: look before calling it false.
            if let Err(error) = chain.refresh().await {
                tracing::debug!(%error, "the headers could not be brought up to date");
            }
            checked = self.check_proof(&purchase, terms, &checkpoint, &proof);
        }
        let standing = checked?;
        store.write(|tx| bought::put_anchored(tx, id, &proof))?;
        Ok((standing, None))
    }

    /// How firmly an order's readings stand by what is kept, checked anew.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn standing(&self, id: &OrderId) -> Result<Standing, BuyError> {
        let BuyerParts { network, store, .. } = &*self.inner;
        let purchase = self.complete(id)?;
        let terms = &purchase.offer;
        let checkpoint = terms.checkpoint.clone().verify_by::<Checkpoint>(*network, &purchase.seller)?;
        match store.read(|tx| bought::anchored(tx, id))? {
            Some(proof) => self.check_proof(&purchase, terms, &checkpoint, &proof),
            None => {
                let proof = store.read(|tx| bought::proof(tx, id))?.whole();
                self.check_range(terms, &proof, checkpoint.value())?;
                Ok(Standing::Signed)
            }
        }
    }

    /// An order whose readings are all here, whichever way it was paid.
    fn complete(&self, id: &OrderId) -> Result<Complete, BuyError> {
        let BuyerParts { store, network, .. } = &*self.inner;
        if let Some(purchase) = store.read(|tx| channels::purchase(tx, id))? {
            let not = |state| BuyError::NotComplete { order: *id, state };
            return match (&purchase.state, &purchase.offer) {
                (ChannelPurchaseState::Ended { .. }, Offered::Range(offer)) => {
                    let offer = offer.clone().verify_by::<Offer>(*network, &purchase.seller)?;
                    Ok(Complete { seller: purchase.seller, offer: offer.value().clone() })
                }
                (ChannelPurchaseState::Ended { .. }, Offered::Live(_)) => Err(not("a live stream")),
                (state, _) => Err(not(state.name())),
            };
        }
        if let Some(purchase) = store.read(|tx| release::purchase(tx, id))? {
            return match &purchase.state {
                BatchPurchaseState::Complete => {
                    let offer = purchase.offer.verify_by::<KeyReleaseOffer>(*network, &purchase.seller)?;
                    Ok(Complete { seller: purchase.seller, offer: offer.value().plain() })
                }
                state => Err(BuyError::NotComplete { order: *id, state: state.name() }),
            };
        }
        let purchase = self.purchase(id)?;
        match &purchase.state {
            PurchaseState::Complete { .. } => {
                let offer = purchase.terms(*network)?.value().clone();
                Ok(Complete { seller: purchase.seller, offer })
            }
            state => Err(BuyError::NotComplete { order: *id, state: state.name() }),
        }
    }

    fn check_range(
        &self,
        terms: &Offer,
        proof: &RangeProof,
        checkpoint: &Checkpoint,
    ) -> Result<(), BuyError> {
        let end = terms.first.saturating_add(terms.count);
        let runs =
            self.inner.store.read(|tx| bought::runs(tx, &terms.stream, terms.first, end, usize::MAX - 1))?;
        let mut leaves = Vec::new();
        for bought in runs {
            let open = bought.run.open(&terms.schema).map_err(ProofFailure::Chunk)?;
            let inside = open.readings.iter().zip(open.leaves);
            leaves.extend(inside.filter(|(r, _)| (terms.first..end).contains(&r.seq)).map(|(_, leaf)| leaf));
        }
        verify_range(&leaves, terms.first, checkpoint.size, proof, &checkpoint.root)
            .map_err(ProofFailure::Range)?;
        Ok(())
    }

    fn check_proof(
        &self,
        purchase: &Complete,
        terms: &Offer,
        bought: &Signed<Checkpoint>,
        proof: &AnchoredProof,
    ) -> Result<Standing, BuyError> {
        let BuyerParts { network, chain, .. } = &*self.inner;
        let anchored = proof.checkpoint.clone().verify_by::<Checkpoint>(*network, &purchase.seller);
        let anchored = anchored.map_err(ProofFailure::from)?;
        let (old, new) = (bought.value(), anchored.value());
        if new.stream != terms.stream {
            return Err(ProofFailure::OtherStream(new.stream).into());
        }
        if new.size < old.size {
            return Err(ProofFailure::TooSmall { bought: old.size, anchored: new.size }.into());
        }
        verify_consistency(old.size, &old.root, new.size, &new.root, &proof.consistency)
            .map_err(|source| ProofFailure::Inconsistent { bought: old.size, anchored: new.size, source })?;
        self.check_range(terms, &proof.range, new)?;
        Ok(proof.anchor.verify(&anchored, *network, &chain.headers()).map_err(ProofFailure::Anchor)?)
    }

    /// Everything that proves an order's readings, in one portable value.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn evidence(&self, id: &OrderId) -> Result<Evidence, BuyError> {
        let BuyerParts { network, store, chain, .. } = &*self.inner;
        let purchase = self.complete(id)?;
        let terms = &purchase.offer;
        let end = terms.first.saturating_add(terms.count);
        let standing = self.standing(id)?;
        let anchored = store.read(|tx| bought::anchored(tx, id))?;
        let (range_proof, signed, anchor) = match anchored {
            Some(AnchoredProof { checkpoint, range, anchor, .. }) => (range, checkpoint, Some(anchor)),
            None => (store.read(|tx| bought::proof(tx, id))?.whole(), terms.checkpoint.clone(), None),
        };
        let checkpoint = signed.clone().verify_by::<Checkpoint>(*network, &purchase.seller)?;
        let checkpoint = checkpoint.value();
        let mut readings = Vec::new();
        for bought in store.read(|tx| bought::runs(tx, &terms.stream, terms.first, end, usize::MAX - 1))? {
            let open = bought.run.open(&terms.schema).map_err(ProofFailure::Chunk)?;
            let salts = salts_of(&bought.run, open.readings.len());
            let inside =
                open.readings.iter().zip(&salts).filter(|(r, _)| (terms.first..end).contains(&r.seq));
            readings.extend(inside.map(|(reading, salt)| EvidenceReading::new(reading, salt)));
        }
        let headers = chain.headers();
        let anchor = anchor.and_then(|proof| {
            let (txid, height) = match standing {
                Standing::Mined { txid, height } => (txid, Some(height)),
                Standing::Broadcast { txid } => (txid, None),
                _ => return None,
            };
            let header =
                height.and_then(|height| headers.header_at(height)).map(|header| hex::encode(header.0));
            Some(EvidenceAnchor { txid, height, header, proof })
        });
        Ok(Evidence {
            format: evidence::FORMAT.to_owned(),
            version: evidence::VERSION,
            network: *network,
            seller: purchase.seller,
            stream: EvidenceStream {
                id: terms.stream,
                name: terms.name.clone(),
                schema: terms.schema.clone(),
            },
            readings,
            range_proof,
            checkpoint: EvidenceCheckpoint { size: checkpoint.size, root: checkpoint.root, signed },
            anchor,
        })
    }
}
