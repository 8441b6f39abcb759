//! Punishes clients that ping too often, as grpc-go's server does (A-GEN-08): a ping that comes too early
//! is a strike, and more than two strikes end the connection with GOAWAY, ENHANCE_YOUR_CALM.
//!
//! hyper's HTTP/2 server has no hook for it, so both directions of the connection pass through here and
//! their frames are followed by their headers; payloads are skipped by their length. Nothing is changed
//! or delayed, except that the punishment is written behind what HTTP/2 has written.
//!
//! Invariant: what the server sends between two pings wipes out the strikes, so a client that is served
//! is never punished for keeping its connection alive.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{self, Frame, Frames};
use super::prefix::PREFACE;

/// Strikes that are forgiven.
const STRIKES_MAX: u32 = 2;
/// How long a client without streams has to wait between two pings.
const MIN_TIME_WITHOUT_STREAMS: Duration = Duration::from_secs(2 * 60 * 60);

const ENHANCE_YOUR_CALM: u32 = 0xb;
const DEBUG_DATA: &[u8] = b"too_many_pings";

/// The rule, apart from sockets and clocks.
#[derive(Debug)]
struct Strikes {
    min_time: Duration,
    count: u32,
    /// The server has sent headers or data since the last ping.
    served: bool,
    last_ping: Option<Instant>,
    open: HashSet<u32>,
    last_stream: u32,
}

impl Strikes {
    fn new(min_time: Duration) -> Self {
        let open = HashSet::new();
        Self { min_time, count: 0, served: false, last_ping: None, open, last_stream: 0 }
    }

    /// A frame of the client; true if it is one ping too many.
    fn received(&mut self, frame: Frame, now: impl FnOnce() -> Instant) -> bool {
        match frame.kind {
            frame::PING if frame.flags & frame::ACK == 0 => return self.ping(now()),
            frame::HEADERS if frame.stream > self.last_stream => {
                self.last_stream = frame.stream;
                self.open.insert(frame.stream);
            }
            frame::RST_STREAM => {
                self.open.remove(&frame.stream);
            }
            _ => {}
        }
        false
    }

    /// A frame of the server.
    fn sent(&mut self, frame: Frame) {
        let serves = matches!(frame.kind, frame::HEADERS | frame::DATA);
        self.served |= serves;
        if frame.kind == frame::RST_STREAM || serves && frame.flags & frame::END_STREAM != 0 {
            self.open.remove(&frame.stream);
        }
    }

    fn ping(&mut self, now: Instant) -> bool {
        let last = self.last_ping.replace(now);
        if std::mem::take(&mut self.served) {
            self.count = 0;
            return false;
        }
        let min_time = if self.open.is_empty() { MIN_TIME_WITHOUT_STREAMS } else { self.min_time };
        self.count += u32::from(last.is_some_and(|last| now < last + min_time));
        self.count > STRIKES_MAX
    }

    fn goaway(&self) -> Vec<u8> {
        let mut payload = self.last_stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        payload.extend_from_slice(DEBUG_DATA);
        let header = Frame { length: payload.len(), kind: frame::GOAWAY, flags: 0, stream: 0 };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        bytes.append(&mut payload);
        bytes
    }
}

#[derive(Debug)]
struct Police {
    strikes: Strikes,
    received: Frames,
    sent: Frames,
    /// The punishment and how much of it is written, once it is due.
    goaway: Option<(Vec<u8>, usize)>,
}

impl Police {
    fn received(&mut self, bytes: &[u8]) {
        let (strikes, goaway) = (&mut self.strikes, &mut self.goaway);
        self.received.walk(bytes, |frame| {
            if strikes.received(frame, Instant::now) && goaway.is_none() {
                tracing::warn!("got too many pings from the client, closing the connection");
                *goaway = Some((strikes.goaway(), 0));
            }
        });
    }

    fn sent(&mut self, bytes: &[u8]) {
        let strikes = &mut self.strikes;
        self.sent.walk(bytes, |frame| strikes.sent(frame));
    }
}

/// The server's end of a connection whose client must not ping too often.
pub(super) struct Policed<S> {
    stream: S,
    police: Option<Box<Police>>,
}

