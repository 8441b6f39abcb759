//! The routes against a member that answers reads, or does not.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use cairn_core::api::{self, AlarmKind, AlarmMember, Header, Member, Request, Response, ResponseBody};
use cairn_core::error::Error;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tonic::service::Routes;
use tower::ServiceExt;

use super::client::ClientHttp;
use crate::handle::{Call, Handle, MemberStatus, Reply};
use crate::listener::{Listener, ListenerOptions, SocketOptions};

/// A member whose linearizable reads fail while `quorum` is false.
fn handle(quorum: bool, status: MemberStatus) -> Handle {
    let submit = move |call| {
        let Call::Request { request: Request::Range(range), reply, .. } = call else { panic!("{call:?}") };
        let response =
            Response { header: Header::default(), body: ResponseBody::Range(api::RangeResponse::default()) };
        let answer = if quorum || range.serializable {
            Ok(Reply { response, view: None, frames: None })
        } else {
            Err(Error::Timeout)
        };
        let _ = reply.send(answer);
        Ok(())
    };
    Handle::new(Arc::new(submit), watch::channel(status).1)
}

fn routes(quorum: bool, status: MemberStatus, cors: &str, whitelist: &[&str]) -> Router {
    super::client::router(state(quorum, status, cors, whitelist))
}

fn state(quorum: bool, status: MemberStatus, cors: &str, whitelist: &[&str]) -> ClientHttp {
    ClientHttp {
        handle: handle(quorum, status),
        metrics: Arc::new(|| "m 1\n".to_owned()),
        checked: Arc::new(|_| ()),
        vars: Arc::new(|| "{}".to_owned()),
        probe_timeout: Duration::from_secs(5),
        cors: vec![cors.to_owned()],
        host_whitelist: whitelist.iter().map(|&name| name.to_owned()).collect(),
    }
}

