//! Tables of what is accepted, what is rejected and with which text.

use super::*;

fn run_env(args: &[&str], env: &[(&str, &str)], files: &[(&str, &str)]) -> Loaded {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let read = |path: &str| {
        let file = files.iter().find(|(name, _)| *name == path);
        file.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let host = || Ok(IpAddr::from([10, 0, 0, 7]));
    load_with(args.iter().map(|a| (*a).to_owned()), &env, &read, &host)
}

fn exit(loaded: Loaded) -> (i32, String, String) {
    match loaded {
        Loaded::Exit { code, stdout, stderr } => (code, stdout, stderr),
        Loaded::Run { .. } => panic!("expected an exit"),
    }
}

fn config(loaded: Loaded) -> (Config, Vec<Notice>) {
    match loaded {
        Loaded::Run { config, notices } => (*config, notices),
        Loaded::Exit { stderr, .. } => panic!("expected a start, got: {stderr}"),
    }
}

fn verify(text: &str) -> String {
    format!("error verifying flags, {text}. See 'etcd --help'.")
}

/// First line of the error of a start with these flags.
fn error(args: &[&str]) -> (i32, String) {
    let (code, _, stderr) = exit(run_env(args, &[], &[]));
    (code, stderr.lines().next().unwrap_or("").to_owned())
}

#[test]
fn defaults_start() {
    let (config, _) = config(run_env(&[], &[], &[]));
    assert_eq!((config.name.as_str(), config.data_dir.as_str()), ("default", "default.etcd"));
    assert_eq!((config.snapshot_count, config.pre_vote), (10_000, true));
    assert_eq!(config.quota_backend_bytes, Some(2 * 1024 * 1024 * 1024));
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(config.backend_batch_interval, Duration::from_millis(100));
    assert_eq!(join_urls(&config.listen_client_urls), "http://localhost:2379");
    assert!(config.cors.is_empty() && config.wal_dir.is_none());
}

#[test]
fn validation_texts_are_etcds() {
    let client = "http://127.0.0.1:2379";
    let cases: &[(&[&str], &str)] = &[
        (&["foo"], "'foo' is not a valid flag"),
        (&["--pre-vote", "false"], "'false' is not a valid flag"),
        (
            &["--listen-client-urls", client],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-client-urls", "http://a:1", "--advertise-client-urls", client],
            "expected IP in URL for binding (http://a:1)",
        ),
        (&["--listen-peer-urls", "http://a:1"], "expected IP in URL for binding (http://a:1)"),
        (&["--listen-metrics-urls", "http://a:1"], "expected IP in URL for binding (http://a:1)"),
        (
            &["--advertise-client-urls", "http://:1"],
            "--advertise-client-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--election-timeout=400"],
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--auto-compaction-mode=x"], "unknown auto-compaction-mode \"x\""),
        (&["--logger=foo"], "unknown logger option \"foo\""),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--log-outputs=default,stderr"], "multi logoutput for \"default\" is not supported yet"),
        (&["--log-outputs="], "open sink \"\": open : no such file or directory"),
        (&["--log-level=foo"], "unrecognized level: \"foo\""),
        (&["--log-format=xml"], "unknown log format: xml, supported values json, console"),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--compact-hash-check-time=0s"], "--compact-hash-check-time must be >0 (set to 0s)"),
    ];
    for (args, want) in cases {
        assert_eq!(error(args), (1, verify(want)), "{args:?}");
    }
}

#[test]
fn bare_texts_are_etcds() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["--auto-compaction-retention=x"],
            "error parsing CompactionRetention: time: invalid duration \"x\"",
        ),
        (
            &["--auto-compaction-retention", "-5"],
            "error parsing CompactionRetention: time: missing unit in duration \"-5\"",
        ),
        (&["--auth-token=foo"], "auth: invalid auth options"),
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=http://127.0.0.1:1"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (
            &["--cert-file=/a"],
            "cairn does not support --cert-file yet: TLS is not implemented; remove the flag",
        ),
        (
            &["--enable-v2"],
            "cairn does not support --enable-v2 yet: the v2 API is not implemented; remove the flag",
        ),
        (
            &["--experimental-enable-distributed-tracing"],
            "cairn does not support --experimental-enable-distributed-tracing yet: distributed tracing is not \
             implemented; remove the flag",
        ),
    ];
    for (args, want) in cases {
        assert_eq!(error(args), (1, (*want).to_owned()), "{args:?}");
    }
}

