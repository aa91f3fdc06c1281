//! What a buyer does with the key.

use sensora_chain::Network;

use super::{Actions, BatchPurchase, BatchPurchaseState, BuyAction, BuyError};
use crate::market::key_release::key::BatchKey;
use crate::market::key_release::misbehaviour::MisbehaviourProof;
use crate::market::key_release::offer::BatchTerms;
use crate::market::key_release::parts::ProvenPart;
use crate::market::receipt::Receipt;
use crate::statement::SignedBytes;

impl BatchPurchase {
    /// The key is here, from wherever: it is the one, or it would not have its hash. It is never lost again, and opens the parts as soon
    /// as all of them are here.
    pub(super) fn reveal(&mut self, key: BatchKey, terms: &BatchTerms) -> Vec<BuyAction> {
        self.key = Some(key);
        let opens = matches!(
            self.state,
            BatchPurchaseState::Revealed { .. }
                | BatchPurchaseState::Complete
                | BatchPurchaseState::Cheated { .. }
        );
        if opens || !self.arrivals.is_complete(terms) {
            return Vec::new();
        }
        self.state = BatchPurchaseState::Revealed { opened: 0 };
        self.resume()
    }

    /// A part from our own disk. One that is lost or damaged there is the seller's to send again, and no fault of its.
    pub(super) fn stored(
        &mut self,
        part: Option<&ProvenPart>,
        terms: &BatchTerms,
        network: Network,
    ) -> Actions {
        let BatchPurchaseState::Revealed { opened } = self.state else { return Ok(Vec::new()) };
        match part.filter(|part| part.part.index == opened && part.check(terms).is_ok()) {
            Some(part) => self.open(part, terms, network),
            None => Ok(vec![self.begin(opened)]),
        }
    }

    /// Parts from the seller, after the key: those that were damaged here, and what follows them.
    pub(super) fn sent_again(
        &mut self,
        parts: Vec<ProvenPart>,
        terms: &BatchTerms,
        network: Network,
    ) -> Actions {
        let mut actions = Vec::new();
        for part in parts {
            let BatchPurchaseState::Revealed { opened } = self.state else { break };
            if part.part.index != opened {
                continue;
            }
            // What was verified before it is kept; the next one is asked for again.
            if let Err(error) = part.check(terms) {
                return if actions.is_empty() { Err(error.into()) } else { Ok(actions) };
            }
            let opened = self.open(&part, terms, network)?;
            actions.retain(|action| !matches!(action, BuyAction::Open(_)));
            actions.extend(opened);
        }
        Ok(actions)
    }

    /// Opens a part that is the one that was offered.
    fn open(&mut self, part: &ProvenPart, terms: &BatchTerms, network: Network) -> Actions {
        let Some(key) = self.key.clone() else { return Ok(Vec::new()) };
        let index = part.part.index;
        let page = match part.open(&key, terms) {
            Ok(page) => page,
            Err(_) => {
                let proof = MisbehaviourProof::new(network, self.offer.clone(), part.clone(), key);
                // Nobody is accused of what another would not believe.
                let source = proof.verify().err();
                if let Some(source) = source {
                    return Err(BuyError::NotProven { index, source: Box::new(source) });
                }
                self.state = BatchPurchaseState::Cheated { proof: Box::new(proof.clone()) };
                return Ok(vec![BuyAction::Accuse(Box::new(proof))]);
            }
        };
        let keep = BuyAction::Keep(Box::new(page));
        let opened = index.saturating_add(1);
        if opened < terms.parts {
            self.state = BatchPurchaseState::Revealed { opened };
            return Ok(vec![keep, BuyAction::Open(opened)]);
        }
        self.state = BatchPurchaseState::Complete;
        Ok(vec![keep, BuyAction::Finished])
    }

    /// The receipt, if it is one of this order.
    pub(super) fn fitting(
        &self,
        receipt: SignedBytes,
        terms: &BatchTerms,
        network: Network,
    ) -> Option<SignedBytes> {
        let signed = receipt.clone().verify_by::<Receipt>(network, &self.seller).ok()?;
        let value = signed.value();
        let fits = value.order == self.id
            && value.offer == terms.offer
            && value.stream == terms.stream
            && (value.first, value.first.saturating_add(value.count)) == (terms.first, terms.end)
            && value.paid >= terms.total;
        fits.then_some(receipt)
    }
}
