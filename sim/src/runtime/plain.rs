//! The shim that stands in for madsim where its cfg is not set.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{PowerOff, on_fresh_thread};

/// The run's seed and clock; clones are the same run.
#[derive(Clone, Debug)]
pub struct Runtime {
    seed: u64,
    now: Arc<AtomicU64>,
}

/// A machine.
pub struct Machine(PowerOff);

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

impl Runtime {
    /// Runs `body` with a clock that stands at 0.
    pub fn run<T: Send>(seed: u64, body: impl FnOnce(Runtime) -> T + Send) -> T {
        on_fresh_thread(|| body(Runtime { seed, now: Arc::default() }))
    }

    /// The seed of everything.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Moves the clock forward to `at`.
    pub fn advance_to(&self, at: u64) {
        self.now.fetch_max(at, Ordering::Relaxed);
    }

    /// A new machine.
    pub fn create_machine(&self, _name: &str, power_off: PowerOff) -> Machine {
        Machine(power_off)
    }

    /// The power of a machine goes, and comes back.
    pub fn power_off(&self, machine: &Machine) {
        machine.0();
    }
}
