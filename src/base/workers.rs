//! The rayon workers: verify, encode, decode. They own nothing and keep no protocol state.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::sync::Arc;

/// Starts one worker a core, at least two, so that a hash never waits behind a decode.
///
/// # Errors
/// If the threads cannot be made.
pub fn start() -> Result<Arc<ThreadPool>, ThreadPoolBuildError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ThreadPoolBuilder::new()
        .num_threads(cores.max(2))
        .thread_name(|n| format!("worker-{n}"))
        // A panic in a job is a bug of ours; without a handler rayon aborts the whole node.
        .panic_handler(|_| log::error!("a worker's job panicked; the node goes on without it"))
        .build()
        .map(Arc::new)
}
