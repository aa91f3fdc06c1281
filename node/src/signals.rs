//! The signals by which somebody stops a program: Ctrl-C, and where there is one what a service manager sends.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears of each stop from its making on. One that comes while nobody waits for it is told to whoever waits next; several of one kind count as one.
///
/// A program makes one of these and keeps it: from then on a signal does not end the process any more, so one that nobody is told of would be lost.
#[derive(Debug)]
pub struct StopSignals {
    #[cfg(unix)]
    interrupt: Signal,
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl StopSignals {
    /// From here on.
    ///
    /// # Errors
    /// The system does not let us listen.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            interrupt: signal(SignalKind::interrupt())?,
            #[cfg(unix)]
            terminate: signal(SignalKind::terminate())?,
            #[cfg(windows)]
            interrupt: tokio::signal::windows::ctrl_c()?,
        })
    }

    /// Waits for Ctrl-C alone, or finds one that came since the last time: what ends a program at once that is stopping already. A service manager that asks
    /// too after it was stopped by hand means the same stop. Safe to cancel.
    pub async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }

    /// Waits for a stop, or finds one that came since the last time. Safe to cancel.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(windows)]
        self.interrupt.recv().await;
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::process::Command;

    use tokio::sync::Mutex;

    use super::*;

    /// Signals are the whole process's: one test at a time.
    static ALONE: Mutex<()> = Mutex::const_new(());

    fn send(name: &str) {
        let us = std::process::id().to_string();
        assert!(Command::new("kill").args([name, &us]).status().unwrap().success());
    }

    /// Until the runtime has taken note of what was sent: another listener has heard it.
    async fn sent(name: &str) {
        let mut other = StopSignals::new().unwrap();
        send(name);
        other.next().await;
    }

    #[tokio::test]
    async fn a_stop_that_comes_while_something_else_is_done_is_not_lost() {
        let _alone = ALONE.lock().await;
        let mut stops = StopSignals::new().unwrap();
        // As a loop does that waits for other things as well: the wait is begun, left, and begun again later.
        tokio::select! {
            biased;
            () = stops.next() => panic!("nobody has stopped it"),
            () = std::future::ready(()) => {}
        }
        sent("-INT").await;
        stops.next().await;
        sent("-TERM").await;
        stops.next().await;
    }

    #[tokio::test]
    async fn a_service_manager_that_stops_what_is_stopping_ends_nothing_at_once() {
        let _alone = ALONE.lock().await;
        let mut stops = StopSignals::new().unwrap();
        sent("-INT").await;
        stops.next().await;
        sent("-TERM").await;
        tokio::select! {
            biased;
            () = stops.interrupted() => panic!("that was no Ctrl-C"),
            () = std::future::ready(()) => {}
        }
        sent("-INT").await;
        stops.interrupted().await;
    }

    #[tokio::test]
    async fn each_stop_is_told_once() {
        let _alone = ALONE.lock().await;
        let mut stops = StopSignals::new().unwrap();
        sent("-INT").await;
        stops.next().await;
        tokio::select! {
            biased;
            () = stops.next() => panic!("told twice"),
            () = std::future::ready(()) => {}
        }
    }
}
