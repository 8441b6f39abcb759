//! HTTP/2 frames as far as they must be told apart: their headers, and where they end.

/// The length of a frame's header.
pub(super) const HEADER: usize = 9;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Frame {
    /// `None` when `bytes` do not hold a whole frame header.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let &[high, middle, low, kind, flags, a, b, c, d] = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        // The first bit is reserved.
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([a & 0x7f, b, c, d]) })
    }

    pub(super) fn write(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&(self.length as u32).to_be_bytes()[1..]);
        output.extend_from_slice(&[self.kind, self.flags]);
        output.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// Follows the frames of one direction, however the bytes are cut.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; HEADER],
    have: usize,
    /// Bytes until the next frame's header.
    left: usize,
}

impl Frames {
    /// Frames begin behind so many other bytes.
    pub(super) fn after(left: usize) -> Self {
        Self { header: [0; HEADER], have: 0, left }
    }

    /// Whether all frames that began have ended.
    pub(super) fn is_between_frames(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Calls `each` for every frame whose header ends in `bytes`.
    pub(super) fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let count = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have < HEADER {
                return;
            }
            let frame = Frame::read(&self.header).expect("the header is complete");
            (self.have, self.left) = (0, frame.length);
            each(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let frame = |length, kind, stream| Frame { length, kind, flags: kind, stream };
        let frames = [
            frame(0, 4, 0),
            frame(8, PING, 0),
            frame(300, DATA, 1),
            frame(0, DATA, 0x7fff_ffff),
            frame(1, 9, 3),
        ];
        let mut bytes = b"preface".to_vec();
        for frame in &frames {
            frame.write(&mut bytes);
            bytes.resize(bytes.len() + frame.length, 0xff);
        }
        for cut in 1..bytes.len() {
            let (mut walker, mut found) = (Frames::after(7), Vec::new());
            for piece in bytes.chunks(cut) {
                walker.walk(piece, |frame| found.push(frame));
            }
            assert_eq!(found, frames, "pieces of {cut}");
            assert!(walker.is_between_frames());
        }
        let mut walker = Frames::after(0);
        walker.walk(b"\x80\0\0", |_| panic!("no frame is complete"));
        assert!(!walker.is_between_frames());
    }
}
