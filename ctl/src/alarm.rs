//! `alarm list` and `alarm disarm`.

use std::fmt::Write as _;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::alarm_request::AlarmAction;
use cairn_net::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use clap::Subcommand;
use prost::Message as _;

use crate::cli::Words;
use crate::client::Client;
use crate::error::{CtlError, Outcome};
use crate::output::{self, Format, json::Object};

/// The sub-commands of `alarm`.
#[derive(Debug, Subcommand)]
pub(crate) enum AlarmCommand {
    /// Lists all alarms
    List(Words),
    /// Disarms all alarms
    Disarm(Words),
}

/// Runs a sub-command.
pub(crate) async fn run(client: &Client, command: AlarmCommand) -> Outcome {
    let (name, words) = match &command {
        AlarmCommand::List(words) => ("list", words),
        AlarmCommand::Disarm(words) => ("disarm", words),
    };
    if !words.args.is_empty() {
        return Err(CtlError::args(format!("alarm {name} command accepts no arguments")));
    }
    let mut maintenance = MaintenanceClient::new(client.connect().await?);
    let all = pb::AlarmRequest { action: AlarmAction::Get.into(), member_id: 0, alarm: 0 };
    let active = client.call(maintenance.alarm(all)).await?;
    if matches!(command, AlarmCommand::List(_)) {
        return show(client, &active);
    }
    let mut cleared = pb::AlarmResponse::default();
    for alarm in active.alarms {
        let action = AlarmAction::Deactivate.into();
        let request = pb::AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
        cleared.alarms.extend(client.call(maintenance.alarm(request)).await?.alarms);
    }
    show(client, &cleared)
}

fn show(client: &Client, response: &pb::AlarmResponse) -> Outcome {
    let line = |alarm: &pb::AlarmMember| {
        format!("memberID:{} alarm:{} \n", alarm.member_id, alarm.alarm().as_str_name())
    };
    match client.format {
        Format::Simple => output::print(response.alarms.iter().map(line).collect::<String>().as_bytes()),
        Format::Json => {
            let alarm = |alarm: &pb::AlarmMember| {
                Object::new().opt_number("memberID", alarm.member_id).opt_number("alarm", alarm.alarm).end()
            };
            let object = Object::new().header(&response.header);
            output::print_line(&object.opt_list("alarms", &response.alarms, alarm).end())
        }
        Format::Fields => {
            let mut out = String::new();
            output::push_header(&mut out, &response.header.unwrap_or_default());
            for alarm in &response.alarms {
                let name = output::quote(alarm.alarm().as_str_name().as_bytes());
                let _ = writeln!(out, "\"MemberID\" : {}\n\"AlarmType\" : {name}\n", alarm.member_id);
            }
            output::print(out.as_bytes())
        }
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}
