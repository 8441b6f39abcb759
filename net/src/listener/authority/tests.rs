//! Whole connections through the rewriter, cut everywhere; blocks with tables, padding and continuations.

use tokio::io::AsyncReadExt;

use super::*;

/// The name and value of a field.
type Pair = (&'static str, String);

const WRONG: &str = "http://127.0.0.1:2379";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame { length: payload.len(), kind, flags, stream: stream.into() }.write(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A field that the sender's table keeps, its name a literal.
fn indexed(name: &str, value: &str) -> Vec<u8> {
    let field = Field { name: name.to_owned().into(), value: value.to_owned().into(), sensitive: false };
    let mut bytes = Vec::new();
    hpack::encode(&field, &mut bytes);
    bytes[0] = 0x40;
    bytes
}

/// A first request, whose authority and agent enter the table as 63 and 62.
fn first_block(authority: &str) -> Vec<u8> {
    [&[0x83, 0x86][..], &indexed(":authority", authority), &indexed("user-agent", "grpc-go/1.29")].concat()
}

fn first_fields(authority: &str) -> Vec<Pair> {
    let start =
        [(":method", "POST"), (":scheme", "http"), (":authority", authority), ("user-agent", "grpc-go/1.29")];
    start.map(|(name, value)| (name, value.to_owned())).to_vec()
}

/// A connection in which each part is a whole frame, behind the preface and the settings.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, SETTINGS, &frames.concat()].concat()
}

/// What h2 reads when the socket gives `step` bytes at a time.
async fn through(bytes: &[u8], step: usize) -> io::Result<Vec<u8>> {
    let (mut client, server) = tokio::io::duplex(step);
    let bytes = bytes.to_vec();
    let send = tokio::spawn(async move {
        // The reader may give up, which is an error here and seen there.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await;
    });
    let mut read = Vec::new();
    let result = Repaired::new(server, true).read_to_end(&mut read).await;
    send.await.unwrap();
    result.map(|_| read)
}

async fn rewritten(frames: &[Vec<u8>]) -> Vec<u8> {
    let bytes = connection(frames);
    let whole = through(&bytes, 1 << 20).await.unwrap();
    for step in [1, 2, 7, 1000] {
        assert_eq!(through(&bytes, step).await.unwrap(), whole, "{step} bytes at a time");
    }
    let rest = whole.strip_prefix(PREFACE).and_then(|rest| rest.strip_prefix(SETTINGS));
    rest.expect("the preface and the settings pass").to_vec()
}

/// The frames of `bytes`: kind, flags, stream and payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(Frame { length, kind, flags, stream }) = Frame::read(bytes) {
        let (whole, rest) = bytes.split_at(frame::HEADER + length);
        frames.push((kind, flags, stream as u8, whole[frame::HEADER..].to_vec()));
        bytes = rest;
    }
    assert_eq!(bytes, b"");
    frames
}

/// The fields of a block for a reader whose table is empty.
fn fields(block: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let fields = hpack::Decoder::default().decode(block, 1 << 20).unwrap();
    fields.iter().map(|field| (text(&field.name), text(&field.value))).collect()
}

fn assert_fields(block: &[u8], expected: &[Pair]) {
    let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    assert_eq!(fields(block), expected);
}

#[test]
fn authorities_are_repaired() {
    for right in ["localhost", "127.0.0.1:2379", "[::1]:2379", "user@host:1"] {
        assert_eq!(repair(right.as_bytes()), None, "{right}");
    }
    for (wrong, repaired) in [
        (WRONG, "127.0.0.1:2379"),
        ("https://etcd.example:1/", "etcd.example:1"),
        ("http://[::1]:2379/a/b?c#d", "[::1]:2379"),
        ("host:1/path", "host:1"),
        ("unix:///tmp/etcd.sock", UNKNOWN),
        ("http://", UNKNOWN),
        ("http://a b", UNKNOWN),
        ("", UNKNOWN),
    ] {
        assert_eq!(repair(wrong.as_bytes()).unwrap(), repaired, "{wrong}");
    }
    assert_eq!(repair(b"http://\xff").unwrap(), UNKNOWN);
}

#[tokio::test]
async fn many_requests_share_the_clients_table() {
    let mut sent = vec![frame(HEADERS, END_HEADERS, 1, &first_block(WRONG)), frame(0, END_STREAM, 1, b"ab")];
    for stream in [3, 5, 7, 9] {
        // The table's first entries move back by one with each request.
        let age = (stream - 3) / 2;
        let block = [&[0x83, 0x86, 0xbf + age, 0xbe + age][..], &indexed("x", &stream.to_string())].concat();
        sent.push(frame(HEADERS, END_HEADERS, stream, &block));
        sent.push(frame(0x8, 0, stream, &[0, 0, 0, 1]));
        sent.push(frame(0, 0, stream, &[b'z'; 20_000]));
        sent.push(frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0xbe]));
    }
    let read = frames(&rewritten(&sent).await);
    assert_eq!(read.len(), sent.len());
    assert_eq!((read[0].0, read[0].1, read[0].2), (HEADERS, END_HEADERS, 1));
    let repaired = first_fields("127.0.0.1:2379");
    assert_fields(&read[0].3, &repaired);
    for (at, stream) in [(2, 3), (6, 5), (10, 7), (14, 9)] {
        let own = ("x", stream.to_string());
        assert_eq!((read[at].0, read[at].1, read[at].2), (HEADERS, END_HEADERS, stream));
        assert_fields(&read[at].3, &[&repaired[..], std::slice::from_ref(&own)].concat());
        assert_eq!(read[at + 2], (0, 0, stream, vec![b'z'; 20_000]));
        assert_eq!((read[at + 3].1, read[at + 3].2), (END_HEADERS | END_STREAM, stream));
        assert_fields(&read[at + 3].3, &[own]);
    }
}

