//! A client that pings too often is treated alike by etcd and by ours, frame by frame (A-GEN-08).
//!
//! The client is a bare socket: each ping waits for its acknowledgement, so that what comes in which
//! order does not depend on time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cairn_proptests::process::{Cluster, Ports, Side};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingpong";
const PINGS: usize = 8;

/// The headers of a watch stream and its first request: to watch the key "a".
fn watch(stream: u8) -> Vec<u8> {
    let mut block = b"\x83\x86\x44\x19/etcdserverpb.Watch/Watch\x41\x01x\x5f\x10application/grpc".to_vec();
    block.extend_from_slice(b"\x40\x02te\x08trailers");
    let mut bytes = vec![0, 0, block.len() as u8, 1, 4, 0, 0, 0, stream];
    bytes.append(&mut block);
    bytes.extend_from_slice(&[0, 0, 10, 0, 0, 0, 0, 0, stream]);
    bytes.extend_from_slice(b"\0\0\0\0\x05\x0a\x03\x0a\x01a");
    bytes
}

struct Client(TcpStream);

impl Client {
    fn connect(ports: Ports) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", ports.client)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout is not zero");
        let mut client = Client(stream);
        client.send(PREFACE);
        client
    }

    /// What is sent to a server that has hung up is lost, which is told by the next frame.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// The kind, the flags and the payload of the next frame; `None` at the end of the connection.
    fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).ok()?;
        let [high, middle, low, kind, flags, ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((kind, flags, payload))
    }

    /// Reads up to a frame of that kind; other frames are passed over, but not the last words.
    fn until(&mut self, wanted: u8) -> Result<Vec<u8>, String> {
        loop {
            match self.frame() {
                None => return Err("closed".to_owned()),
                Some((7, _, payload)) => return Err(format!("gone away: {}", payload.escape_ascii())),
                Some((kind, _, payload)) if kind == wanted => return Ok(payload),
                Some(_) => {}
            }
        }
    }

    /// Pings until the server has had enough; what each was answered.
    fn flood(&mut self, pause: Duration) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..PINGS {
            // The least time between pings is a time: there is nothing else to wait for.
            std::thread::sleep(pause);
            self.send(PING);
            match self.until(6) {
                Ok(payload) => answers.push(format!("acknowledged {}", payload.escape_ascii())),
                Err(end) => {
                    answers.push(end);
                    break;
                }
            }
        }
        if answers.len() < PINGS || answers.last().is_some_and(|last| !last.starts_with("ack")) {
            answers.push(self.until(6).expect_err("nothing is served after the last words"));
        }
        answers
    }
}

/// A flood without a stream, one with a stream, and pings as seldom as is allowed.
fn treated(side: Side, min_time: &str) -> [Vec<String>; 3] {
    let ports = Ports::free();
    let _cluster = Cluster::start(side, &[ports], &[format!("--grpc-keepalive-min-time={min_time}")]);
    let idle = Client::connect(ports).flood(Duration::ZERO);
    let streaming = |pause| {
        let mut client = Client::connect(ports);
        client.send(&watch(1));
        client.until(0).expect("the watcher is created");
        client.flood(pause)
    };
    [idle, streaming(Duration::ZERO), streaming(Duration::from_millis(15))]
}

#[test]
fn a_flood_of_pings_ends_the_connection_as_in_etcd() {
    for min_time in ["5s", "10ms"] {
        let [etcd, ours] = Side::BOTH.map(|side| treated(side, min_time));
        assert_eq!(etcd, ours, "--grpc-keepalive-min-time={min_time}");
        assert!(ours[0].iter().any(|answer| answer.contains("too_many_pings")), "{ours:?}");
        let patient = ours[2].len() == PINGS;
        assert_eq!(patient, min_time == "10ms", "{ours:?}");
    }
}
