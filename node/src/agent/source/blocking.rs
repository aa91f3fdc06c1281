//! Threads for what blocks.
//!
//! Standard input and a program's output may be silent for ever. The runtime would wait for such a read when it
//! shuts down, so these reads have threads of their own, which end with the process or with their channel.

use tokio::sync::oneshot;

/// Runs `work` on a thread of its own; `None` where the thread could not be started or panicked.
pub(super) async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    spawn(name, move || {
        // The one who asked may be gone by now.
        sender.send(work()).ok();
    });
    receiver.await.ok()
}

/// Starts a thread that is left to itself; where the system gives none, `work` is dropped and so are its channels.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    // Linux shows 15 bytes of a thread's name.
    let name = name.chars().filter(char::is_ascii).take(15).collect();
    if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
        tracing::error!(%error, "the system gives no thread for a source");
    }
}
