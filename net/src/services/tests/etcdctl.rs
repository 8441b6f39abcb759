//! etcd's own client against the listener, where the bytes on the wire are what is tested.

use std::process::{Command, Output};

use super::*;
use crate::listener::{Listener, ListenerOptions, SocketOptions};

async fn etcdctl(arguments: Vec<String>) -> Output {
    let run = move || {
        Command::new("etcdctl")
            .args(arguments)
            .env("ETCDCTL_API", "3")
            .output()
            .expect("this test runs etcdctl 3.4 or later (Debian's etcd-client), which is not installed")
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// etcdctl 3.4 sends the endpoint, scheme included, as the authority when it dials one by itself.
#[tokio::test]
async fn endpoints_with_a_scheme_are_served() {
    let Services { grpc, member, status: _status, serving: _serving, .. } = member();
    let listener = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let _served = listener.serve(axum::Router::new(), grpc, ListenerOptions::default()).unwrap();
    let snapshot_file = std::env::temp_dir().join(format!("cairn-etcdctl-{}.db", std::process::id()));
    for scheme in ["http://", ""] {
        let endpoints = format!("--endpoints={scheme}{address}");
        let status = etcdctl(vec![endpoints.clone(), "endpoint".into(), "status".into()]).await;
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(
            status.status.success() && text.starts_with(&format!("{scheme}{address}, 16, 3.7.1")),
            "{status:?}"
        );

        // Several requests, one of them a stream of large messages, on one rewritten connection.
        let path = snapshot_file.display().to_string();
        let saved = etcdctl(vec![endpoints, "snapshot".into(), "save".into(), path]).await;
        assert!(saved.status.success(), "{saved:?}");
        let bytes = std::fs::read(&snapshot_file).unwrap();
        std::fs::remove_file(&snapshot_file).unwrap();
        assert!(bytes.starts_with(&snapshot()));
    }
    assert!(!member.state.lock().unwrap().requests.is_empty());
}
