//! `endpoint status`, `endpoint health` and `endpoint hashkv`: one question to each endpoint by itself.
//!
//! The endpoints are those of `--endpoints`, or with `--cluster` the client addresses of all
//! members. One bad endpoint never hides the answers of the others.

use std::fmt::Write as _;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use clap::{ArgAction, Args, Subcommand};
use tokio::time::{Instant, timeout_at};

use crate::cli::{Words, boolean, int64};
use crate::client::Client;
use crate::error::{CtlError, EXIT_ERROR, Outcome};
use crate::output::{self, Format, json, json::Object, table};

/// The flags and sub-commands of `endpoint`.
#[derive(Debug, Args)]
pub(crate) struct EndpointArgs {
    /// use all endpoints from the cluster member list
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    cluster: bool,
    #[command(subcommand)]
    command: EndpointCommand,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
enum EndpointCommand {
    /// Prints out the status of endpoints specified in `--endpoints` flag
    Status(Words),
    /// Prints the KV history hash for each endpoint in --endpoints
    Hashkv(HashArgs),
    /// Checks the healthiness of endpoints specified in `--endpoints` flag
    Health(Words),
}

/// The flags of `endpoint hashkv`.
#[derive(Debug, Args)]
struct HashArgs {
    #[command(flatten)]
    _words: Words,
    /// maximum revision to hash (default: all revisions)
    #[arg(long, default_value = "0", value_parser = int64, allow_hyphen_values = true)]
    rev: i64,
}

/// The endpoints that a command is for.
pub(crate) async fn endpoints(client: &Client, cluster: bool) -> Outcome<Vec<String>> {
    if !cluster {
        return Ok(client.global.endpoints.clone());
    }
    let members = crate::member::list(client).await?.members;
    Ok(members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

/// Runs a sub-command.
pub(crate) async fn run(client: &Client, args: EndpointArgs) -> Outcome {
    let endpoints = endpoints(client, args.cluster).await?;
    match args.command {
        EndpointCommand::Status(_) => status(client, &endpoints).await,
        EndpointCommand::Health(_) => health(client, endpoints).await,
        EndpointCommand::Hashkv(args) => hash(client, &endpoints, args.rev).await,
    }
}

async fn hash(client: &Client, endpoints: &[String], revision: i64) -> Outcome {
    let (mut answers, mut failed) = (Vec::new(), Ok(()));
    for endpoint in endpoints {
        let answer = async {
            let channel = client.connect_to(std::slice::from_ref(endpoint), Some(client.deadline())).await?;
            client.call(MaintenanceClient::new(channel).hash_kv(pb::HashKvRequest { revision })).await
        };
        match answer.await {
            Ok(hash) => answers.push((endpoint.clone(), hash)),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                failed = Err(error);
            }
        }
    }
    show_hash(client.format, &answers)?;
    failed
}

fn show_hash(format: Format, answers: &[(String, pb::HashKvResponse)]) -> Outcome {
    let rows: Vec<Vec<String>> =
        answers.iter().map(|(endpoint, hash)| vec![endpoint.clone(), hash.hash.to_string()]).collect();
    match format {
        Format::Simple => {
            let lines: String = rows.iter().map(|row| format!("{}\n", row.join(", "))).collect();
            output::print(lines.as_bytes())
        }
        Format::Table => output::print(table::draw(&["ENDPOINT", "HASH"], &rows).as_bytes()),
        Format::Json => output::print_line(&json::list(answers, |(endpoint, hash)| {
            let body = Object::new()
                .header(&hash.header)
                .opt_number("hash", hash.hash)
                .opt_number("compact_revision", hash.compact_revision)
                .end();
            Object::new().text("Endpoint", endpoint).raw("HashKV", body).end()
        })),
        Format::Fields => {
            let mut out = String::new();
            for (endpoint, hash) in answers {
                output::push_header(&mut out, &hash.header.unwrap_or_default());
                let endpoint = output::quote(endpoint.as_bytes());
                let _ = writeln!(out, "\"Endpoint\" : {endpoint}\n\"Hash\" : {}\n", hash.hash);
            }
            output::print(out.as_bytes())
        }
        Format::Protobuf => Err(format.unsupported()),
    }
}

async fn status(client: &Client, endpoints: &[String]) -> Outcome {
    let mut answers = Vec::new();
    let mut failed = false;
    for endpoint in endpoints {
        let answer = async {
            let channel = client.connect_to(std::slice::from_ref(endpoint), Some(client.deadline())).await?;
            client.call(MaintenanceClient::new(channel).status(pb::StatusRequest {})).await
        };
        match answer.await {
            Ok(status) => answers.push((endpoint.clone(), status)),
            Err(error) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
                failed = true;
            }
        }
    }
    show_status(client.format, &answers)?;
    if failed { Err(CtlError::silent(EXIT_ERROR)) } else { Ok(()) }
}

fn show_status(format: Format, answers: &[(String, pb::StatusResponse)]) -> Outcome {
    let rows: Vec<Vec<String>> = answers
        .iter()
        .map(|(endpoint, s)| {
            let header = s.header.unwrap_or_default();
            vec![
                endpoint.clone(),
                format!("{:x}", header.member_id),
                s.version.clone(),
                output::size(s.db_size.max(0) as u64),
                (s.leader == header.member_id).to_string(),
                s.is_learner.to_string(),
                s.raft_term.to_string(),
                s.raft_index.to_string(),
                s.raft_applied_index.to_string(),
                s.errors.join(", "),
            ]
        })
        .collect();
    match format {
        Format::Simple => {
            let lines: String = rows.iter().map(|row| format!("{}\n", row.join(", "))).collect();
            output::print(lines.as_bytes())
        }
        Format::Table => {
            let titles = [
                "ENDPOINT",
                "ID",
                "VERSION",
                "DB SIZE",
                "IS LEADER",
                "IS LEARNER",
                "RAFT TERM",
                "RAFT INDEX",
                "RAFT APPLIED INDEX",
                "ERRORS",
            ];
            output::print(table::draw(&titles, &rows).as_bytes())
        }
        Format::Json => output::print_line(&json::list(answers, |(endpoint, status)| {
            Object::new().text("Endpoint", endpoint).raw("Status", json_status(status)).end()
        })),
        Format::Fields => {
            let mut out = String::new();
            for (endpoint, s) in answers {
                output::push_header(&mut out, &s.header.unwrap_or_default());
                let quote = |text: &str| output::quote(text.as_bytes());
                let errors: Vec<_> = s.errors.iter().map(|error| quote(error)).collect();
                let _ = writeln!(out, "\"Version\" : {}\n\"DBSize\" : {}", quote(&s.version), s.db_size);
                let _ = writeln!(out, "\"Leader\" : {}\n\"IsLearner\" : {}", s.leader, s.is_learner);
                let _ = writeln!(out, "\"RaftIndex\" : {}\n\"RaftTerm\" : {}", s.raft_index, s.raft_term);
                let _ = writeln!(out, "\"RaftAppliedIndex\" : {}", s.raft_applied_index);
                let _ = writeln!(
                    out,
                    "\"Errors\" : [{}]\n\"Endpoint\" : {}\n",
                    errors.join(" "),
                    quote(endpoint)
                );
            }
            output::print(out.as_bytes())
        }
        Format::Protobuf => Err(format.unsupported()),
    }
}

fn json_status(s: &pb::StatusResponse) -> String {
    let mut object = Object::new()
        .header(&s.header)
        .opt_text("version", &s.version)
        .opt_number("dbSize", s.db_size)
        .opt_number("leader", s.leader)
        .opt_number("raftIndex", s.raft_index)
        .opt_number("raftTerm", s.raft_term)
        .opt_number("raftAppliedIndex", s.raft_applied_index)
        .opt_list("errors", &s.errors, |error| json::string(error))
        .opt_number("dbSizeInUse", s.db_size_in_use)
        .opt_bool("isLearner", s.is_learner)
        .opt_text("storageVersion", &s.storage_version)
        .opt_number("dbSizeQuota", s.db_size_quota);
    if let Some(info) = &s.downgrade_info {
        let info =
            Object::new().opt_bool("enabled", info.enabled).opt_text("targetVersion", &info.target_version);
        object = object.raw("downgradeInfo", info.end());
    }
    object.end()
}

/// What one endpoint answered.
struct Health {
    endpoint: String,
    took: String,
    error: String,
}

async fn health(client: &Client, endpoints: Vec<String>) -> Outcome {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(endpoints.len().max(1));
    for endpoint in endpoints {
        let sender = sender.clone();
        let client = Client { global: client.global.clone(), format: client.format };
        tokio::spawn(async move {
            let _ = sender.send(check(&client, endpoint).await).await;
        });
    }
    drop(sender);
    // In the order of the answers, as etcdctl has it.
    let mut answers = Vec::new();
    while let Some(answer) = receiver.recv().await {
        answers.push(answer);
    }
    show_health(client.format, &answers)?;
    if answers.iter().all(|answer| answer.error.is_empty()) {
        Ok(())
    } else {
        Err(CtlError::new(EXIT_ERROR, "unhealthy cluster"))
    }
}

/// Asks for a key linearizably, which needs a working quorum; being denied proves one as well.
async fn check(client: &Client, endpoint: String) -> Health {
    let start = Instant::now();
    let deadline = client.deadline();
    let answer = async {
        let channel = client.connect_to(std::slice::from_ref(&endpoint), Some(deadline)).await?;
        let request = pb::RangeRequest { key: "health".into(), ..Default::default() };
        match timeout_at(deadline, KvClient::new(channel).range(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) if status.code() == tonic::Code::PermissionDenied => Ok(()),
            Ok(Err(status)) => Err(CtlError::from(status)),
            Err(_) => Err(CtlError::deadline()),
        }
    };
    let error = answer.await.err().map(|error| error.text).unwrap_or_default();
    Health { endpoint, took: crate::duration::show(start.elapsed()), error }
}

fn show_health(format: Format, answers: &[Health]) -> Outcome {
    match format {
        Format::Simple => {
            // On stderr, where etcdctl 3.4 prints them, the healthy ones too.
            for Health { endpoint, took, error } in answers {
                if error.is_empty() {
                    eprintln!("{endpoint} is healthy: successfully committed proposal: took = {took}");
                } else {
                    eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
                }
            }
            Ok(())
        }
        Format::Table => {
            let rows: Vec<_> = answers
                .iter()
                .map(|h| {
                    vec![h.endpoint.clone(), h.error.is_empty().to_string(), h.took.clone(), h.error.clone()]
                })
                .collect();
            output::print(table::draw(&["ENDPOINT", "HEALTH", "TOOK", "ERROR"], &rows).as_bytes())
        }
        Format::Json => output::print_line(&json::list(answers, |h| {
            Object::new()
                .text("endpoint", &h.endpoint)
                .raw("health", h.error.is_empty())
                .text("took", &h.took)
                .opt_text("error", &h.error)
                .end()
        })),
        Format::Fields => {
            let mut out = String::new();
            for h in answers {
                let endpoint = output::quote(h.endpoint.as_bytes());
                let _ = writeln!(out, "\"Endpoint\" : {endpoint}\n\"Health\" : {}", h.error.is_empty());
                let _ = writeln!(out, "\"Took\" : {}\n\"Error\" : {}\n", h.took, h.error);
            }
            output::print(out.as_bytes())
        }
        Format::Protobuf => Err(format.unsupported()),
    }
}
