//! `defrag`, `move-leader` and `snapshot save`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use clap::{ArgAction, Args, Subcommand};

use crate::cli::{Words, boolean};
use crate::client::Client;
use crate::error::{CtlError, EXIT_ERROR, EXIT_INTERRUPTED, Outcome, number_error};
use crate::output;

/// A snapshot is whole pages of the database and a digest.
const PAGE: u64 = 512;
const DIGEST: u64 = 32;

/// The flags of `defrag`.
#[derive(Debug, Args)]
pub(crate) struct DefragArgs {
    #[command(flatten)]
    _words: Words,
    /// use all endpoints from the cluster member list
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    cluster: bool,
}

/// The sub-commands of `snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Stores an etcd node backend snapshot to a given file
    Save(Words),
}

/// Runs `defrag`: one member after the other, so that at most one is slow.
pub(crate) async fn defrag(client: &Client, args: DefragArgs) -> Outcome {
    let mut failed = false;
    for endpoint in crate::endpoint::endpoints(client, args.cluster).await? {
        let defragmented = async {
            let channel = client.connect_to(std::slice::from_ref(&endpoint), Some(client.deadline())).await?;
            client.call(MaintenanceClient::new(channel).defragment(pb::DefragmentRequest {})).await
        };
        match defragmented.await {
            Ok(_) => output::print_line(&format!("Finished defragmenting etcd member[{endpoint}]"))?,
            Err(error) => {
                eprintln!("Failed to defragment etcd member[{endpoint}] ({error})");
                failed = true;
            }
        }
    }
    if failed { Err(CtlError::silent(EXIT_ERROR)) } else { Ok(()) }
}

/// Runs `move-leader` at the endpoint that leads.
pub(crate) async fn move_leader(client: &Client, words: Words) -> Outcome {
    if words.args.len() != 1 {
        return Err(CtlError::args("move-leader command needs 1 argument"));
    }
    let target = u64::from_str_radix(&words.text(0), 16).map_err(|error| {
        let overflow = *error.kind() == std::num::IntErrorKind::PosOverflow;
        CtlError::args(number_error("ParseUint", &words.text(0), overflow))
    })?;
    let endpoints = &client.global.endpoints;
    for endpoint in endpoints {
        let channel = client.connect_to(std::slice::from_ref(endpoint), Some(client.deadline())).await?;
        let mut maintenance = MaintenanceClient::new(channel);
        let status = client.call(maintenance.status(pb::StatusRequest {})).await?;
        let member = status.header.unwrap_or_default().member_id;
        if status.leader == member {
            client.call(maintenance.move_leader(pb::MoveLeaderRequest { target_id: target })).await?;
            let line = format!("Leadership transferred from {member:x} to {target:x}");
            return output::print_line(&line);
        }
    }
    Err(CtlError::args(format!("no leader endpoint given at [{}]", endpoints.join(" "))))
}

/// Runs a sub-command of `snapshot`.
pub(crate) async fn snapshot(client: &Client, command: SnapshotCommand) -> Outcome {
    let SnapshotCommand::Save(words) = command;
    if words.args.len() != 1 {
        return Err(CtlError::args("snapshot save expects one argument"));
    }
    let path = PathBuf::from(&words.args[0]);
    let [endpoint] = client.global.endpoints.as_slice() else {
        let endpoints = client.global.endpoints.join(" ");
        let text = format!("snapshot must be requested to one selected node, not multiple [{endpoints}]");
        return Err(CtlError::new(EXIT_INTERRUPTED, text));
    };
    let part = PathBuf::from(format!("{}.part", path.display()));
    let file = File::create(&part).map_err(|error| {
        // Go leaves out the number.
        let text = error.to_string().to_lowercase();
        let text = text.split(" (os error").next().unwrap_or_default();
        let part = part.display();
        CtlError::new(EXIT_INTERRUPTED, format!("could not open {part} (open {part}: {text})"))
    })?;
    let saved = save(client, endpoint, file).await.and_then(|()| Ok(fs::rename(&part, &path)?));
    if saved.is_err() {
        let _ = fs::remove_file(&part);
    }
    saved?;
    sync_folder(&path)?;
    output::print_line(&format!("Snapshot saved at {}", path.display()))
}

async fn save(client: &Client, endpoint: &str, mut file: File) -> Outcome {
    let channel = client.connect_to(&[endpoint.to_owned()], Some(client.deadline())).await?;
    let mut maintenance = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut parts = maintenance.snapshot(pb::SnapshotRequest {}).await?.into_inner();
    let mut size = 0;
    while let Some(part) = parts.message().await? {
        file.write_all(&part.blob)?;
        size += part.blob.len() as u64;
    }
    if size % PAGE != DIGEST {
        let text = format!("sha256 checksum not found [bytes: {size}]");
        return Err(CtlError::new(EXIT_INTERRUPTED, text));
    }
    Ok(file.sync_all()?)
}

/// A name is durable when its folder is.
fn sync_folder(path: &Path) -> Outcome {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
}
