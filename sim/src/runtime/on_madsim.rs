//! A run on madsim.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use madsim::plugin::{Simulator, simulator};
use madsim::rand::GlobalRng;
use madsim::runtime::Handle;
use madsim::task::NodeId;
use madsim::time::TimeHandle;

use super::{PowerOff, on_fresh_thread};

/// The run's access to madsim; clones are the same run.
#[derive(Clone)]
pub struct Runtime {
    handle: Handle,
    time: TimeHandle,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// A madsim node.
#[derive(Clone, Copy, Debug)]
pub struct Machine(NodeId);

/// The plugin that hears from madsim which machine was killed.
#[derive(Default)]
struct Power(Mutex<Vec<(NodeId, Arc<PowerOff>)>>);

impl Simulator for Power {
    fn new(_: &GlobalRng, _: &TimeHandle, _: &madsim::Config) -> Self {
        Self::default()
    }

    fn reset_node(&self, node: NodeId) {
        let machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let off = machines.iter().find(|(id, _)| *id == node).map(|(_, off)| off.clone());
        drop(machines);
        if let Some(off) = off {
            off();
        }
    }
}

impl Runtime {
    /// Runs `body` as the first task of a madsim runtime with that seed.
    pub fn run<T: Send>(seed: u64, body: impl FnOnce(Runtime) -> T + Send) -> T {
        on_fresh_thread(|| {
            let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
            runtime.add_simulator::<Power>();
            runtime
                .block_on(async { body(Runtime { handle: Handle::current(), time: TimeHandle::current() }) })
        })
    }

    /// The seed of everything.
    pub fn seed(&self) -> u64 {
        self.handle.seed()
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.time.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Moves the clock forward to `at`.
    pub fn advance_to(&self, at: u64) {
        if let Some(ahead) = at.checked_sub(self.now()) {
            self.time.advance(Duration::from_nanos(ahead));
        }
    }

    /// A new machine.
    pub fn create_machine(&self, name: &str, power_off: PowerOff) -> Machine {
        let node = self.handle.create_node().name(name).build().id();
        let power = simulator::<Power>();
        power.0.lock().unwrap_or_else(PoisonError::into_inner).push((node, Arc::new(power_off)));
        Machine(node)
    }

    /// The power of a machine goes, and comes back.
    pub fn power_off(&self, machine: &Machine) {
        self.handle.kill(machine.0);
        self.handle.restart(machine.0);
    }
}
