//! The rules of ARCHITECTURE.md that a compiler does not check: who may depend on whom, and who may
//! name what.
//!
//! Manifests and sources are read as text; comments and the contents of literals are left out first,
//! so a rule may be explained where it holds. A rule that is broken is reported with every place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The longest file that can still be read as a whole.
const LINES_MAX: usize = 1000;

/// The packages of the workspace that each package may use.
const USES: [(&str, &[&str]); 9] = [
    ("core", &[]),
    ("net", &["core"]),
    ("server", &["core", "net"]),
    ("ctl", &["core", "net"]),
    ("sim", &["core", "checkers"]),
    ("sim/checkers", &[]),
    ("proptests", &["core", "net", "sim"]),
    ("jepsen", &["core", "net", "checkers"]),
    ("benches", &["core", "net", "server", "sim", "checkers"]),
];

/// Dependencies that only some packages may have.
const RESTRICTED: [(&str, &[&str]); 7] = [
    ("raft", &["core"]),
    ("protobuf", &["core"]),
    ("slog", &["core"]),
    ("madsim", &["sim"]),
    ("redb", &["core", "server", "sim"]),
    ("prost", &["net", "ctl"]),
    ("tokio", &["net", "server", "ctl", "proptests", "jepsen", "benches"]),
];

/// What makes a run depend on anything but its inputs.
const NOT_DETERMINISTIC: [&str; 21] = [
    "tokio::",
    "tonic::",
    "prost::",
    "hyper::",
    "axum::",
    "madsim::",
    "rand::",
    "getrandom::",
    "thread_rng",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "HashMap",
    "HashSet",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package stands in the workspace").to_owned()
}

/// All Rust files of a folder, by their path from the root, with their text.
fn sources(folder: &str) -> BTreeMap<String, String> {
    fn walk(path: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let path = entry.expect("the folder was opened").path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("walked from the root").to_string_lossy();
                found.insert(name.into_owned(), fs::read_to_string(&path).expect("a source is text"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&root().join(folder), &root(), &mut found);
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

fn all_sources() -> BTreeMap<String, String> {
    USES.iter().flat_map(|(package, _)| sources(package)).collect()
}

/// The text without comments and without the contents of strings; lines stay where they are.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest).filter(|_| !out.ends_with(is_word)) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 2 + hashes + usize::from(rest.starts_with('b'));
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if first == '"' {
            closing_quote(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    out
}

/// The number of hashes of the raw string that begins here, if one does.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.chars().take_while(|c| *c == '#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// Where the string that begins with `rest` ends.
fn closing_quote(rest: &str) -> usize {
    let mut escaped = true; // The opening quote closes nothing.
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The lines of `code` that name `path`, not as a part of a longer word. `tokio::` is found where a path
/// begins, `std::fs` also in `std::{fs, io}`, `Instant::now` and `HashMap` anywhere.
fn lines_naming(code: &str, path: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let named = line.match_indices(path).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + path.len()..]);
            if before.ends_with(is_word) {
                false
            } else if path.ends_with("::") {
                !before.ends_with("::")
            } else {
                !after.starts_with(is_word)
            }
        });
        let grouped = path.strip_prefix("std::").is_some_and(|name| {
            let group = line.split_once("std::{").map_or("", |(_, group)| group);
            group
                .split([',', '}'])
                .any(|item| item.trim() == name || item.trim().starts_with(&format!("{name}::")))
        });
        if named || grouped {
            lines.push(number + 1);
        }
    }
    lines
}

/// Every place of `sources` that names one of `paths`.
fn places(sources: &BTreeMap<String, String>, paths: &[&str]) -> Vec<String> {
    let mut places = Vec::new();
    for (file, text) in sources {
        let code = code(text);
        for path in paths {
            places.extend(lines_naming(&code, path).into_iter().map(|line| format!("{file}:{line}: {path}")));
        }
    }
    places
}

fn assert_none(rule: &str, places: &[String]) {
    assert!(places.is_empty(), "{rule}:\n  {}", places.join("\n  "));
}

fn manifest(package: &str) -> String {
    fs::read_to_string(root().join(package).join("Cargo.toml")).expect("each package has a manifest")
}

/// The dependencies of every kind that a manifest names.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut section = String::new();
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            if let Some((_, name)) = section.rsplit_once("dependencies.") {
                names.push(name.to_owned());
            }
        } else if section.ends_with("dependencies")
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
        {
            names.push(name.to_owned());
        }
    }
    names
}

#[test]
fn packages_depend_in_one_direction() {
    let mut broken = Vec::new();
    for (package, allowed) in USES {
        for name in dependencies(&manifest(package)) {
            if let Some(used) = name.strip_prefix("cairn-")
                && !allowed.contains(&used)
            {
                broken.push(format!("{package} uses {used}"));
            }
            for (dependency, owners) in RESTRICTED {
                if name == dependency && !owners.contains(&package) {
                    broken.push(format!("{package} depends on {dependency}"));
                }
            }
        }
    }
    assert_none("core <- net <- server, core <- sim, net <- ctl", &broken);
}

#[test]
fn versions_and_lints_stand_in_the_workspace_only() {
    let members = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let mut broken = Vec::new();
    for (package, _) in USES {
        if !members.contains(&format!("\"{package}\"")) {
            broken.push(format!("{package} is no member of the workspace"));
        }
        let manifest = manifest(package);
        if !manifest.contains("[lints]\nworkspace = true") {
            broken.push(format!("{package} does not take the workspace's lints"));
        }
        let versions = manifest.lines().filter(|line| line.contains("version = \""));
        broken.extend(versions.map(|line| format!("{package}: {line}")));
    }
    assert_none("one table of versions, one list of lints", &broken);
}

