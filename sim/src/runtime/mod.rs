//! What a run stands on: the seed, the clock and the machines. Under `--cfg madsim` they are madsim's;
//! without it (`cargo test`, benches) a shim of the same small surface, and a seed does the same on both.
//!
//! A run is one madsim task. It moves madsim's clock to each event of its own heap instead of sleeping
//! until there, sends over its own links, and calls state machines instead of waking tasks. madsim
//! keeps what must come from below: its hooks give redb, raft and the standard library the seed's
//! randomness and clock where they would ask the operating system, and refuse threads; its machines
//! tell every plugin when the power of one goes. `cargo sim speed` prints what the rest would cost.
//!
//! **Invariant:** nothing that a run does depends on which of the two it stands on.

#[cfg(madsim)]
mod on_madsim;
#[cfg(not(madsim))]
mod plain;

#[cfg(madsim)]
pub use on_madsim::{Machine, Runtime};
#[cfg(not(madsim))]
pub use plain::{Machine, Runtime};

/// What a machine does when its power goes: its disk forgets its cache.
pub type PowerOff = Box<dyn Fn() + Send + Sync>;

/// Runs `body` on a thread of its own, because hash maps of the standard library are seeded once a
/// thread. A panic goes on in the caller.
fn on_fresh_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(body).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn the_clock_goes_where_it_is_sent_and_only_the_machine_that_is_meant_loses_its_power() {
        let counts = Runtime::run(7, |runtime| {
            assert_eq!((runtime.seed(), runtime.now()), (7, 0));
            runtime.advance_to(1_000_003);
            assert_eq!(runtime.now(), 1_000_003);
            runtime.advance_to(5);
            assert_eq!(runtime.now(), 1_000_003);
            let counts: Vec<Arc<AtomicU64>> = (0..2).map(|_| Arc::default()).collect();
            let machines: Vec<Machine> = counts
                .iter()
                .enumerate()
                .map(|(at, count)| {
                    let count = count.clone();
                    let off = Box::new(move || {
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                    runtime.create_machine(&format!("m{at}"), off)
                })
                .collect();
            runtime.power_off(&machines[1]);
            runtime.power_off(&machines[1]);
            counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>()
        });
        assert_eq!(counts, [0, 2]);
    }
}
