//! Plays a [`Script`] against etcd and against our server and compares what `etcdctl` says.
//!
//! Both sides run one after the other on the same ports, so that ids derived from peer URLs must be
//! equal. Every step is recorded in its normalised form; all steps run even after a difference, and
//! the failure shows a diff of each step that differs. A wait that times out is itself recorded.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::Value;

use crate::normalise::{self, Names};
use crate::process::{Cluster, POLL_INTERVAL, Ports, Side, cairnctl, etcdctl};
use crate::script::{Ctl, Script, Step, Until, split};

/// How long one foreground command may run.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(100);
/// How long a background command may take to print what is awaited, or a repeated one to succeed.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(15);

/// One step's name and its normalised outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The step as written in the script.
    pub step: String,
    /// What it did, normalised.
    pub outcome: String,
}

/// What one side did.
#[derive(Clone, Debug)]
pub struct Played {
    /// In order.
    pub records: Vec<Record>,
    /// The ends of the servers' logs.
    pub logs: String,
}

/// Plays the script on both sides, one after the other on the same ports; panics with the differing steps.
pub fn compare(script: &Script) {
    let ports = ports(script);
    let [etcd, ours] = Side::BOTH.map(|side| play(side, script, &ports, true));
    if std::env::var_os("CAIRN_TRANSCRIPT_SHOW").is_some() {
        for record in &etcd.records {
            println!("$ {}\n{}", record.step, record.outcome);
        }
    }
    expect_equal(script, &etcd, &ours);
}