#[test]
fn every_refused_flag_refuses_and_accepts_its_default() {
    for flag in table::FLAGS {
        let table::Status::Refused(_) = flag.status else { continue };
        let other = match flag.kind {
            table::Kind::Bool if flag.default == "true" => "false",
            table::Kind::Bool => "true",
            table::Kind::Enum(words) => words.last().expect("has words"),
            table::Kind::Duration => "77s",
            _ => "something",
        };
        let (code, text) = error(&[&format!("--{}={other}", flag.name)]);
        assert_eq!(code, 1);
        assert!(text.starts_with(&format!("cairn does not support --{} yet: ", flag.name)), "{text}");
        config(run_env(&[&format!("--{}={}", flag.name, flag.default)], &[], &[]));
    }
}

#[test]
fn syntax_errors_exit_2_with_usage() {
    for (args, want) in [
        (&["--foo"][..], "flag provided but not defined: -foo"),
        (&["--ca-file", "x"], "flag provided but not defined: -ca-file"),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (
            &["--initial-cluster-state=foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--feature-gates=Foo=true"],
            "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
        ),
    ] {
        let (code, stdout, stderr) = exit(run_env(args, &[], &[]));
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.starts_with(&format!("{want}\nUsage:\n\n  etcd [flags]\n")), "{stderr}");
    }
}

#[test]
fn help_lists_every_flag_on_stdout() {
    for arg in ["-h", "--help"] {
        let (code, stdout, stderr) = exit(run_env(&[arg], &[], &[]));
        assert_eq!(code, 0);
        assert!(stderr.starts_with("Usage:\n"));
        for flag in table::FLAGS.iter().filter(|flag| flag.status != table::Status::Legacy) {
            let shown = stdout.contains(&format!("\n  --{} '", flag.name));
            assert_eq!(shown, !matches!(flag.name, "config-file" | "version"), "{}", flag.name);
        }
        assert!(stdout.contains("  --snapshot-count '10000'\n"));
    }
}

