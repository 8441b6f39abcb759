//! What a load is made of, as the command line names it.
//!
//! The defaults are here once: the command line shows them, and `compare` builds on them.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::size::Size;

/// What all loads have in common.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// Client addresses, with or without `http://`; connections go to them in turn.
    #[arg(long, value_delimiter = ',', default_values_t = LoadOptions::default().endpoints)]
    pub endpoints: Vec<String>,
    /// HTTP/2 connections.
    #[arg(long, default_value_t = LoadOptions::default().conns)]
    pub conns: usize,
    /// Clients, spread over the connections. Each has at most one operation under way.
    #[arg(long, default_value_t = LoadOptions::default().clients)]
    pub clients: usize,
    /// Stop after this many operations [default: 10000, if there is no --duration].
    #[arg(long)]
    pub total: Option<u64>,
    /// Stop after this many seconds.
    #[arg(long, value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Open loop: start this many operations a second whether or not earlier ones have ended, and count
    /// latency from when each was due. Without it a client starts the next one when the last has ended.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of a key, the prefix included: a number, or as for values. A key has its size for good.
    #[arg(long, default_value_t = LoadOptions::default().key_size)]
    pub key_size: Size,
    /// Bytes of a value: a number, LEAST-MOST for all sizes between as likely, or LEAST-MOST:EXPONENT to
    /// prefer small ones as Zipf's law does.
    #[arg(long, default_value_t = LoadOptions::default().val_size)]
    pub val_size: Size,
    /// Distinct keys.
    #[arg(long, default_value_t = LoadOptions::default().keys)]
    pub keys: u64,
    /// What every key begins with.
    #[arg(long, default_value_t = LoadOptions::default().prefix)]
    pub prefix: String,
    /// Use the keys in order instead of at random.
    #[arg(long)]
    pub sequential: bool,
    /// Prefer low keys as Zipf's law does, with this exponent below 1 (YCSB's is 0.99); without it all
    /// keys are as likely.
    #[arg(long, conflicts_with = "sequential")]
    pub zipf: Option<f64>,
    /// The keys that the load reads are there, and none is written first.
    #[arg(long)]
    pub filled: bool,
    /// The seed of the random keys.
    #[arg(long, default_value_t = LoadOptions::default().seed)]
    pub seed: u64,
    /// Report the CPU time, memory and dirtied pages of these processes (the servers) as well, in sum.
    #[arg(long = "server-pid", value_delimiter = ',')]
    pub server_pids: Vec<u32>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            conns: 1,
            clients: 1,
            total: None,
            duration: None,
            rate: None,
            key_size: Size::fixed(16),
            val_size: Size::fixed(256),
            keys: 10_000,
            prefix: "bench/".to_owned(),
            sequential: false,
            zipf: None,
            filled: false,
            seed: 1,
            server_pids: Vec::new(),
            json: false,
        }
    }
}

/// Which reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Linearizable: the answer is at least as new as the request.
    #[default]
    L,
    /// Serializable: whatever the member has.
    S,
}

/// What a load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes one key.
    Put,
    /// Reads `rows` keys, one by default.
    Range {
        /// Which reads.
        consistency: Consistency,
        /// Keys that one range covers.
        rows: u64,
    },
    /// One compare, then reads and writes.
    Txn {
        /// Ranges of one key in a transaction.
        reads: u32,
        /// Puts in a transaction.
        writes: u32,
    },
    /// Ranges of one key and puts.
    Mixed {
        /// Which reads.
        consistency: Consistency,
        /// How many of a hundred operations read.
        read_percent: u64,
    },
    /// Puts whose events are awaited.
    Watch {
        /// Watch streams.
        streams: usize,
        /// Watchers on each, all of them over all keys.
        watchers: usize,
    },
    /// Reads two keys and writes them back if neither has changed, until that succeeds.
    Stm,
    /// Takes and gives back a lock of the lock service; the keys are the locks' names.
    Lock,
    /// Keeps one lease a client alive.
    Lease {
        /// The leases' time to live, in seconds.
        ttl: i64,
    },
}

impl Kind {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Range { consistency: Consistency::L, .. } => "range (linearizable)",
            Self::Range { consistency: Consistency::S, .. } => "range (serializable)",
            Self::Txn { .. } => "txn",
            Self::Mixed { .. } => "mixed",
            Self::Watch { .. } => "watch",
            Self::Stm => "stm",
            Self::Lock => "lock",
            Self::Lease { .. } => "lease keepalive",
        }
    }

    /// Whether operations change keys, so that something is written to a disk.
    pub fn writes_keys(self) -> bool {
        !matches!(self, Self::Range { .. } | Self::Lease { .. } | Self::Mixed { read_percent: 100, .. })
    }

    /// Whether the keys must exist before the load begins.
    pub fn reads_keys(self) -> bool {
        matches!(self, Self::Range { .. } | Self::Txn { .. } | Self::Mixed { .. } | Self::Stm)
    }
}

/// Seconds, with or without a fraction or an `s`.
///
/// # Errors
/// It is no such number.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds: f64 = number.parse().map_err(|_| format!("{text} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
