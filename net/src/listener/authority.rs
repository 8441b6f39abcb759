//! Repairs what clients wrongly send as `:authority`, before the HTTP/2 implementation sees it.
//!
//! For commands that address one endpoint (`endpoint status`, `snapshot save`), Debian's etcdctl 3.4.23
//! sends the endpoint as it was given, `http://host:port`, as the authority. A Go server takes it; h2
//! resets the stream. So the client's bytes pass through here: the first request of a connection decides
//! whether they pass untouched from then on or each header block is decoded and written anew.
//!
//! It never changes what is not a header block, nor their order, and judges nothing: frames that break
//! the protocol are left for h2 to answer as long as nothing was rewritten.
//!
//! Invariant: once one block is rewritten all are, so h2's table stays empty and ours is the client's.

#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{self, END_STREAM, Frame, HEADERS};
use super::hpack::{self, DecodeError, Field};
use super::prefix::PREFACE;

/// The most that one header block may take, with its frames' headers, and when decoded.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// The payload that every receiver accepts; no larger frame is written.
const FRAME_BYTES_MAX: usize = 16 << 10;
const READ_BYTES: usize = 8 << 10;

const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Stands for an authority of which nothing can be kept.
const UNKNOWN: &str = "localhost";

/// Why a connection on which headers are rewritten cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum RewriteError {
    #[error("a header block takes more than {BLOCK_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a header block is interrupted by another frame")]
    Interrupted,
    #[error("padding or priority is larger than its frame")]
    Padding,
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// `authority` as it should have been sent; `None` when it was.
fn repair(authority: &[u8]) -> Option<Bytes> {
    if Authority::try_from(authority).is_ok() {
        return None;
    }
    let text = std::str::from_utf8(authority).unwrap_or_default();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split(['/', '?', '#']).next().unwrap_or_default();
    let repaired = if Authority::try_from(text).is_ok() { text } else { UNKNOWN };
    Some(Bytes::copy_from_slice(repaired.as_bytes()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// No header block was seen.
    Undecided,
    Passing,
    Rewriting,
}

#[derive(Debug)]
enum At {
    /// Within the preface or a frame that passes; so many bytes are left.
    Opaque(usize),
    /// Within a frame's header, which starts here in `held`.
    FrameHeader(usize),
    /// Within a frame of a header block, which ends here in `held`.
    BlockFrame(Frame, usize),
}

/// The client's bytes in, h2's bytes out; knows nothing of sockets.
#[derive(Debug)]
struct Rewriter {
    mode: Mode,
    at: At,
    decoder: hpack::Decoder,
    /// The unfinished frame header, or the frames of the unfinished block as they came.
    held: Vec<u8>,
    /// The stream whose block is in `held`.
    stream: Option<u32>,
}

impl Rewriter {
    fn new() -> Self {
        Self {
            mode: Mode::Undecided,
            at: At::Opaque(PREFACE.len()),
            decoder: hpack::Decoder::default(),
            held: Vec::new(),
            stream: None,
        }
    }

    /// Takes some of `input` and appends to `output`. Returns how much was taken: all of it, or less after
    /// a rewritten block, which bounds `output`.
    fn take(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, RewriteError> {
        let mut rest = input;
        let mut written = false;
        while !rest.is_empty() && !written {
            if self.mode == Mode::Passing {
                output.extend_from_slice(rest);
                return Ok(input.len());
            }
            match self.step(&mut rest, output) {
                Ok(block) => written = block,
                Err(_) if self.mode == Mode::Undecided => self.pass(output),
                Err(error) => return Err(error),
            }
        }
        Ok(input.len() - rest.len())
    }

    fn pass(&mut self, output: &mut Vec<u8>) {
        output.append(&mut self.held);
        self.mode = Mode::Passing;
    }

    /// Goes on to the end of `rest` or of the present part of a frame; whether it wrote a header block.
    fn step(&mut self, rest: &mut &[u8], output: &mut Vec<u8>) -> Result<bool, RewriteError> {
        match self.at {
            At::Opaque(left) => {
                let count = left.min(rest.len());
                output.extend_from_slice(split(rest, count));
                self.at = if count == left { At::FrameHeader(0) } else { At::Opaque(left - count) };
            }
            At::FrameHeader(start) => {
                let count = (start + frame::HEADER - self.held.len()).min(rest.len());
                self.held.extend_from_slice(split(rest, count));
                if self.held.len() == start + frame::HEADER {
                    return self.frame(start, output);
                }
            }
            At::BlockFrame(frame, end) => {
                let count = (end - self.held.len()).min(rest.len());
                self.held.extend_from_slice(split(rest, count));
                if self.held.len() == end {
                    return self.block_frame(frame, output);
                }
            }
        }
        Ok(false)
    }

    /// A frame's header is complete, at `start` of `held`.
    fn frame(&mut self, start: usize, output: &mut Vec<u8>) -> Result<bool, RewriteError> {
        let frame = Frame::read(&self.held[start..]).expect("the caller saw a whole frame header");
        match self.stream {
            Some(stream) if frame.kind != CONTINUATION || frame.stream != stream => {
                return Err(RewriteError::Interrupted);
            }
            None if frame.kind != HEADERS => {
                output.append(&mut self.held);
                self.at = At::Opaque(frame.length);
                return Ok(false);
            }
            _ => self.stream = Some(frame.stream),
        }
        let end = start + frame::HEADER + frame.length;
        // Frames' headers count too, so that empty frames without end are not read either.
        if end > BLOCK_BYTES_MAX {
            return Err(RewriteError::TooLarge);
        }
        self.at = At::BlockFrame(frame, end);
        // A frame without payload is complete already.
        if frame.length == 0 { self.block_frame(frame, output) } else { Ok(false) }
    }

    /// `held` ends with the whole of `last`, a frame of a block.
    fn block_frame(&mut self, last: Frame, output: &mut Vec<u8>) -> Result<bool, RewriteError> {
        if last.flags & END_HEADERS == 0 {
            self.at = At::FrameHeader(self.held.len());
            return Ok(false);
        }
        self.at = At::FrameHeader(0);
        let mut block = Vec::with_capacity(self.held.len());
        let (mut frames, mut flags) = (self.held.as_slice(), 0);
        while let Some(frame) = Frame::read(frames) {
            let (whole, rest) = frames.split_at(frame::HEADER + frame.length);
            block.extend_from_slice(fragment(frame, &whole[frame::HEADER..])?);
            if frame.kind == HEADERS {
                flags = frame.flags;
            }
            frames = rest;
        }
        let mut fields = self.decoder.decode(&block, BLOCK_BYTES_MAX)?;
        let mut repaired = false;
        for field in fields.iter_mut().filter(|field| field.name == ":authority") {
            if let Some(authority) = repair(&field.value) {
                field.value = authority;
                repaired = true;
            }
        }
        if self.mode == Mode::Undecided && !repaired {
            self.pass(output);
            return Ok(false);
        }
        self.mode = Mode::Rewriting;
        self.held.clear();
        self.stream = None;
        write_block(&fields, flags & END_STREAM, last.stream, output);
        Ok(true)
    }
}

/// Cuts the first `count` bytes off `rest`.
fn split<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken
}

fn write_block(fields: &[Field], flags: u8, stream: u32, output: &mut Vec<u8>) {
    let mut block = Vec::new();
    fields.iter().for_each(|field| hpack::encode(field, &mut block));
    let (mut kind, mut flags, mut rest) = (HEADERS, flags, block.as_slice());
    loop {
        let length = rest.len().min(FRAME_BYTES_MAX);
        let fragment = split(&mut rest, length);
        if rest.is_empty() {
            flags |= END_HEADERS;
        }
        Frame { length: fragment.len(), kind, flags, stream }.write(output);
        output.extend_from_slice(fragment);
        if rest.is_empty() {
            return;
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

/// The part of the header block in the payload of `frame`.
fn fragment(frame: Frame, payload: &[u8]) -> Result<&[u8], RewriteError> {
    if frame.kind != HEADERS {
        return Ok(payload);
    }
    let (mut start, mut end) = (0, payload.len());
    if frame.flags & PADDED != 0 {
        let padding = usize::from(*payload.first().ok_or(RewriteError::Padding)?);
        start = 1;
        end = end.checked_sub(padding).ok_or(RewriteError::Padding)?;
    }
    if frame.flags & PRIORITY != 0 {
        start += 5;
    }
    payload.get(start..end).ok_or(RewriteError::Padding)
}

/// An HTTP/2 connection's server end, whose reader sees repaired authorities.
pub(super) struct Repaired<S> {
    stream: S,
    /// Gone once the bytes pass untouched.
    rewrite: Option<Box<Rewrite>>,
}

struct Rewrite {
    rewriter: Rewriter,
    /// Read and not yet taken by the rewriter.
    input: Vec<u8>,
    taken: usize,
    /// Written by the rewriter and not yet given to the reader.
    output: Vec<u8>,
    given: usize,
}

impl<S> Repaired<S> {
    /// Wraps a connection of which nothing was read, and that is left alone unless it is HTTP/2.
    pub(super) fn new(stream: S, is_http2: bool) -> Self {
        let rewrite = || {
            let (input, output) = (Vec::new(), Vec::new());
            Box::new(Rewrite { rewriter: Rewriter::new(), input, taken: 0, output, given: 0 })
        };
        Self { stream, rewrite: is_http2.then(rewrite) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Repaired<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while let Some(rewrite) = &mut this.rewrite {
            let ready = &rewrite.output[rewrite.given..];
            if !ready.is_empty() {
                let count = ready.len().min(buf.remaining());
                buf.put_slice(&ready[..count]);
                rewrite.given += count;
                return Poll::Ready(Ok(()));
            }
            rewrite.output.clear();
            rewrite.given = 0;
            if rewrite.taken == rewrite.input.len() {
                if rewrite.rewriter.mode == Mode::Passing {
                    this.rewrite = None;
                    break;
                }
                rewrite.input.resize(READ_BYTES, 0);
                rewrite.taken = READ_BYTES;
                let mut read = ReadBuf::new(&mut rewrite.input);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
                let count = read.filled().len();
                rewrite.input.truncate(count);
                rewrite.taken = 0;
                if count == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            let Rewrite { rewriter, input, taken, output, .. } = rewrite.as_mut();
            let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            *taken += rewriter.take(&input[*taken..], output).map_err(broken)?;
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Repaired<S> {
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
