//! The process from configuration to exit: ports, files, the member, signals, and the exit code.

use std::process::ExitCode;
use std::time::Duration;

use cairn_core::error::Fatal;
use cairn_core::node::NodeEvent;

use crate::boot;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::driver::{Notice, hex};
use crate::events;
use crate::member::Member;
use crate::ports::{Ports, Served};

/// How long a removed member goes on, so that its peers learn the commit index from it.
const REMOVED_LINGER: Duration = Duration::from_secs(1);

/// Why the process ends.
enum End {
    Signal(i32),
    Removed,
    Fatal(Fatal),
}

/// Runs a member until it ends; the exit code is etcd's.
pub async fn run(config: Config) -> ExitCode {
    match start(config).await {
        Ok(code) => code,
        Err(text) => {
            tracing::error!(zap_level = "fatal", error = text, "failed to start etcd");
            ExitCode::FAILURE
        }
    }
}

async fn start(config: Config) -> Result<ExitCode, String> {
    let dir = DataDir::new(&config.data_dir, config.wal_dir.as_deref());
    let locked = dir.open()?;
    // Ports first: a second server on this machine must not touch anything.
    let mut served = Served::new(Ports::bind(&config)?, &config);
    let booted = boot::boot(&config, &dir).await?;
    tracing::info!(
        "local-member-id" = hex(booted.metadata.member_id),
        "cluster-id" = hex(booted.metadata.cluster_id),
        "name" = config.name,
        "starting member"
    );
    let mut member = Member::start(&config, &dir, booted).await?;
    served.serve_peers(&member.peers, &member.offer.handle)?;
    let code = match wait(&mut member, &mut served).await? {
        End::Signal(signal) => {
            tracing::info!(signal = signal_name(signal), "received signal; shutting down");
            tracing::info!("closing etcd server");
            member.resign(Duration::from_millis(config.election_ms)).await;
            die_of(signal)
        }
        End::Removed => {
            tokio::time::sleep(REMOVED_LINGER).await;
            ExitCode::SUCCESS
        }
        End::Fatal(fatal) => {
            tracing::error!(zap_level = "fatal", error = fatal.0, "the member cannot go on");
            // Whatever is still open must not look alive: no grace, no goodbye.
            std::process::exit(1);
        }
    };
    // What clients have asked may still be answered, which takes the peers.
    member.end_streams();
    served.stop_clients().await;
    member.peers.transport().stop();
    served.stop_peers().await;
    member.stop().await;
    drop(locked);
    tracing::info!("closed etcd server");
    Ok(code)
}

/// Serves clients from the moment the member has published itself, until there is a reason to end.
async fn wait(member: &mut Member, served: &mut Served) -> Result<End, String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let (member_id, cluster_id) = (member.member_id, member.cluster_id);
    loop {
        let event = tokio::select! {
            notice = member.notices.recv() => match notice {
                None => return Ok(End::Fatal(Fatal("the node's thread ended".to_owned()))),
                Some(Notice::Fatal(fatal)) => return Ok(End::Fatal(fatal)),
                Some(Notice::Node(event)) => event,
            },
            signal = signals.next() => return Ok(End::Signal(signal)),
        };
        member.offer.metrics.event(&event);
        events::log(&event, member_id, cluster_id);
        match event {
            NodeEvent::Published { .. } if served.serve_clients(&member.offer)? => {
                tracing::info!("ready to serve client requests");
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            }
            NodeEvent::RemovedSelf => return Ok(End::Removed),
            _ => {}
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    if signal == 15 { "terminated" } else { "interrupt" }
}

/// What a shell reports for a process that a signal ended: 143 or 130.
fn die_of(signal: i32) -> ExitCode {
    ExitCode::from(128 + u8::try_from(signal).unwrap_or(0))
}
