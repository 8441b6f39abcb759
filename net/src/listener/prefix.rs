//! Reads a connection's first bytes until they tell HTTP/1.1 from HTTP/2, and gives them back.
//!
//! hyper makes the same choice but waits for it without limit; here the caller sets one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The start of every HTTP/2 connection with prior knowledge.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose first bytes were read ahead and are read again.
pub(super) struct Prefixed<S> {
    ahead: Vec<u8>,
    given: usize,
    stream: S,
}

/// Reads until the bytes differ from the HTTP/2 preface, or are all of it.
pub(super) async fn read<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Prefixed<S>> {
    let mut ahead = Vec::with_capacity(PREFACE.len());
    while PREFACE.starts_with(&ahead) && ahead.len() < PREFACE.len() {
        let mut bytes = [0; PREFACE.len()];
        let room = PREFACE.len() - ahead.len();
        match stream.read(&mut bytes[..room]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => ahead.extend_from_slice(&bytes[..count]),
        }
    }
    Ok(Prefixed { ahead, given: 0, stream })
}

impl<S> Prefixed<S> {
    /// Whether the first bytes were HTTP/2's.
    pub(super) fn is_http2(&self) -> bool {
        self.ahead == PREFACE
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.ahead[this.given..];
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