async fn ask(router: &Router, method: &str, path: &str, host: &str) -> (u16, http::HeaderMap, String) {
    let request = http::Request::builder().method(method).uri(path).header("host", host);
    let request = request.header("origin", "http://ok.com").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(router: &Router, path: &str) -> (u16, String) {
    let (status, _, body) = ask(router, "GET", path, "x").await;
    (status, body)
}

fn led() -> MemberStatus {
    MemberStatus { leader: 1, cluster_id: 0xbabc, ..Default::default() }
}

fn answer(status: u16, body: &str) -> (u16, String) {
    (status, body.to_owned())
}

#[tokio::test]
async fn health_says_why_not() {
    let healthy = routes(true, led(), "*", &[]);
    assert_eq!(get(&healthy, "/health").await, answer(200, r#"{"health":"true","reason":""}"#));
    let cut = routes(false, led(), "*", &[]);
    let reason = r#"{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}"#;
    assert_eq!(get(&cut, "/health").await, answer(503, reason));
    assert_eq!(get(&cut, "/health?serializable=true").await.0, 200);
    assert_eq!(get(&cut, "/livez").await, answer(200, "ok\n"));
    assert_eq!(get(&cut, "/readyz").await.0, 503);
    assert_eq!(get(&cut, "/readyz/linearizable_read").await.0, 503);
    assert_eq!(get(&cut, "/readyz?exclude=linearizable_read").await, answer(200, "ok\n"));
    assert_eq!(get(&cut, "/livez?verbose").await, answer(200, "[+]serializable_read ok\nok\n"));
    let leaderless = routes(true, MemberStatus::default(), "*", &[]);
    assert_eq!(
        get(&leaderless, "/health").await,
        answer(503, r#"{"health":"false","reason":"RAFT NO LEADER"}"#)
    );
    let alarms = vec![AlarmMember { member_id: 1, alarm: AlarmKind::NoSpace }];
    let full = routes(true, MemberStatus { alarms, ..led() }, "*", &[]);
    assert_eq!(get(&full, "/health").await, answer(503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
    assert_eq!(get(&full, "/health?exclude=NOSPACE").await.0, 200);
}

#[tokio::test]
async fn the_other_client_routes_answer_as_etcd() {
    let router = routes(true, led(), "*", &[]);
    let (status, body) = get(&router, "/version").await;
    assert_eq!(status, 200);
    assert!(body.starts_with(r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided""#), "{body}");
    assert_eq!(get(&router, "/metrics").await, answer(200, "m 1\n"));
    assert_eq!(get(&router, "/members").await, answer(404, "404 page not found\n"));
    let (status, headers, body) = ask(&router, "POST", "/health", "x").await;
    assert_eq!(
        (status, body.as_str(), &headers["allow"]),
        (405, "Method Not Allowed\n", &"GET".parse().unwrap())
    );
    assert_eq!(headers["access-control-allow-origin"], "*");
    let (status, headers, body) = ask(&router, "OPTIONS", "/nope", "x").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert_eq!(headers["access-control-allow-methods"], "POST, GET, OPTIONS, PUT, DELETE");
}

#[tokio::test]
async fn only_listed_hosts_and_origins_pass() {
    let router = routes(true, led(), "http://ok.com", &["good.com", "::1"]);
    for (host, expected) in
        [("good.com:80", 200), ("good.com", 200), ("[::1]:80", 200), ("localhost", 421), ("127.0.0.1", 421)]
    {
        assert_eq!(ask(&router, "GET", "/health", host).await.0, expected, "{host}");
    }
    let (_, headers, _) = ask(&router, "GET", "/health", "good.com").await;
    assert_eq!(headers["access-control-allow-origin"], "http://ok.com");
    let open = super::client::router(ClientHttp { cors: Vec::new(), ..state(true, led(), "", &[]) });
    let (_, headers, body) = ask(&open, "GET", "/debug/vars", "x").await;
    assert_eq!((headers["access-control-allow-origin"].as_bytes(), body.as_str()), (&b"*"[..], "{}"));
    let strict = routes(true, led(), "http://other.com", &[]);
    let (_, headers, _) = ask(&strict, "GET", "/health", "x").await;
    assert!(!headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_joining_member_fetches_what_a_peer_serves() {
    let members = vec![
        Member {
            id: 443629905751424238,
            name: "n1".to_owned(),
            peer_urls: vec!["http://127.0.0.1:32380".to_owned()],
            client_urls: vec!["http://127.0.0.1:32379".to_owned()],
            is_learner: false,
        },
        Member {
            id: 9558602275244244400,
            peer_urls: vec!["http://127.0.0.1:32390".to_owned()],
            is_learner: true,
            ..Default::default()
        },
    ];
    let router = super::peer::router(handle(true, MemberStatus { members: members.clone(), ..led() }));
    let (_, body) = get(&router, "/members").await;
    // The bytes that etcd 3.4.23 gives for the same two members.
    let expected = concat!(
        r#"[{"id":443629905751424238,"peerURLs":["http://127.0.0.1:32380"],"name":"n1","#,
        r#""clientURLs":["http://127.0.0.1:32379"]},"#,
        r#"{"id":9558602275244244400,"peerURLs":["http://127.0.0.1:32390"],"isLearner":true}]"#,
        "\n"
    );
    assert_eq!(body, expected);
    let listener = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let good = format!("http://{}", listener.local_addr().unwrap());
    let _serving = listener.serve(router, Routes::default(), ListenerOptions::default()).unwrap();
    let bad = "http://127.0.0.1:1".to_owned();
    // A peer that has bound its port and does not serve it: nobody waits for it while another answers.
    let bound = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let silent = format!("http://{}", bound.local_addr().unwrap());
    let wait = Duration::MAX;
    let found = super::fetch::fetch_members(&[silent, bad.clone(), good], wait).await;
    assert_eq!(found, Ok((0xbabc, members)));
    let error = super::fetch::fetch_members(&[bad], wait).await.unwrap_err();
    assert_eq!(error.to_string(), "could not retrieve cluster information from the given URLs");
}
