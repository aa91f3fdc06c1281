//! What answers are checked against, and what becomes of those that hold.

use sensora_chain::Network;

use super::{Ask, AskAction, AskError, Got, Want};
use crate::codec;
use crate::id::Hash;
use crate::market::reads::frame::{Row, Signing};
use crate::market::reads::known::{KnownError, Plan};
use crate::statement::SignedBytes;
use crate::stream::checkpoint::Checkpoint;
use crate::stream::leaf::{self, Salt};
use crate::stream::reading::Reading;

impl Ask {
    pub(super) fn row(
        &mut self,
        seq: u64,
        plan: Plan,
        want: Want,
        row: Row,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        if want == Want::Latest {
            self.looked = self.looked.saturating_add(1);
        }
        let Row { step, values, salt, hashes } = row;
        let time = self.times.take(step).cast_signed();
        if self.asked.contains(seq) {
            actions.push(AskAction::Got(want, Got::Same { seq }));
            return Ok(());
        }
        let reading = Reading { seq, time, values };
        self.terms.schema.check(&reading)?;
        self.known.verify(seq, leaf::hash(&reading, &salt), plan, &hashes)?;
        self.took(reading, salt, want, actions)
    }

    pub(super) fn newest(
        &mut self,
        signing: &Signing,
        row: Row,
        network: Network,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        let known = KnownError::Shrunk { old: self.known.size(), new: signing.size };
        let seq = signing.size.checked_sub(1).filter(|seq| *seq >= self.known.size()).ok_or(known)?;
        let Row { step, values, salt, hashes } = row;
        let time = self.times.take(step).cast_signed();
        let reading = Reading { seq, time, values };
        self.terms.schema.check(&reading)?;
        self.grow(signing, &hashes, Some(leaf::hash(&reading, &salt)), network)?;
        self.took(reading, salt, Want::Latest, actions)
    }

    /// The log has grown, and the seller has signed what it is.
    pub(super) fn grow(
        &mut self,
        signing: &Signing,
        hashes: &[Hash],
        leaf: Option<Hash>,
        network: Network,
    ) -> Result<(), AskError> {
        let growth = self.known.grown(signing.size, hashes, leaf)?;
        let checkpoint = Checkpoint {
            stream: self.terms.stream,
            size: signing.size,
            root: growth.root(),
            issued_ms: signing.issued_ms,
        };
        let signed = SignedBytes {
            body: codec::encode(&checkpoint)?,
            key: self.purchase.seller,
            signature: signing.signature.compact().to_vec(),
        };
        signed.clone().verify_by::<Checkpoint>(network, &self.purchase.seller)?;
        self.known.take(growth, self.open.is_empty());
        self.checkpoint = Some(signed);
        self.looked = self.looked.saturating_add(1);
        Ok(())
    }

    /// A verified reading takes the next place.
    fn took(
        &mut self,
        reading: Reading,
        salt: Salt,
        want: Want,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        let count = self.asked.count();
        let price = self.price.due(count.saturating_add(1))?.saturating_sub(self.price.due(count)?);
        if self.asked.push(reading.seq).is_err() {
            // It was not to be asked for.
            return Err(AskError::Counts { said: count.saturating_add(1), here: count });
        }
        self.unanswered.numbers.remove(&reading.seq);
        self.interval.answered(price);
        actions.push(AskAction::Got(want, Got::Reading(reading.clone())));
        self.unkept.push((reading, salt));
        Ok(())
    }
}
