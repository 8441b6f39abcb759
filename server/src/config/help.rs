//! The help text, made from the flag table.
//!
//! `USAGE` goes to standard error after a syntax error and before the flags of
//! `--help`, which go to standard output; the split is etcd's.

use super::table::{FLAGS, Kind, Status};

/// How the program is called.
pub(super) const USAGE: &str = "\
Usage:

  etcd [flags]
    Run a server.

  etcd --version
    Print versions and exit.

  etcd -h | --help
    Print all flags and exit.

  etcd --config-file
    Read a YAML file. All other flags and environment variables are ignored then.

";

/// All flags by section with defaults and one sentence each.
pub(super) fn flags_text() -> String {
    let mut text = String::new();
    let mut section = "";
    for flag in FLAGS {
        if flag.status == Status::Legacy || flag.name == "config-file" || flag.name == "version" {
            continue;
        }
        if flag.section != section {
            section = flag.section;
            text.push_str(&format!("\n{section}:\n"));
        }
        text.push_str(&format!("  --{} '{}'\n", flag.name, default_text(flag.name, flag.default)));
        if !flag.help.is_empty() {
            text.push_str(&format!("    {}\n", flag.help));
        }
        if let Kind::Enum(words) = flag.kind {
            text.push_str(&format!("    One of {}.\n", words.join(", ")));
        }
        match flag.status {
            Status::NoOp(why) => text.push_str(&format!("    Has no effect: {why}.\n")),
            Status::Refused(why) => text.push_str(&format!("    Not supported yet: {why}.\n")),
            Status::Alias(target) => text.push_str(&format!("    Old name of --{target}.\n")),
            Status::GateAlias(gate) => {
                text.push_str(&format!("    Old name of --feature-gates={gate}=...\n"))
            }
            Status::Works | Status::Legacy => {}
        }
    }
    text
}

fn default_text<'a>(name: &str, default: &'a str) -> &'a str {
    if name == "data-dir" { "${name}.etcd" } else { default }
}
