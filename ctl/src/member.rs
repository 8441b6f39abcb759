//! `member list`.
//!
//! The other membership commands belong in this file.

use std::fmt::Write as _;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::cluster_client::ClusterClient;
use clap::Subcommand;
use prost::Message as _;

use crate::cli::Words;
use crate::client::Client;
use crate::error::Outcome;
use crate::output::{self, Format, json::Object, table};

/// The sub-commands of `member`.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Lists all members in the cluster
    List(Words),
}

/// Runs a sub-command.
pub(crate) async fn run(client: &Client, command: MemberCommand) -> Outcome {
    match command {
        MemberCommand::List(_) => show(client, &list(client).await?),
    }
}

/// Asks for the members.
pub(crate) async fn list(client: &Client) -> Outcome<pb::MemberListResponse> {
    let mut cluster = ClusterClient::new(client.connect().await?);
    client.call(cluster.member_list(pb::MemberListRequest { linearizable: true })).await
}

fn row(member: &pb::Member) -> Vec<String> {
    let status = if member.name.is_empty() { "unstarted" } else { "started" };
    vec![
        format!("{:x}", member.id),
        status.to_owned(),
        member.name.clone(),
        member.peer_ur_ls.join(","),
        member.client_ur_ls.join(","),
        member.is_learner.to_string(),
    ]
}

fn json_member(member: &pb::Member) -> String {
    let string = |text: &String| crate::output::json::string(text);
    Object::new()
        .opt_number("ID", member.id)
        .opt_text("name", &member.name)
        .opt_list("peerURLs", &member.peer_ur_ls, string)
        .opt_list("clientURLs", &member.client_ur_ls, string)
        .opt_bool("isLearner", member.is_learner)
        .end()
}

fn show(client: &Client, response: &pb::MemberListResponse) -> Outcome {
    let rows: Vec<_> = response.members.iter().map(row).collect();
    match client.format {
        Format::Simple => {
            let lines: String = rows.iter().map(|row| format!("{}\n", row.join(", "))).collect();
            output::print(lines.as_bytes())
        }
        Format::Table => {
            let titles = ["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"];
            output::print(table::draw(&titles, &rows).as_bytes())
        }
        Format::Json => output::print_line(
            &Object::new().header(&response.header).opt_list("members", &response.members, json_member).end(),
        ),
        Format::Fields => {
            let mut out = String::new();
            output::push_header(&mut out, &response.header.unwrap_or_default());
            for member in &response.members {
                let quote = |text: &str| output::quote(text.as_bytes());
                let _ = writeln!(out, "\"ID\" : {}\n\"Name\" : {}", member.id, quote(&member.name));
                for url in &member.peer_ur_ls {
                    let _ = writeln!(out, "\"PeerURL\" : {}", quote(url));
                }
                for url in &member.client_ur_ls {
                    let _ = writeln!(out, "\"ClientURL\" : {}", quote(url));
                }
                let _ = writeln!(out, "\"IsLearner\" : {}\n", member.is_learner);
            }
            output::print(out.as_bytes())
        }
        Format::Protobuf => output::print(&response.encode_to_vec()),
    }
}