/// Plays the script on both sides at the same time, on different ports: ids are not compared.
pub fn compare_apart(script: &Script) {
    let [etcd, ours] = std::thread::scope(|scope| {
        Side::BOTH
            .map(|side| scope.spawn(move || play(side, script, &ports(script), false)))
            .map(|side| side.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    expect_equal(script, &etcd, &ours);
}

/// Plays the script against our server with `etcdctl` and then with `cairnctl`. What the client library
/// of `etcdctl` logs is its own affair.
pub fn compare_clients(script: &Script) {
    let ports = ports(script);
    let [etcdctl, cairnctl] = [etcdctl(), cairnctl()].map(|client| {
        let mut played = play_with(client, Side::Ours, script, &ports, true);
        for record in &mut played.records {
            let logged = |line: &&str| line.starts_with("err| {\"level\":");
            record.outcome = record
                .outcome
                .lines()
                .filter(|line| !logged(line))
                .map(|line| line.to_owned() + "\n")
                .collect();
        }
        played
    });
    expect_equal(script, &etcdctl, &cairnctl);
}

/// Panics with a diff of each step that differs.
pub fn expect_equal(script: &Script, etcd: &Played, ours: &Played) {
    assert_eq!(etcd.records.len(), ours.records.len(), "both sides play the same steps");
    let different: Vec<String> = etcd
        .records
        .iter()
        .zip(&ours.records)
        .filter(|(etcd, ours)| etcd != ours)
        .map(|(etcd, ours)| format!("$ {}\n{}", etcd.step, crate::diff::lines(&etcd.outcome, &ours.outcome)))
        .collect();
    assert!(
        different.is_empty(),
        "script {:?}: {} of {} steps differ (- etcd, + ours):\n\n{}\n{}",
        script.name,
        different.len(),
        etcd.records.len(),
        different.join("\n"),
        ours.logs,
    );
}

/// Ports for a script: its members, the spare member, the mirror.
pub fn ports(script: &Script) -> Vec<Ports> {
    (0..script.members + 2).map(|_| Ports::free()).collect()
}

/// Plays the script on one side. `ids` records the raw member and cluster ids as the first step.
pub fn play(side: Side, script: &Script, ports: &[Ports], ids: bool) -> Played {
    play_with(etcdctl(), side, script, ports, ids)
}

fn play_with(client: PathBuf, side: Side, script: &Script, ports: &[Ports], ids: bool) -> Played {
    let cluster = Cluster::start(side, &ports[..script.members], &script.flags);
    let mirror =
        script.mirror.then(|| Cluster::start(side, &ports[script.members + 1..script.members + 2], &[]));
    let mut player = Player {
        client,
        cluster,
        mirror,
        spare: ports[script.members],
        names: Names::default(),
        values: BTreeMap::new(),
        background: BTreeMap::new(),
        records: Vec::new(),
    };
    let raw = player.learn_names(script.members);
    if ids {
        player.record("ids", raw);
    }
    for step in &script.steps {
        player.step(step);
    }
    Played { logs: player.cluster.log_tails(), records: std::mem::take(&mut player.records) }
}

struct Player {
    client: PathBuf,
    cluster: Cluster,
    mirror: Option<Cluster>,
    spare: Ports,
    names: Names,
    values: BTreeMap<String, String>,
    background: BTreeMap<String, Background>,
    records: Vec<Record>,
}

impl Player {
    /// Learns addresses and ids; answers the raw ids, which both sides must agree on.
    fn learn_names(&mut self, members: usize) -> String {
        let mut endpoints = Vec::new();
        for member in 0..members {
            let ports = self.cluster.members()[member].ports();
            self.value(&format!("EP{member}"), ports.client_url());
            self.value(&format!("PEER{member}"), ports.peer_url());
            self.names.text(&format!("127.0.0.1:{}", ports.client), &format!("ADDR{member}"));
            endpoints.push(ports.client_url());
        }
        self.values.insert("EPS".to_owned(), endpoints.join(","));
        self.value("SPARE", self.spare.peer_url());
        self.value("SPARE_EP", self.spare.client_url());
        self.names.text(&format!("127.0.0.1:{}", self.spare.client), "SPARE_ADDR");
        self.value("DIR", self.cluster.folder().display().to_string());
        if let Some(mirror) = &self.mirror {
            let url = mirror.client_url(0);
            self.names.text(url.trim_start_matches("http://"), "ADDRM");
            self.value("MIRROR", url);
        }
        let list = self.json("member list -w json");
        let cluster = list["header"]["cluster_id"].as_u64().unwrap_or_default();
        self.names.id(cluster, "cluster");
        let mut raw = format!("cluster {cluster:x}\n");
        for member in list["members"].as_array().into_iter().flatten() {
            let id = member["ID"].as_u64().unwrap_or_default();
            let name = member["name"].as_str().unwrap_or_default().to_owned();
            raw += &format!("member {name} {id:x}\n");
            self.names.id(id, &name);
            self.values.insert(name.replacen('m', "ID", 1), format!("{id:x}"));
        }
        raw
    }

    fn value(&mut self, name: &str, value: String) {
        self.names.text(&value, name);
        self.values.insert(name.to_owned(), value);
    }

    fn record(&mut self, step: &str, outcome: String) {
        self.records.push(Record { step: step.to_owned(), outcome });
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Ctl(command) => self.ctl(command),
            Step::Spawn(name, command) => {
                let child = self.command(&command.line).spawn().expect("etcdctl starts");
                let mut background = Background::new(child, command.clone());
                background.feed(&command.stdin);
                self.background.insert(name.clone(), background);
            }
            Step::AwaitLines(name, lines) => {
                let got = self.running(name).await_that(|background| background.lines() >= *lines);
                if !got {
                    let lines = self.running(name).lines();
                    self.record(&format!("await {name}"), format!("timeout with {lines} lines on stdout\n"));
                }
            }
            Step::Sync(name, key) => self.sync(name, key),
            Step::Feed(name, text) => self.running(name).feed(text.as_bytes()),
            Step::Stop(name) => {
                let mut background = self.background.remove(name).expect("started before");
                background.kill();
                let outcome = self.render(&background.command.clone(), background.finish(), "killed");
                self.record(&format!("stop {name}"), outcome);
            }
            Step::Interrupt(name) => {
                let id = self.running(name).child.id().to_string();
                Command::new("kill").args(["-INT", &id]).status().expect("kill is installed");
                self.await_exit(name);
            }
            Step::AwaitExit(name) => self.await_exit(name),
            Step::Lead(member) => self.lead(*member),
            Step::Restart(member) => self.cluster.members()[*member].restart(),
            Step::Join(await_ready) => self.cluster.join(self.spare, *await_ready),
            Step::AwaitMemberExit(member) => {
                let server = &mut self.cluster.members()[*member];
                let deadline = Instant::now() + AWAIT_TIMEOUT;
                while server.exit_status().is_none() && Instant::now() < deadline {
                    std::thread::sleep(POLL_INTERVAL);
                }
                let status = server.exit_status().map_or("still running".to_owned(), |exit| exit.to_string());
                self.record(&format!("await the end of m{member}"), status + "\n");
            }
        }
    }

    fn running(&mut self, name: &str) -> &mut Background {
        self.background.get_mut(name).unwrap_or_else(|| panic!("no background command {name:?}"))
    }

    /// The client with the words of `line`, placeholders filled in, and the first endpoint unless given.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.client);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        command.env("ETCDCTL_API", "3");
        let line = self.fill(line);
        if !line.contains("--endpoints") {
            command.arg(format!("--endpoints={}", self.values["EP0"]));
        }
        command.args(split(&line));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.values {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }

    fn run(&self, command: &Ctl) -> Output {
        let child = self.command(&command.line).spawn().expect("etcdctl starts");
        let mut background = Background::new(child, command.clone());
        background.feed(self.fill_bytes(&command.stdin).as_slice());
        background.stdin = None;
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        while background.exit_status().is_none() {
            if Instant::now() > deadline {
                background.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        background.finish()
    }

    fn fill_bytes(&self, stdin: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(stdin) {
            Ok(text) if text.len() < 10_000 => self.fill(text).into_bytes(),
            _ => stdin.to_owned(),
        }
    }

    fn ctl(&mut self, command: &Ctl) {
        let deadline = Instant::now() + AWAIT_TIMEOUT;
        let output = loop {
            let output = self.run(command);
            let stdout = String::from_utf8_lossy(&output.stdout);
            let satisfied = match command.until {
                None => true,
                Some(Until::Success) => output.status.success(),
                Some(Until::Failure) => !output.status.success(),
                Some(Until::Lines(lines)) => stdout.lines().count() == lines,
                Some(Until::Contains(text)) => stdout.contains(text),
            };
            if satisfied || Instant::now() > deadline {
                break output;
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        self.capture(command, &String::from_utf8_lossy(&output.stdout));
        if !command.silent {
            let code = output.status.code().map_or("by a signal".to_owned(), |code| code.to_string());
            let outcome = self.render(command, output, &code);
            self.record(&describe(command), outcome);
        }
    }

    fn capture(&mut self, command: &Ctl, stdout: &str) {
        for (name, line, word) in &command.captures {
            let value = stdout.lines().nth(*line).and_then(|line| line.split_whitespace().nth(*word));
            let value = value.unwrap_or("nothing").to_owned();
            match u64::from_str_radix(&value, 16) {
                Ok(id) if value.len() > 8 => self.names.id(id, name),
                _ => {}
            }
            // A later {name} fails visibly on this side when there was nothing to capture.
            self.values.insert(name.clone(), value);
        }
    }

    fn render(&mut self, command: &Ctl, output: Output, exit: &str) -> String {
        let stdout = if command.protobuf {
            normalise::protobuf(&output.stdout)
        } else {
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut rendered = String::new();
        for (stream, text) in [("out", stdout), ("err", stderr)] {
            let mut text = self.names.apply(&text);
            for (pattern, with) in &command.replacements {
                let pattern = Regex::new(pattern).expect("scripts hold valid patterns");
                text = pattern.replace_all(&text, *with).into_owned();
            }
            let mut lines: Vec<&str> = text.lines().collect();
            if command.sorted {
                lines.sort_unstable();
            }
            if command.collapsed {
                lines.dedup();
            }
            for line in lines {
                rendered += &format!("{stream}| {line}\n");
            }
        }
        if command.exit_unchecked { rendered } else { rendered + &format!("exit {exit}\n") }
    }

    fn await_exit(&mut self, name: &str) {
        let mut background = self.background.remove(name).expect("started before");
        let ended = background.await_that(|background| background.exit_status().is_some());
        let exit = match background.exit_status().and_then(|status| status.code()) {
            Some(code) => code.to_string(),
            None if ended => "by a signal".to_owned(),
            None => "timeout".to_owned(),
        };
        background.kill();
        let outcome = self.render(&background.command.clone(), background.finish(), &exit);
        self.record(&format!("end of {name}"), outcome);
    }

    /// Until the watcher shows a put of `key`, it may not have been registered: keep putting.
    fn sync(&mut self, name: &str, key: &str) {
        let Step::Ctl(put) = crate::script::ctl(&format!("put {key} sync")) else { unreachable!("ctl") };
        let deadline = Instant::now() + AWAIT_TIMEOUT;
        while !String::from_utf8_lossy(&self.running(name).stdout()).contains(&format!("{key}\nsync\n")) {
            if Instant::now() > deadline {
                self.record(&format!("sync {name}"), format!("timeout: the watcher never saw {key}\n"));
                return;
            }
            self.run(&put);
        }
        self.running(name).sync_keys.push(key.to_owned());
    }

    fn json(&self, line: &str) -> Value {
        let Step::Ctl(command) = crate::script::ctl(line) else { unreachable!("ctl") };
        serde_json::from_slice(&self.run(&command).stdout).unwrap_or_default()
    }

    /// Transfers leadership until the wanted member leads and every member says so.
    fn lead(&mut self, member: usize) {
        let wanted = self.values[&format!("ID{member}")].clone();
        let wanted_id = u64::from_str_radix(&wanted, 16).expect("ids were learnt from etcdctl");
        let deadline = Instant::now() + AWAIT_TIMEOUT;
        while Instant::now() < deadline {
            let statuses = self.json("endpoint status --endpoints={EPS} -w json");
            let statuses = statuses.as_array().cloned().unwrap_or_default();
            let leads = |status: &Value| status["Status"]["leader"].as_u64() == Some(wanted_id);
            if !statuses.is_empty() && statuses.iter().all(leads) {
                return;
            }
            let leader = statuses
                .iter()
                .find(|status| status["Status"]["leader"] == status["Status"]["header"]["member_id"])
                .and_then(|status| status["Endpoint"].as_str());
            if let Some(endpoint) = leader {
                let Step::Ctl(transfer) =
                    crate::script::ctl(&format!("move-leader {wanted} --endpoints={endpoint}"))
                else {
                    unreachable!("ctl")
                };
                self.run(&transfer);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.record(&format!("lead {member}"), "timeout\n".to_owned());
    }
}

fn describe(command: &Ctl) -> String {
    const SHOWN_MAX: usize = 600;
    let stdin = String::from_utf8_lossy(&command.stdin);
    match stdin.len() {
        0 => format!("etcdctl {}", command.line),
        length if length > SHOWN_MAX => format!("etcdctl {} <<< ({length} bytes)", command.line),
        _ => format!("etcdctl {} <<< {stdin:?}", command.line),
    }
}

struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: ExitStatus,
}

/// A running `etcdctl` whose outputs are collected by two threads.
struct Background {
    child: Child,
    command: Ctl,
    stdin: Option<std::process::ChildStdin>,
    outputs: [Arc<Mutex<Vec<u8>>>; 2],
    readers: Vec<JoinHandle<()>>,
    sync_keys: Vec<String>,
}

impl Background {
    fn new(mut child: Child, command: Ctl) -> Background {
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        let stdin = child.stdin.take();
        Background {
            child,
            command,
            stdin,
            outputs: [stdout.0, stderr.0],
            readers: vec![stdout.1, stderr.1],
            sync_keys: Vec::new(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            // A command that has ended before it read everything shows that in its outputs.
            let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
        }
    }

    /// Stdout without the events that synchronisation caused.
    fn stdout(&self) -> Vec<u8> {
        let mut text = self.outputs[0].lock().expect("readers do not panic").clone();
        for key in &self.sync_keys {
            let event = format!("PUT\n{key}\nsync\n");
            text = String::from_utf8_lossy(&text).replace(&event, "").into_bytes();
        }
        text
    }

    fn lines(&self) -> usize {
        self.stdout().iter().filter(|byte| **byte == b'\n').count()
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    fn await_that(&mut self, holds: impl Fn(&mut Background) -> bool) -> bool {
        let deadline = Instant::now() + AWAIT_TIMEOUT;
        while !holds(self) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn kill(&mut self) {
        // Fails only when the process has ended before.
        let _ = self.child.kill();
    }

    fn finish(mut self) -> Output {
        let status = self.child.wait().expect("a child can be waited for");
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        let stderr = self.outputs[1].lock().expect("readers do not panic").clone();
        Output { stdout: self.stdout(), stderr, status }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
        // Fails only when it has been waited for before.
        let _ = self.child.wait();
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&collected);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            shared.lock().expect("nobody panics while holding it").extend_from_slice(&buffer[..length]);
        }
    });
    (collected, reader)
}
