//! What is kept, and what is paid for it.

use sensora_chain::{Network, Satoshis};

use super::questions::Question;
use super::{Ask, AskAction, AskError, KEEP_AT, Piece};
use crate::market::channel::spending::Reservation;
use crate::market::delivery::receive::ChannelPurchase;
use crate::market::exposure::Stakes;
use crate::market::receipt::ChannelReceipt;
use crate::statement::SignedBytes;

impl Ask {
    pub(super) fn begin(
        &mut self,
        paid: Satoshis,
        credit: Satoshis,
        reservation: &Reservation,
    ) -> Result<(), AskError> {
        (self.begun, self.told) = (true, paid);
        let (unit, limit) = (self.price.due(1)?, self.interval.now());
        let next = self.price.due(self.asked.count().saturating_add(1))?;
        let is_paid = next <= reservation.paid();
        let owes = reservation.paid() < self.price.due(self.purchase.next)?;
        if !self.is_stopping() && !is_paid && !owes && limit < unit && credit < unit {
            return Err(AskError::NobodyBegins { unit, limit });
        }
        Ok(())
    }

    /// What may be asked for with so much paid: as much more as is let stand open, and one reading, so that a seller that goes first can.
    pub(super) fn beyond(&self, paid: Satoshis) -> Result<Satoshis, AskError> {
        let (limit, unit) = (self.interval.limit(), self.price.due(1)?);
        let most = paid.checked_add(limit).and_then(|most| most.checked_add(unit));
        Ok(most.unwrap_or(Satoshis::MAX))
    }

    /// Keeps what is verified, when there is a piece of it.
    pub(super) fn keep(&mut self, actions: &mut Vec<AskAction>) -> Result<(), AskError> {
        let rests = std::mem::take(&mut self.rests);
        if self.keeping.is_some() || self.unkept.is_empty() {
            return Ok(());
        }
        let count = self.asked.count();
        let open = self.price.due(count)?.saturating_sub(self.price.due(self.purchase.next)?);
        let is_piece = self.unkept.len() >= KEEP_AT
            || open.as_u64().saturating_mul(2) >= self.interval.now().as_u64().max(1);
        let ends = self.closed || (self.is_stopping() && self.open.is_empty() && self.owed.is_empty());
        if is_piece || rests || ends {
            self.keeping = Some(count);
            let purchase = ChannelPurchase { next: count, ..self.purchase.clone() };
            let readings = std::mem::take(&mut self.unkept);
            let checkpoint = self.checkpoint.clone();
            actions.push(AskAction::Keep(Box::new(Piece { readings, checkpoint, purchase })));
        }
        Ok(())
    }

    /// Pays what is due, and ahead of that as much as trust allows, when half of what stood ahead is used up by what is asked.
    pub(super) fn pay(
        &mut self,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        if let Some(end) = self.stopped
            && self.is_kept()
            && self.open.is_empty()
            && self.owed.is_empty()
        {
            let here = self.asked.count();
            if end != here {
                return Err(AskError::Counts { said: end, here });
            }
        }
        let (order, paid) = (self.purchase.id, reservation.paid());
        let due = self.price.due(self.purchase.next)?;
        stakes.note(order, paid.saturating_sub(due));
        if !self.begun {
            return Ok(());
        }
        let stopping = self.is_stopping();
        let window = if stopping { Satoshis::ZERO } else { self.interval.now().min(stakes.room(&order)) };
        let ahead = due.checked_add(window).unwrap_or(due).min(self.purchase.budget);
        let most = self.price.due(self.price.covered_by(ahead))?;
        let charged = self.open.iter().filter(|open| !matches!(open.asked, Question::Grow)).count() as u64;
        let needed = self.price.due(self.asked.count().saturating_add(charged))?;
        let half = Satoshis::from_sat(window.as_u64() / 2);
        let is_low = window.is_zero() || paid < needed.checked_add(half).unwrap_or(Satoshis::MAX);
        let to = if most > paid && is_low { most } else { paid };
        let lost = self.told < paid && (!stopping || self.told < due);
        if to == paid && !lost {
            return Ok(());
        }
        if to > paid {
            stakes.set(order, to.saturating_sub(due))?;
        }
        let amount = reservation.pay_to(to)?;
        self.told = to;
        actions.push(AskAction::Voucher { paid: to, amount });
        Ok(())
    }

    /// What the order paid by its receipt: all that is due, or all that was signed where that is less, and in no case what was paid ahead.
    pub(super) fn check_receipt(
        &self,
        receipt: &SignedBytes,
        paid: Satoshis,
        network: Network,
    ) -> Result<Satoshis, AskError> {
        let receipt = receipt.clone().verify_by::<ChannelReceipt>(network, &self.purchase.seller)?;
        let receipt = receipt.value();
        let count = self.asked.count();
        let due = self.price.due(count)?;
        let differs = [
            ("order", receipt.order != self.purchase.id),
            ("offer", receipt.offer != self.terms.offer),
            ("stream", receipt.stream != self.terms.stream),
            ("first", receipt.first != 0),
            ("count", receipt.count != count),
            ("paid", receipt.paid != due.min(paid)),
            ("channel", receipt.channel != self.purchase.channel),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((field, _)) => Err(AskError::Receipt { field }),
            None => Ok(receipt.paid),
        }
    }
}