#[tokio::test]
async fn what_the_clients_send_today_is_read() {
    // As captured from etcdctl 3.4.23 with `--endpoints=http://127.0.0.1:41399 endpoint status`.
    let hex = "8386459760a924882d9dcb6571afa066a925a87510ac6e48d36a3f41909d29aee30c044eae05c0b86e34165f7f\
               5f8b1d75d0620d263d4c4d65647a8b9acac8b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f\
               6a7f8613ef80007adf408d25062d495875996ee5b1063d5f03332e34";
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let block: Vec<u8> = digits.chunks(2).map(byte).collect();
    let read = frames(&rewritten(&[frame(HEADERS, END_HEADERS, 1, &block)]).await);
    let fields = fields(&read[0].3);
    assert_eq!(fields[2], (":path".to_owned(), "/etcdserverpb.Maintenance/Status".to_owned()));
    assert_eq!(fields[3], (":authority".to_owned(), "127.0.0.1:41399".to_owned()));
    assert_eq!(fields.last().unwrap(), &("client-api-version".to_owned(), "3.4".to_owned()));
}

#[tokio::test]
async fn right_connections_pass_untouched() {
    for block in [first_block("127.0.0.1:2379"), vec![0x83, 0x86]] {
        // Behind the first block nothing is looked at.
        let sent = [
            frame(HEADERS, END_HEADERS, 1, &block),
            frame(HEADERS, END_HEADERS, 3, b"\xff"),
            vec![7; 70_000],
        ];
        assert_eq!(rewritten(&sent).await, sent.concat());
    }
    // Nor does a connection that h2 will refuse change on its way.
    for bad in [
        frame(HEADERS, END_HEADERS, 1, b"\xff"),
        frame(HEADERS, END_HEADERS | PADDED, 1, b""),
        frame(HEADERS, END_HEADERS | PADDED, 1, &[2, 0]),
        frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4]),
        [frame(HEADERS, 0, 1, b"\x83"), frame(0, 0, 1, b"")].concat(),
        [frame(HEADERS, 0, 1, b"\x83"), frame(CONTINUATION, END_HEADERS, 3, b"")].concat(),
        frame(HEADERS, END_HEADERS, 1, &vec![0; BLOCK_BYTES_MAX]),
        frame(CONTINUATION, END_HEADERS, 1, b"\x83"),
    ] {
        assert_eq!(rewritten(std::slice::from_ref(&bad)).await, bad);
    }
    // HTTP/1.1 is not looked at at all.
    let (mut client, server) = tokio::io::duplex(100);
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(client);
    let mut read = String::new();
    Repaired::new(server, false).read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn blocks_in_several_frames_become_whole() {
    let block = first_block(WRONG);
    let mut padded = vec![3, 0, 0, 0, 0, 16];
    padded.extend_from_slice(&block[..10]);
    padded.extend_from_slice(&[0; 3]);
    let sent = [
        frame(HEADERS, END_STREAM | PADDED | PRIORITY, 1, &padded),
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, 0, 1, &block[10..11]),
        frame(CONTINUATION, END_HEADERS, 1, &block[11..]),
        frame(0x6, 0, 0, &[9; 8]),
    ];
    let read = frames(&rewritten(&sent).await);
    assert_eq!((read[0].0, read[0].1, read[0].2), (HEADERS, END_STREAM | END_HEADERS, 1));
    assert_fields(&read[0].3, &first_fields("127.0.0.1:2379"));
    assert_eq!(read[1..], [(0x6, 0, 0, vec![9; 8])]);
}

#[tokio::test]
async fn large_blocks_are_split() {
    let large = "v".repeat(40_000);
    let block = [first_block(WRONG), indexed("large", &large)].concat();
    let read = frames(&rewritten(&[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)]).await);
    let shape: Vec<_> = read.iter().map(|(kind, flags, stream, _)| (*kind, *flags, *stream)).collect();
    assert_eq!(shape, [(HEADERS, END_STREAM, 1), (CONTINUATION, 0, 1), (CONTINUATION, END_HEADERS, 1)]);
    assert!(read.iter().all(|(.., payload)| payload.len() <= FRAME_BYTES_MAX));
    let block: Vec<u8> = read.into_iter().flat_map(|(.., payload)| payload).collect();
    let mut expected = first_fields("127.0.0.1:2379");
    expected.push(("large", large));
    assert_fields(&block, &expected);
}

#[tokio::test]
async fn a_rewritten_connection_ends_with_an_error() {
    let first = frame(HEADERS, END_HEADERS, 1, &first_block(WRONG));
    let empty = frame(CONTINUATION, 0, 3, b"");
    for (bad, error) in [
        (frame(HEADERS, END_HEADERS, 3, b"\xff"), RewriteError::Decode(DecodeError::Truncated)),
        (frame(HEADERS, END_HEADERS | PADDED, 3, &[9]), RewriteError::Padding),
        ([frame(HEADERS, 0, 3, b"\x83"), frame(0, 0, 3, b"")].concat(), RewriteError::Interrupted),
        (frame(HEADERS, 0, 3, &vec![0; BLOCK_BYTES_MAX]), RewriteError::TooLarge),
        (
            [frame(HEADERS, 0, 3, b""), empty.repeat(BLOCK_BYTES_MAX / frame::HEADER)].concat(),
            RewriteError::TooLarge,
        ),
    ] {
        let bytes = connection(&[first.clone(), bad]);
        for step in [1, 1 << 20] {
            let failed = through(&bytes, step).await.unwrap_err();
            assert_eq!((failed.kind(), failed.to_string()), (io::ErrorKind::InvalidData, error.to_string()));
        }
    }
}