#[test]
fn every_dependency_has_its_reason() {
    let reasons = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the document is there");
    let (_, table) = reasons.split_once("\n## Dependencies").expect("the document has the chapter");
    let rows: Vec<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
    let mut broken = Vec::new();
    for (package, _) in USES {
        for name in dependencies(&manifest(package)) {
            if !name.starts_with("cairn-") && !rows.iter().any(|row| row.contains(&format!("`{name}`"))) {
                broken.push(format!("{name}, which {package} uses"));
            }
        }
    }
    assert_none("ARCHITECTURE.md says why each dependency is there", &broken);
}

/// What stands in backticks in a document, outside of blocks of code.
fn quoted(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in document.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expanded(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (names, after))) => {
            names.split(',').map(|name| format!("{before}{name}{after}")).collect()
        }
        None => vec![path.to_owned()],
    }
}

#[test]
fn the_documents_name_what_exists() {
    let sources = all_sources();
    let text: String = sources.values().map(String::as_str).collect();
    let words: BTreeSet<&str> = text.split(|c| !is_word(c)).collect();
    let mut wrong = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "papers/README.md"] {
        let read = fs::read_to_string(root().join(document)).expect("the document is there");
        for name in quoted(&read) {
            let in_package = USES.iter().any(|(package, _)| name.starts_with(&format!("{package}/")));
            let exists = if name.ends_with(".rs") || in_package {
                expanded(&name).iter().all(|path| {
                    root().join(path).exists()
                        || sources.keys().any(|file| file.ends_with(&format!("/{path}")))
                })
            } else if name.contains(['_', ':']) && name.chars().all(|c| is_word(c) || c == ':') {
                name.split("::").all(|part| part.is_empty() || words.contains(part))
            } else {
                true
            };
            if !exists {
                wrong.push(format!("{document}: {name}"));
            }
        }
    }
    assert_none("the documents name files and functions that exist", &wrong);
}

#[test]
fn the_core_depends_on_its_inputs_alone() {
    let found = places(&sources("core/src"), &NOT_DETERMINISTIC);
    assert_none("the core does no IO and reads no clock, no environment and no randomness", &found);
}

#[test]
fn the_raft_crate_is_known_to_the_node_only() {
    let mut sources = all_sources();
    sources.retain(|file, _| !file.starts_with("core/src/node/") && !file.starts_with("core/src/raft_log/"));
    assert_none(
        "raft's types stay in the node",
        &places(&sources, &["raft::", "eraftpb::", "protobuf::", "slog::"]),
    );
}

#[test]
fn the_engine_is_known_to_its_wrapper_only() {
    let mut sources = all_sources();
    sources.retain(|file, _| {
        // The server and the simulator put their files below the engine, `model` its memory.
        let below = [
            "core/src/backend/checked.rs",
            "core/src/backend/checked/tests.rs",
            "core/src/backend/redb.rs",
            "core/src/mvcc/model.rs",
            "server/src/backend_file.rs",
        ];
        !below.contains(&file.as_str()) && !file.starts_with("sim/")
    });
    assert_none("redb's types stay in the backend", &places(&sources, &["redb::"]));
}

#[test]
fn the_wire_is_known_to_net_and_to_clients_only() {
    for package in ["core", "server", "sim"] {
        let mut sources = sources(package);
        // A test may be a client.
        sources.retain(|file, _| !file.ends_with("/tests.rs"));
        let found = places(&sources, &["prost::", "cairn_net::proto", "etcdserverpb::"]);
        assert_none("protobuf's types stay in net", &found);
    }
}

#[test]
fn files_can_be_read_and_are_finished() {
    let sources = all_sources();
    let long = sources.iter().map(|(file, text)| (file, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > LINES_MAX);
    let long: Vec<String> = long.map(|(file, lines)| format!("{file}: {lines} lines")).collect();
    assert_none("no file is longer than 1,000 lines", &long);

    let mut unfinished = Vec::new();
    for (file, text) in &sources {
        let code = code(text);
        for (number, line) in code.lines().enumerate() {
            if ["#[ignore", "todo!", "unimplemented!"].iter().any(|word| line.contains(word)) {
                unfinished.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("nothing is left out", &unfinished);
}

/// The scanner finds what is there and nothing that is only spoken of.
#[test]
fn the_scanner_tells_code_from_words() {
    let text = concat!(
        "//! tokio in a comment\n",
        "let a = \"tokio \\\" tokio\"; /* tokio\n tokio */\n",
        "let b = r#\"tokio \" tokio\"#; let c = '\"';\n",
        "use tokio::sync; // tokio\n",
        "use crate::tokio::x; my_tokio::y(tokio);\n",
        "use std::{fs, io}; let t = time::Instant::now();\n",
    );
    let code = code(text);
    assert_eq!(code.lines().count(), text.lines().count());
    assert_eq!(lines_naming(&code, "tokio::"), [5]);
    assert_eq!(lines_naming(&code, "std::fs"), [7]);
    assert_eq!(lines_naming(&code, "Instant::now"), [7]);
    assert_eq!(lines_naming(&code, "std::net"), [0; 0]);

    let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { x = 1 }\n\
                    [target.'cfg(y)'.dependencies]\nc = \"1\"\n[dev-dependencies.d]\nx = 1\n[lints]\ne = 1\n";
    assert_eq!(dependencies(manifest), ["a", "b", "c", "d"]);
}
