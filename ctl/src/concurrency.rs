//! `lock` and `elect`: the server's recipes under a lease that this process keeps alive.
//!
//! Whatever ends the command, the lease goes with it, at the latest when nobody renews it any more.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::lease_client::LeaseClient;
use cairn_net::proto::v3electionpb::election_client::ElectionClient;
use cairn_net::proto::v3electionpb::{CampaignRequest, LeaderRequest, ResignRequest};
use cairn_net::proto::v3lockpb::lock_client::LockClient;
use cairn_net::proto::v3lockpb::{LockRequest, UnlockRequest};
use clap::{ArgAction, Args};
use prost::Message as _;
use tonic::transport::Channel;

use crate::cli::{Words, boolean, int64};
use crate::client::Client;
use crate::error::{CtlError, EXIT_BAD_CONNECTION, EXIT_ERROR, Outcome};
use crate::kv;
use crate::lease::{pause, renew};
use crate::output::{self, Format};

/// Seconds that the lease of an election lives without us, as in etcd's recipes.
const ELECTION_TTL: i64 = 60;

/// The flags of `lock`.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// timeout for session
    #[arg(long, default_value = "10", value_parser = int64)]
    ttl: i64,
    /// The name, and the command to run while the lock is held
    #[command(flatten)]
    words: Words,
}

/// The flags of `elect`.
#[derive(Debug, Args)]
pub(crate) struct ElectArgs {
    #[command(flatten)]
    words: Words,
    /// observation mode
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    listen: bool,
}

/// A lease that is renewed as long as this lives in a `select!`.
struct Session {
    channel: Channel,
    lease: i64,
}

impl Session {
    async fn open(client: &Client, ttl: i64) -> Outcome<Self> {
        let channel = client.connect().await?;
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let granted = client.call(LeaseClient::new(channel.clone()).lease_grant(request)).await?;
        Ok(Self { channel, lease: granted.id })
    }

    /// Renews the lease until it is gone.
    async fn lost(&self) -> CtlError {
        loop {
            match renew(&self.channel, self.lease).await {
                Ok(answer) if answer.ttl > 0 => tokio::time::sleep(pause(answer.ttl)).await,
                Ok(_) => return CtlError::new(EXIT_ERROR, "session expired"),
                Err(error) => return error,
            }
        }
    }

    /// Prints what is stored at a key.
    async fn show(&self, client: &Client, key: tonic::codegen::Bytes) -> Outcome {
        let request = pb::RangeRequest { key, ..Default::default() };
        show(client, &client.call(KvClient::new(self.channel.clone()).range(request)).await?)
    }

    /// Ends the lease, and with it whatever was held.
    async fn close(&self, client: &Client) -> Outcome {
        let request = pb::LeaseRevokeRequest { id: self.lease };
        client.call(LeaseClient::new(self.channel.clone()).lease_revoke(request)).await.map(drop)
    }
}

/// Resolves at the first SIGINT or SIGTERM.
async fn interrupted() -> Outcome {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
        _ = terminate.recv() => Ok(()),
    }
}

/// Runs `lock`.
pub(crate) async fn lock(client: &Client, args: LockArgs) -> Outcome {
    let Some((name, command)) = args.words.args.split_first() else {
        let text = "lock takes a lock name argument and an optional command to execute";
        return Err(CtlError::args(text));
    };
    let session = Session::open(client, args.ttl).await?;
    let name = name.as_bytes().to_vec().into();
    let held = tokio::select! {
        held = hold(client, &session, LockRequest { name, lease: session.lease }, command) => held,
        lost = session.lost() => Err(lost),
        stopped = interrupted() => stopped,
    };
    let closed = session.close(client).await;
    held.and(closed)
}

async fn hold(client: &Client, session: &Session, request: LockRequest, command: &[OsString]) -> Outcome {
    let mut lock = LockClient::new(session.channel.clone());
    let held = lock.lock(request).await?.into_inner();
    let Some((program, arguments)) = command.split_first() else {
        session.show(client, held.key).await?;
        return std::future::pending().await;
    };
    let revision = held.header.unwrap_or_default().revision.to_string();
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .env("ETCD_LOCK_KEY", OsStr::from_bytes(&held.key))
        .env("ETCD_LOCK_REV", revision)
        .spawn()
        .map_err(|error| CtlError::new(EXIT_ERROR, failed_to_start(program, &error)))?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await;
    let status = status.map_err(|error| CtlError::new(EXIT_ERROR, error.to_string()))??;
    lock.unlock(UnlockRequest { key: held.key }).await?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(CtlError::new(EXIT_ERROR, format!("exit status {code}"))),
        None => Err(CtlError::new(EXIT_ERROR, status.to_string())),
    }
}

/// Go's text for a program that cannot be run.
fn failed_to_start(program: &OsString, error: &std::io::Error) -> String {
    let program = program.to_string_lossy();
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    match (missing, program.contains('/')) {
        (true, true) => format!("fork/exec {program}: no such file or directory"),
        (true, false) => format!("exec: \"{program}\": executable file not found in $PATH"),
        (false, _) => format!("fork/exec {program}: {error}"),
    }
}

/// Runs `elect`.
pub(crate) async fn elect(client: &Client, args: ElectArgs) -> Outcome {
    let words = &args.words;
    match (words.args.len(), args.listen) {
        (1, true) => observe(client, words.bytes(0)).await,
        (1, false) => Err(CtlError::args("no proposal argument but -l not set")),
        (2, true) => Err(CtlError::args("proposal given but -l is set")),
        (2, false) => campaign(client, words.bytes(0), words.bytes(1)).await,
        _ => Err(CtlError::args("elect takes one election name argument and an optional proposal argument")),
    }
}

async fn observe(client: &Client, name: Vec<u8>) -> Outcome {
    let mut election = ElectionClient::new(client.connect().await?);
    let follow = async {
        let mut leaders = election.observe(LeaderRequest { name: name.into() }).await?.into_inner();
        while let Some(leader) = leaders.message().await? {
            let response = pb::RangeResponse {
                header: leader.header,
                kvs: leader.kv.into_iter().collect(),
                ..Default::default()
            };
            show(client, &response)?;
        }
        Err(CtlError::new(EXIT_BAD_CONNECTION, "elect: observer lost"))
    };
    tokio::select! {
        followed = follow => followed,
        stopped = interrupted() => stopped,
    }
}

async fn campaign(client: &Client, name: Vec<u8>, value: Vec<u8>) -> Outcome {
    let session = Session::open(client, ELECTION_TTL).await?;
    let mut election = ElectionClient::new(session.channel.clone());
    let request = CampaignRequest { name: name.into(), lease: session.lease, value: value.into() };
    let lead = async {
        let leader = election.campaign(request).await?.into_inner().leader.unwrap_or_default();
        session.show(client, leader.key.clone()).await?;
        interrupted().await?;
        election.resign(ResignRequest { leader: Some(leader) }).await?;
        Ok(())
    };
    let led = tokio::select! {
        led = lead => led,
        lost = session.lost() => Err(lost),
    };
    let closed = session.close(client).await;
    led.and(closed)
}

fn show(client: &Client, response: &pb::RangeResponse) -> Outcome {
    match client.format {
        Format::Simple => output::print(&kv::simple_get(response, client.global.hex, false)),
        Format::Json => output::print_line(&kv::json_get(response)),
        Format::Fields => output::print(kv::fields_get(response).as_bytes()),
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}