#[test]
fn version_prints_and_exits() {
    let (code, stdout, stderr) = exit(run_env(&["--version"], &[], &[]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("etcd Version: 3.7.1\nGit SHA: "));
}

#[test]
fn environment_rules() {
    let env = [("ETCD_NAME", "a"), ("ETCD_FOO", "1"), ("ETCD_PRE_VOTE", "")];
    let (config, notices) = config(run_env(&[], &env, &[]));
    assert_eq!((config.name.as_str(), config.pre_vote), ("a", true));
    assert_eq!(config.initial_cluster, "a=http://localhost:2380");
    let messages: Vec<_> = notices.iter().map(|n| (n.level, n.msg.as_str(), n.fields.clone())).collect();
    let field = |name, value: &str| (name, value.to_owned());
    assert!(messages.contains(&(
        LogLevel::Info,
        "recognized and used environment variable",
        vec![field("variable-name", "ETCD_NAME"), field("variable-value", "a")]
    )));
    for unknown in ["ETCD_FOO=1", "ETCD_PRE_VOTE="] {
        let fields = vec![field("environment-variable", unknown)];
        assert!(messages.contains(&(LogLevel::Warn, "unrecognized environment variable", fields)));
    }

    let (code, _, stderr) = exit(run_env(&["--name", "a"], &[("ETCD_NAME", "a")], &[]));
    let want = "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag \
                (either unset environment variable or disable flag)\n";
    assert_eq!((code, stderr.as_str()), (1, want));
}

#[test]
fn environment_errors_name_the_variable_and_the_cause() {
    let value = "http://127.0.0.1:1 // x";
    let (code, _, stderr) = exit(run_env(&[], &[("ETCD_LISTEN_CLIENT_URLS", value)], &[]));
    let want = verify(
        "invalid value \"http://127.0.0.1:1 // x\" for ETCD_LISTEN_CLIENT_URLS: parse \"http://127.0.0.1:1 // x\": \
         invalid port \":1 \" after host",
    );
    assert_eq!((code, stderr.lines().next()), (1, Some(want.as_str())));
    assert!(stderr.contains("the value contains a comment"));
    let (_, notices) = config(run_env(&[], &[("ETCD_INITIAL_CLUSTER_TOKEN", "\"x\"")], &[]));
    assert!(notices.iter().any(|n| n.msg.contains("contains quotes")));
    let (_, _, stderr) = exit(run_env(&[], &[("ETCD_PRE_VOTE", "maybe")], &[]));
    assert_eq!(stderr, format!("{}\n", verify("invalid value \"maybe\" for ETCD_PRE_VOTE: parse error")));
}

#[test]
fn file_overrides_flags_and_environment() {
    let file = "name: infra\nfoo: bar\nelection-timeout: 3000\ngrpc-keepalive-timeout: 5000000000\n\
                warning-apply-duration: 2s\nlog-outputs: [stderr, stdout]\nsocket-options:\n  reuse-port: true\n\
                listen-client-urls: http://127.0.0.1:1\npre-vote: off\ninitial-cluster-token: 5\n";
    let (c, _) = config(run_env(
        &["--config-file=f", "--name=z", "--heartbeat-interval=0"],
        &[("ETCD_NAME", "q"), ("ETCD_BCRYPT_COST", "x")],
        &[("f", file)],
    ));
    assert_eq!((c.name.as_str(), c.election_ms, c.heartbeat_ms), ("infra", 3000, 100));
    assert_eq!(
        (c.grpc_keepalive_timeout, c.warning_apply_duration),
        (Duration::from_secs(5), Duration::from_secs(2))
    );
    assert!(c.socket_reuse_port && !c.pre_vote && c.log.outputs.len() == 2);
    assert_eq!(c.initial_cluster_token, "5");
    let (c, _) = config(run_env(&[], &[("ETCD_CONFIG_FILE", "f")], &[("f", "name: x")]));
    assert_eq!(c.name, "x");
}

#[test]
fn file_errors() {
    let json = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal ";
    let cases = [
        (
            "heartbeat-interval: abc",
            verify(&format!("{json}string into Go struct field configYAML.heartbeat-interval of type uint")),
        ),
        (
            "heartbeat-interval: -5",
            verify(&format!("{json}number -5 into Go struct field configYAML.heartbeat-interval of type uint")),
        ),
        ("log-outputs: stderr", verify(&format!("{json}string into Go struct field configYAML.log-outputs of type []string"))),
        ("- a", verify(&format!("{json}array into Go value of type embed.configYAML"))),
        ("initial-cluster-state: foo", verify("unexpected clusterState \"foo\"")),
        (
            "listen-client-urls: foo",
            "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: foo".into(),
        ),
        ("proxy: foo", "unexpected error setting up proxyFlag: invalid value".to_owned()),
        (
            "client-transport-security: {cert-file: /x}",
            "cairn does not support --cert-file yet: TLS is not implemented; remove the flag".to_owned(),
        ),
    ];
    for (file, want) in cases {
        let (code, _, stderr) = exit(run_env(&["--config-file=f.yml"], &[], &[("f.yml", file)]));
        assert_eq!((code, stderr.lines().next()), (1, Some(want.as_str())), "{file}");
        assert!(stderr.contains("f.yml"), "the file is named: {stderr}");
    }
    let (code, _, stderr) = exit(run_env(&["--config-file=f.yml"], &[], &[("f.yml", "name: a\n\tname: b")]));
    assert!(code == 1 && stderr.contains("error converting YAML to JSON: yaml: "), "{stderr}");
    assert!(stderr.contains("in f.yml line 2"), "{stderr}");
    assert_eq!(error(&["--config-file=/none"]), (1, verify("open /none: no such file or directory")));
}

#[test]
fn aliases_reach_their_target() {
    let (c, notices) = config(run_env(
        &[
            "--experimental-compaction-batch-limit=7",
            "--experimental-enable-lease-checkpoint",
            "--log-output=stdout",
        ],
        &[],
        &[],
    ));
    assert_eq!(c.compaction_batch_limit, 7);
    assert!(c.features.enabled("LeaseCheckpoint"));
    assert_eq!(c.log.outputs, [crate::log::LogOutput::Stdout]);
    assert!(notices.iter().any(|n| n.msg.contains("use --compaction-batch-limit")));
    let (code, text) =
        error(&["--experimental-enable-lease-checkpoint", "--feature-gates=LeaseCheckpoint=true"]);
    assert!(code == 1 && text.contains("cannot specify both flags: --experimental-enable-lease-checkpoint="));
}

#[test]
fn legacy_and_effectless_flags_warn() {
    let (_, notices) = config(run_env(&["-vv", "--snapshot=1", "--enable-pprof"], &[], &[]));
    for want in [
        "flag \"-vv\" is no longer supported - ignoring.",
        "flag \"-snapshot\" is no longer supported - ignoring.",
        "flag --enable-pprof has no effect: there is no Go runtime to profile",
    ] {
        assert!(notices.iter().any(|n| n.level == LogLevel::Warn && n.msg == want), "{want}");
    }
}

#[test]
fn compaction_retention_forms() {
    for (mode, text, want) in [
        ("periodic", "2", AutoCompaction::Periodic(Duration::from_secs(7200))),
        ("periodic", "5m", AutoCompaction::Periodic(Duration::from_secs(300))),
        ("periodic", "0s", AutoCompaction::Off),
        ("revision", "1000", AutoCompaction::Revision(1000)),
        ("revision", "0", AutoCompaction::Off),
    ] {
        let args =
            [&format!("--auto-compaction-mode={mode}")[..], &format!("--auto-compaction-retention={text}")];
        assert_eq!(config(run_env(&args, &[], &[])).0.auto_compaction, want, "{mode} {text}");
    }
}

#[test]
fn default_host_replaces_localhost() {
    let args = ["--listen-peer-urls=http://0.0.0.0:2380", "--name=a"];
    let (c, notices) = config(run_env(&args, &[], &[]));
    assert_eq!(join_urls(&c.initial_advertise_peer_urls), "http://10.0.0.7:2380");
    assert_eq!(c.initial_cluster, "a=http://10.0.0.7:2380");
    assert!(notices.iter().any(|n| n.msg == "detected default host for advertise"));
    let (c, _) = config(run_env(&args[..1], &[], &[]));
    assert!(c.bootstrap_cluster(&resolve_host).is_ok());
}

#[test]
fn bootstrap_texts_are_etcds() {
    let own = "--initial-advertise-peer-urls=http://127.0.0.1:2381";
    let scheme = "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ";
    let cases: &[(&[&str], &str)] = &[
        (&["--initial-cluster=x"], scheme),
        (
            &["--initial-cluster="],
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            &["--initial-cluster=default=http://127.0.0.1:2380"],
            "--initial-cluster has default=http://127.0.0.1:2380 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380 \
             (resolved urls: \"http://localhost:2380\" != \"http://127.0.0.1:2380\")",
        ),
        (
            &["--initial-cluster=default=http://127.0.0.1:2381,default=http://127.0.0.1:2382", own],
            "--initial-cluster has default=http://127.0.0.1:2382 but missing from \
             --initial-advertise-peer-urls=http://127.0.0.1:2381 \
             (len([\"http://127.0.0.1:2381\"]) != len([\"http://127.0.0.1:2381\" \"http://127.0.0.1:2382\"]))",
        ),
        (
            &["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
            "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url",
        ),
        (
            &[
                "--initial-cluster=default=http://127.0.0.1:2381",
                "--initial-advertise-peer-urls=http://127.0.0.1:2381,http://127.0.0.1:2382",
            ],
            "--initial-advertise-peer-urls has http://127.0.0.1:2382 but missing from \
             --initial-cluster=default=http://127.0.0.1:2381,default=http://127.0.0.1:2382",
        ),
    ];
    let fail = |_: &str| Err(io::Error::other("no resolver"));
    for (args, want) in cases {
        let (config, _) = config(run_env(args, &[], &[]));
        assert_eq!(config.bootstrap_cluster(&fail).expect_err("bad").text, *want, "{args:?}");
    }
    let by_name = ["--initial-cluster=default=http://infra:2381", own];
    let resolve = |_: &str| Ok(vec![IpAddr::from([127, 0, 0, 1])]);
    assert!(config(run_env(&by_name, &[], &[])).0.bootstrap_cluster(&resolve).is_ok());
    assert!(config(run_env(&by_name, &[], &[])).0.bootstrap_cluster(&fail).is_err());
}

#[test]
fn limits_warn() {
    let (c, notices) = config(run_env(
        &[
            "--bcrypt-cost=99",
            "--max-request-bytes=20000000",
            "--quota-backend-bytes=-1",
            "--raft-read-timeout=1s",
        ],
        &[],
        &[],
    ));
    assert_eq!(
        (c.bcrypt_cost, c.quota_backend_bytes, c.raft_read_timeout),
        (10, None, Duration::from_secs(5))
    );
    for want in
        ["use default bcrypt cost instead of the invalid given cost", "exceeded recommended request limit"]
    {
        assert!(notices.iter().any(|n| n.msg == want), "{want}");
    }
}