impl<S> Policed<S> {
    /// Wraps a connection of which nothing was read. Without a `min_time` it is left alone.
    pub(super) fn new(stream: S, min_time: Option<Duration>) -> Self {
        let police = min_time.map(|min_time| {
            let (strikes, received) = (Strikes::new(min_time), Frames::after(PREFACE.len()));
            Box::new(Police { strikes, received, sent: Frames::after(0), goaway: None })
        });
        Self { stream, police }
    }
}

impl<S: AsyncWrite + Unpin> Policed<S> {
    /// Writes the punishment where it does not cut a frame, then ends the connection.
    fn poll_punish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(police) = &mut self.police else { return Poll::Ready(Ok(())) };
        if !police.sent.is_between_frames() {
            return Poll::Ready(Ok(()));
        }
        let Some((bytes, written)) = &mut police.goaway else { return Poll::Ready(Ok(())) };
        while *written < bytes.len() {
            *written += ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[*written..]))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client pinged too often")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Policed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(police) = &mut this.police {
            police.received(&buf.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Policed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        if let Some(police) = &mut this.police {
            police.sent(&bytes[..count]);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, parts))?;
        if let Some(police) = &mut this.police {
            let mut left = count;
            for part in parts {
                let written = left.min(part.len());
                police.sent(&part[..written]);
                left -= written;
            }
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// HTTP/2 flushes when it has written all that it has, the answer to the last ping too.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_punish(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Frame = Frame { length: 8, kind: frame::PING, flags: 0, stream: 0 };
    const MIN_TIME: Duration = Duration::from_secs(5);

    fn headers(stream: u32, flags: u8) -> Frame {
        Frame { length: 1, kind: frame::HEADERS, flags, stream }
    }

    /// How many pings, so far apart, until one is too many.
    fn pings_until_punished(strikes: &mut Strikes, apart: Duration) -> Option<u32> {
        let mut now = Instant::now();
        (1..=20).find(|_| {
            now += apart;
            strikes.received(PING, || now)
        })
    }

    #[test]
    fn the_fourth_early_ping_is_too_many() {
        let mut idle = Strikes::new(MIN_TIME);
        assert_eq!(pings_until_punished(&mut idle, Duration::from_secs(60)), Some(4), "without streams");
        let mut idle = Strikes::new(MIN_TIME);
        assert_eq!(pings_until_punished(&mut idle, MIN_TIME_WITHOUT_STREAMS), None);
        let mut busy = Strikes::new(MIN_TIME);
        busy.received(headers(1, frame::END_STREAM), Instant::now);
        assert_eq!(pings_until_punished(&mut busy, MIN_TIME), None, "a stream is open");
        let mut busy = Strikes::new(MIN_TIME);
        busy.received(headers(1, 0), Instant::now);
        assert_eq!(pings_until_punished(&mut busy, MIN_TIME - Duration::from_millis(1)), Some(4));
    }

    #[test]
    fn answers_and_acknowledgements_are_no_strikes() {
        let mut strikes = Strikes::new(MIN_TIME);
        let now = Instant::now();
        for stream in (1..40).step_by(2) {
            strikes.received(headers(stream, 0), || now);
            strikes.sent(headers(stream, frame::END_STREAM));
            assert!(!strikes.received(PING, || now), "a client that is served");
        }
        let acknowledged = Frame { flags: frame::ACK, ..PING };
        assert!((0..20).all(|_| !strikes.received(acknowledged, || now)));
        assert!(strikes.open.is_empty());
    }

    #[test]
    fn resets_of_either_side_close_a_stream() {
        let reset = |stream| Frame { length: 4, kind: frame::RST_STREAM, flags: 0, stream };
        let mut strikes = Strikes::new(MIN_TIME);
        for stream in [1, 3] {
            strikes.received(headers(stream, 0), Instant::now);
        }
        // Trailers of the client open nothing.
        strikes.received(headers(1, frame::END_STREAM), Instant::now);
        strikes.received(reset(1), Instant::now);
        strikes.sent(reset(3));
        strikes.sent(reset(3));
        assert!(strikes.open.is_empty());
        assert_eq!(pings_until_punished(&mut strikes, MIN_TIME), Some(4));
        assert_eq!(strikes.goaway(), b"\0\0\x16\x07\0\0\0\0\0\0\0\0\x03\0\0\0\x0btoo_many_pings");
    }
}
