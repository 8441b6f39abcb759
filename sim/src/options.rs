//! Everything that a seed decides about a run, drawn once at its start (swarm testing: each run has
//! some faults often, some seldom and some not at all, so that rare combinations come up).

use std::time::Duration;

use cairn_core::node::Config;
use cairn_core::planted::Bug;
use cairn_core::rng::Rng;

use crate::disk::Engine;
use crate::fault::Weights;

use crate::recording::Recording;
use crate::shrink::Kept;

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000 * MS;

/// A range of latencies in nanoseconds, with a chance of an outlier in a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The least.
    pub min: u64,
    /// The most of the usual ones.
    pub max: u64,
    /// Chance of an outlier, in a thousand.
    pub slow: u64,
    /// The most of the outliers.
    pub slow_max: u64,
}

impl Latency {
    /// One latency.
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        let max = if self.slow > 0 && rng.chance(self.slow, 1000) { self.slow_max } else { self.max };
        self.min + rng.below(max.saturating_sub(self.min) + 1)
    }
}

/// How likely each operation of a client is, relative to the others.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Mix {
    pub put: u64,
    pub txn: u64,
    pub delete: u64,
    pub range: u64,
    pub stale: u64,
    pub history: u64,
    pub lease: u64,
    pub compact: u64,
    pub hash: u64,
    pub admin: u64,
}

/// A run's options.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Options {
    pub seed: u64,
    pub verbose: bool,
    /// A bug that this run is to find.
    pub planted: Option<Bug>,
    /// Where what happens is kept for a report.
    pub recording: Option<Recording>,
    /// The faults and the operations that this run has; none: those that the seed draws.
    pub kept: Kept,
    pub members: usize,
    pub chaos: u64,
    pub clients: usize,
    /// Some clients ask several things in a row.
    pub scripts: bool,
    pub watchers: usize,
    pub keys: u64,
    pub value_bytes: u64,
    pub think: Latency,
    pub network: Latency,
    pub loss: u64,
    pub duplicate: u64,
    pub append: Latency,
    pub flush: Latency,
    pub transfer: Latency,
    pub process: Latency,
    pub feedback: Latency,
    pub fault_interval: u64,
    pub faults: Weights,
    pub mix: Mix,
    pub drift: u64,
    pub engine: Engine,
    /// The loss of power may garble a sector that is being written.
    pub garble: bool,
    /// Disks are damaged; old images of them are kept, to be put back.
    pub damage: bool,
    /// Rare states are brought about, and faults wait for them.
    pub rare_states: bool,
    /// How long damage may lie unnoticed before the operator checks the member, and how long all
    /// members are whole before the next damage.
    pub patience: u64,
    pub quiet: u64,
    /// Some links are longer than others.
    pub far_links: bool,
    pub membership: bool,
    pub segment_bytes: u64,
    pub compact_rows: usize,
    pub power_loss: u64,
    pub snapshot_count: u64,
    pub catchup_entries: u64,
    pub flush_entries_max: usize,
    pub flush_age_max: Duration,
    pub inline_rows_max: usize,
    pub election_ticks: usize,
    pub heartbeat: Duration,
    pub pre_vote: bool,
    pub quota_bytes: Option<u64>,
    pub progress: Duration,
    pub learners_max: usize,
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.below(choices.len() as u64) as usize]
}

/// A weight that is often 0.
fn sometimes(rng: &mut Rng, max: u64) -> u64 {
    if rng.chance(1, 2) { 0 } else { 1 + rng.below(max) }
}

