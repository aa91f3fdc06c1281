//! Delivery streams: those of others on their way to the application, and ours on their way to a connection.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::Instant;

use crate::net::{
    NetEvent, Offence,
    command::answer,
    counters::inc,
    delivery::{DeliveryError, DeliveryStream, Event, Open, Shared},
    limits::MAX_QUEUED_DELIVERIES,
    on::connection::best,
    runner::NetRunner,
};

impl NetRunner {
    pub(in crate::net) fn on_delivery(&mut self, event: Event) {
        match event {
            Event::Inbound(stream) => self.hand_on(stream),
            Event::Refused { peer, over_its_share, full } => {
                let refused = over_its_share.saturating_add(full);
                self.counters.deliveries_refused.fetch_add(refused, Relaxed);
                tracing::debug!(%peer, refused, "delivery streams refused");
                if over_its_share > 0 {
                    self.charge(peer, Offence::QuotaExceeded);
                }
            }
            Event::Fault { peer, offence } => self.charge(peer, offence),
        }
    }

    /// Puts a stream into the queue to the application, from which it must be taken in time.
    fn hand_on(&mut self, stream: Arc<Shared>) {
        let permit = self.delivery_queue.clone().try_acquire_owned();
        let event = self.events.try_reserve();
        if let (Ok(permit), Ok(event)) = (permit, event) {
            // More than may wait are only here because they were taken since the last tick.
            if self.queued_deliveries.len() >= MAX_QUEUED_DELIVERIES {
                self.queued_deliveries.retain(|(_, queued)| queued.upgrade().is_some_and(|s| s.is_queued()));
            }
            let by = Instant::now() + self.accept_delivery;
            self.queued_deliveries.push((by, stream.queue(permit)));
            event.send(NetEvent::Delivery { stream: DeliveryStream::new(stream) });
        } else {
            inc(&self.counters.deliveries_refused);
            stream.refuse();
        }
    }

    /// Refuses the streams that the application did not take in time.
    pub(in crate::net) fn refuse_unaccepted(&mut self, now: Instant) {
        let counters = &self.counters;
        self.queued_deliveries.retain(|(by, queued)| {
            let Some(queued) = queued.upgrade().filter(|queued| queued.is_queued()) else { return false };
            let in_time = now < *by;
            if !in_time {
                inc(&counters.deliveries_unaccepted);
                queued.refuse();
            }
            in_time
        });
    }

    /// Opens one of our streams over the best connection.
    pub(in crate::net) fn open_delivery(&mut self, open: Open) {
        match self.live.get(&open.peer).and_then(best) {
            Some(connection) => self.swarm.behaviour_mut().delivery.open(connection, open),
            // It ended just now.
            None => {
                let error = DeliveryError::Reset { peer: open.peer };
                answer(open.reply, Err(error));
            }
        }
    }
}
