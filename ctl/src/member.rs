//! `member list`, `add`, `remove`, `update` and `promote`.

use std::fmt::Write as _;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::cluster_client::ClusterClient;
use clap::{ArgAction, Args, Subcommand};
use prost::Message as _;

use crate::cli::{Words, boolean};
use crate::client::Client;
use crate::error::{CtlError, Outcome, number_error};
use crate::output::{self, Format, json::Object, table};

/// The sub-commands of `member`.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Lists all members in the cluster
    List(Words),
    /// Adds a member into the cluster
    Add(AddArgs),
    /// Removes a member from the cluster
    Remove(Words),
    /// Updates a member in the cluster
    Update(UpdateArgs),
    /// Promotes a non-voting member in the cluster
    Promote(Words),
}

/// The flags of `member add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    words: Words,
    /// comma separated peer URLs for the new member.
    #[arg(long, default_value = "")]
    peer_urls: String,
    /// indicates if the new member is raft learner
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    learner: bool,
}

/// The flags of `member update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    words: Words,
    /// comma separated peer URLs for the updated member.
    #[arg(long, default_value = "")]
    peer_urls: String,
}

/// Runs a sub-command.
pub(crate) async fn run(client: &Client, command: MemberCommand) -> Outcome {
    match command {
        MemberCommand::List(_) => show(client, &list(client).await?),
        MemberCommand::Add(args) => add(client, &args).await,
        MemberCommand::Remove(words) => remove(client, &words).await,
        MemberCommand::Update(args) => update(client, &args).await,
        MemberCommand::Promote(words) => promote(client, &words).await,
    }
}

fn id(words: &Words) -> Outcome<u64> {
    if words.args.len() != 1 {
        return Err(CtlError::args("member ID is not provided"));
    }
    let text = words.text(0);
    u64::from_str_radix(&text, 16).map_err(|error| {
        let overflow = *error.kind() == std::num::IntErrorKind::PosOverflow;
        let error = number_error("ParseUint", &text, overflow);
        CtlError::args(format!("bad member ID arg ({error}), expecting ID in Hex"))
    })
}

fn urls(list: &str) -> Outcome<Vec<String>> {
    if list.is_empty() {
        return Err(CtlError::args("member peer urls not provided"));
    }
    Ok(list.split(',').map(str::to_owned).collect())
}

async fn add(client: &Client, args: &AddArgs) -> Outcome {
    let names = &args.words.args;
    if names.is_empty() {
        return Err(CtlError::args("member name not provided"));
    }
    if names.len() > 1 {
        let meant = names.iter().map(|name| name.to_string_lossy());
        let meant = meant.filter(|name| name.to_lowercase().starts_with("http"));
        let meant: String = meant.map(|name| format!(", did you mean --peer-urls={name}")).collect();
        return Err(CtlError::args(format!("too many arguments{meant}")));
    }
    let peer_ur_ls = urls(&args.peer_urls)?;
    let mut cluster = ClusterClient::new(client.connect().await?);
    let request = pb::MemberAddRequest { peer_ur_ls, is_learner: args.learner };
    let response = client.call(cluster.member_add(request)).await?;
    let added = response.member.clone().unwrap_or_default();
    changed(client, &response, &response.header, &response.members, Some(&added), (added.id, "added to"))?;
    if client.format != Format::Simple {
        return Ok(());
    }
    let name = args.words.text(0);
    let mut conf = Vec::new();
    for member in &response.members {
        let shown = if member.id == added.id { &name } else { &member.name };
        conf.extend(member.peer_ur_ls.iter().map(|url| format!("{shown}={url}")));
    }
    let quote = |text: &str| output::quote(text.as_bytes());
    let conf = quote(&conf.join(","));
    let (name, peers) = (quote(&name), quote(&added.peer_ur_ls.join(",")));
    output::print_line(&format!(
        "\nETCD_NAME={name}\nETCD_INITIAL_CLUSTER={conf}\nETCD_INITIAL_ADVERTISE_PEER_URLS={peers}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\""
    ))
}

async fn remove(client: &Client, words: &Words) -> Outcome {
    let id = id(words)?;
    let mut cluster = ClusterClient::new(client.connect().await?);
    let response = client.call(cluster.member_remove(pb::MemberRemoveRequest { id })).await?;
    changed(client, &response, &response.header, &response.members, None, (id, "removed from"))
}

async fn update(client: &Client, args: &UpdateArgs) -> Outcome {
    let id = id(&args.words)?;
    let request = pb::MemberUpdateRequest { id, peer_ur_ls: urls(&args.peer_urls)? };
    let mut cluster = ClusterClient::new(client.connect().await?);
    let response = client.call(cluster.member_update(request)).await?;
    changed(client, &response, &response.header, &response.members, None, (id, "updated in"))
}

async fn promote(client: &Client, words: &Words) -> Outcome {
    let id = id(words)?;
    let mut cluster = ClusterClient::new(client.connect().await?);
    let response = client.call(cluster.member_promote(pb::MemberPromoteRequest { id })).await?;
    changed(client, &response, &response.header, &response.members, None, (id, "promoted in"))
}

/// What a change of membership prints.
fn changed(
    client: &Client,
    response: &impl prost::Message,
    header: &Option<pb::ResponseHeader>,
    members: &[pb::Member],
    added: Option<&pb::Member>,
    (id, done): (u64, &str),
) -> Outcome {
    match client.format {
        Format::Simple => {
            let cluster = header.unwrap_or_default().cluster_id;
            output::print_line(&format!("Member {id:16x} {done} cluster {cluster:16x}"))
        }
        Format::Json => {
            let object = Object::new().header(header);
            let object = match added {
                Some(member) => object.raw("member", json_member(member)),
                None => object,
            };
            output::print_line(&object.opt_list("members", members, json_member).end())
        }
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Fields | Format::Table => Err(client.format.unsupported()),
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