impl Options {
    /// The options of a seed; `seconds` of chaos.
    pub fn draw(seed: u64, seconds: u64) -> Self {
        let rng = &mut Rng::derive(seed, &[0x0971]);
        let members = pick(rng, &[1, 1, 3, 3, 3, 3, 3, 5]);
        let latency = pick(rng, &[1, 2, 5, 20]) * MS;
        let calm = rng.chance(1, 12);
        // Damage and changes of the membership exclude each other: together they could take the last
        // good copy of something.
        let damage = !calm && rng.chance(3, 5);
        let clocks = rng.chance(1, 4);
        let faults = Weights::draw(rng, members, damage && members != 2, clocks);
        let engine = match rng.below(4) {
            0 | 1 => Engine::Memory,
            2 => Engine::Redb { cache_bytes: 0 },
            _ => Engine::Redb { cache_bytes: 1 << 20 },
        };
        let mix = Mix {
            put: 20 + rng.below(40),
            txn: sometimes(rng, 30),
            delete: sometimes(rng, 15),
            range: 5 + rng.below(30),
            stale: sometimes(rng, 10),
            history: sometimes(rng, 10),
            lease: sometimes(rng, 15),
            compact: sometimes(rng, 6),
            hash: sometimes(rng, 3),
            admin: sometimes(rng, 2),
        };
        let disk = pick(rng, &[1, 1, 3, 30]) * MS;
        let drawn = Self {
            seed,
            verbose: false,
            planted: None,
            recording: None,
            kept: Kept::default(),
            members,
            chaos: seconds * SECOND,
            clients: 1 + rng.below(8) as usize,
            scripts: rng.chance(2, 3),
            watchers: rng.below(6) as usize,
            keys: pick(rng, &[1, 3, 10, 40]),
            value_bytes: pick(rng, &[4, 20, 300, 3000]),
            think: Latency {
                min: MS / 10,
                max: pick(rng, &[5, 30, 150]) * MS,
                slow: 20,
                slow_max: 3 * SECOND,
            },
            network: Latency {
                min: latency / 10,
                max: latency,
                slow: sometimes(rng, 100),
                slow_max: pick(rng, &[50, 400, 3000]) * MS,
            },
            loss: if calm { 0 } else { sometimes(rng, 120) },
            duplicate: if calm { 0 } else { sometimes(rng, 200) },
            append: Latency { min: MS / 20, max: disk, slow: sometimes(rng, 20), slow_max: 800 * MS },
            flush: Latency { min: MS / 5, max: disk * 5, slow: sometimes(rng, 100), slow_max: 3 * SECOND },
            transfer: Latency { min: MS, max: 100 * MS, slow: sometimes(rng, 300), slow_max: 4 * SECOND },
            process: Latency { min: 1_000, max: 200_000, slow: 10, slow_max: 5 * MS },
            feedback: Latency { min: 0, max: 100_000, slow: sometimes(rng, 100), slow_max: 50 * MS },
            fault_interval: if calm { u64::MAX / 4 } else { pick(rng, &[300, 1000, 3000]) * MS },
            faults,
            mix,
            drift: if rng.chance(1, 2) { 100_000 } else { 0 },
            engine,
            garble: rng.chance(1, 2),
            damage,
            rare_states: false,
            patience: 5 * SECOND,
            quiet: 3 * SECOND,
            far_links: rng.chance(1, 4),
            membership: members > 1 && !damage && rng.chance(2, 3),
            segment_bytes: pick(rng, &[8 << 10, 64 << 10, 16 << 20]),
            compact_rows: pick(rng, &[2, 10, 100]),
            power_loss: rng.below(101),
            snapshot_count: pick(rng, &[5, 20, 200, 10_000]),
            catchup_entries: pick(rng, &[1, 10, 100, 5_000]),
            flush_entries_max: pick(rng, &[4, 50, 1000, 50_000]),
            flush_age_max: Duration::from_millis(pick(rng, &[20, 500, 10_000])),
            inline_rows_max: pick(rng, &[1, 3, 512]),
            election_ticks: pick(rng, &[5, 10, 10]),
            heartbeat: Duration::from_millis(pick(rng, &[50, 100, 100])),
            pre_vote: !rng.chance(1, 8),
            quota_bytes: if rng.chance(1, 8) { Some(pick(rng, &[40_000, 2 << 20])) } else { Some(2 << 30) },
            progress: Duration::from_millis(pick(rng, &[100, 1000, 600_000])),
            learners_max: pick(rng, &[1, 1, 2]),
        };
        let rare = Rng::derive(seed, &[0x4a4e]).chance(2, 3);
        if rare && !calm && members > 1 { drawn.about_rare_states() } else { drawn }
    }

    /// The same run, about rare states: the log is let go of early, and damage waits for a state and is
    /// repaired soon, so that there is more of it.
    fn about_rare_states(mut self) -> Self {
        self.rare_states = true;
        self.catchup_entries = self.catchup_entries.min(10);
        self.snapshot_count = self.snapshot_count.min(20);
        self.faults.aim_damage();
        self.patience = SECOND;
        self.quiet = SECOND / 2;
        self
    }

    /// Three members and nothing that goes wrong, at so many operations a second.
    pub fn steady(seed: u64, seconds: u64, operations: u64) -> Self {
        let clients = 5;
        let think = Latency { min: 0, max: 2 * SECOND * clients / operations, slow: 0, slow_max: 0 };
        let quick = |max: u64| Latency { min: MS / 10, max, slow: 0, slow_max: 0 };
        Self {
            members: 3,
            clients: clients as usize,
            scripts: false,
            watchers: 2,
            keys: 40,
            value_bytes: 300,
            think,
            network: quick(2 * MS),
            loss: 0,
            duplicate: 0,
            append: quick(MS),
            flush: quick(5 * MS),
            process: quick(MS / 5),
            feedback: quick(MS / 5),
            fault_interval: u64::MAX / 4,
            faults: Weights::none(),
            engine: Engine::Redb { cache_bytes: 1 << 20 },
            far_links: false,
            damage: false,
            rare_states: false,
            mix: Mix {
                put: 40,
                txn: 10,
                delete: 5,
                range: 30,
                stale: 5,
                history: 3,
                lease: 5,
                ..Mix::default()
            },
            membership: false,
            segment_bytes: 1 << 20,
            compact_rows: 100,
            snapshot_count: 10_000,
            catchup_entries: 5_000,
            flush_entries_max: 50_000,
            flush_age_max: Duration::from_secs(10),
            inline_rows_max: 512,
            election_ticks: 10,
            heartbeat: Duration::from_millis(100),
            pre_vote: true,
            quota_bytes: Some(2 << 30),
            progress: Duration::from_secs(600),
            ..Self::draw(seed, seconds)
        }
    }

    /// The settings of a member of this run.
    pub fn config(&self, member_id: u64, cluster_id: u64, boot: u64, name: &str) -> Config {
        let mut config = Config::new(member_id, cluster_id, boot, self.seed);
        config.name = name.to_owned();
        config.client_urls = vec![format!("http://{name}:2379")];
        config.snapshot_count = self.snapshot_count;
        config.catchup_entries = self.catchup_entries;
        config.flush_entries_max = self.flush_entries_max;
        config.flush_age_max = self.flush_age_max;
        config.inline_rows_max = self.inline_rows_max;
        config.election_ticks = self.election_ticks;
        config.heartbeat = self.heartbeat;
        config.pre_vote = self.pre_vote;
        config.quota_bytes = self.quota_bytes;
        config.watch_progress_interval = self.progress;
        config.learners_max = self.learners_max;
        config
    }
}
