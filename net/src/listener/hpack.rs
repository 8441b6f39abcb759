//! Header compression (RFC 7541) as far as a rewriter needs it: a full decoder, and an encoder of plain
//! literals.
//!
//! It owns one direction's dynamic table and never assumes that its input is well formed: what it reads
//! comes from the network, and a panic would end the process.
//!
//! Invariant: the encoder never refers to or adds to a dynamic table, so its reader's stays empty.

use std::collections::VecDeque;

use bytes::Bytes;

/// SETTINGS_HEADER_TABLE_SIZE where nobody sets it, as this server does not.
const TABLE_BYTES_MAX: usize = 4096;
/// What an entry of the table counts for besides its bytes (section 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// The first bits of a literal that is not indexed, and of one that must never be.
const LITERAL: u8 = 0x00;
const NEVER_INDEXED: u8 = 0x10;

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Bytes,
    pub(super) value: Bytes,
    /// The sender asked that no table ever holds it.
    pub(super) sensitive: bool,
}

/// Why a header block cannot be decoded; all of them end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the header block ends within a field")]
    Truncated,
    #[error("an integer is too large")]
    Integer,
    #[error("no header has this index")]
    Index,
    #[error("the table size update is misplaced or above the setting")]
    TableSize,
    #[error("a string is not a Huffman code")]
    Huffman,
    #[error("the decoded headers are too large")]
    TooLarge,
}

/// The reader of one connection's header blocks, in order.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Newest first.
    table: VecDeque<(Bytes, Bytes)>,
    table_bytes: usize,
    table_bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), table_bytes: 0, table_bytes_max: TABLE_BYTES_MAX }
    }
}

impl Decoder {
    /// Decodes one whole block whose fields may count for at most `bytes_max`: a few bytes can name a
    /// table entry of kilobytes again and again.
    pub(super) fn decode(&mut self, block: &[u8], bytes_max: usize) -> Result<Vec<Field>, DecodeError> {
        let mut input = Input { rest: block };
        let mut fields = Vec::new();
        let mut bytes = 0;
        while let Some(first) = input.rest.first().copied() {
            let field = if first & 0x80 != 0 {
                let (name, value) = self.entry(input.integer(7)?)?;
                Field { name, value, sensitive: false }
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut input, 6, false)?;
                self.insert(field.name.clone(), field.value.clone());
                field
            } else if first & 0x20 != 0 {
                let size = input.integer(5)?;
                if size > TABLE_BYTES_MAX || !fields.is_empty() {
                    return Err(DecodeError::TableSize);
                }
                self.table_bytes_max = size;
                self.evict();
                continue;
            } else {
                self.literal(&mut input, 4, first & NEVER_INDEXED != 0)?
            };
            bytes += field.name.len() + field.value.len() + ENTRY_OVERHEAD;
            if bytes > bytes_max {
                return Err(DecodeError::TooLarge);
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, input: &mut Input<'_>, prefix: u32, sensitive: bool) -> Result<Field, DecodeError> {
        let name = match input.integer(prefix)? {
            0 => input.string()?,
            index => self.entry(index)?.0,
        };
        Ok(Field { name, value: input.string()?, sensitive })
    }

    fn entry(&self, index: usize) -> Result<(Bytes, Bytes), DecodeError> {
        let index = index.checked_sub(1).ok_or(DecodeError::Index)?;
        if let Some((name, value)) = STATIC_TABLE.get(index) {
            return Ok((Bytes::from_static(name.as_bytes()), Bytes::from_static(value.as_bytes())));
        }
        self.table.get(index - STATIC_TABLE.len()).cloned().ok_or(DecodeError::Index)
    }

    fn insert(&mut self, name: Bytes, value: Bytes) {
        // An entry above the limit empties the table, itself included (section 4.4).
        self.table_bytes += name.len() + value.len() + ENTRY_OVERHEAD;
        self.table.push_front((name, value));
        self.evict();
    }

    fn evict(&mut self) {
        while self.table_bytes > self.table_bytes_max {
            let (name, value) = self.table.pop_back().expect("a table without entries counts for 0");
            self.table_bytes -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }
}

struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    /// An integer in the low `prefix` bits and, when they are all set, the bytes that follow.
    fn integer(&mut self, prefix: u32) -> Result<usize, DecodeError> {
        let mask = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        // Three more bytes reach 2 MiB, above everything that is accepted here.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Integer)
    }

    fn string(&mut self) -> Result<Bytes, DecodeError> {
        let huffman = self.rest.first().ok_or(DecodeError::Truncated)? & 0x80 != 0;
        let length = self.integer(7)?;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        if huffman { huffman_decode(string) } else { Ok(Bytes::copy_from_slice(string)) }
    }
}

/// Appends `field` as a literal that touches no table.
pub(super) fn encode(field: &Field, block: &mut Vec<u8>) {
    block.push(if field.sensitive { NEVER_INDEXED } else { LITERAL });
    for string in [&field.name, &field.value] {
        encode_length(string.len(), block);
        block.extend_from_slice(string);
    }
}

fn encode_length(length: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        block.push(length as u8);
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// The longest code of [`CODE_BITS`].
const CODE_BITS_MAX: usize = 30;
/// The symbol that no string may contain.
const END_OF_STRING: usize = 256;

/// The length of each symbol's code (appendix B). The code is canonical, so the lengths are all of it.
const CODE_BITS: [u8; END_OF_STRING + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, //
    6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, //
    6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, //
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23,
    22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22,
    23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22,
    25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// How many codes have each length, and the symbols in the order of their codes.
const CODES: ([u32; CODE_BITS_MAX + 1], [u16; END_OF_STRING + 1]) = {
    let mut counts = [0; CODE_BITS_MAX + 1];
    let mut symbols = [0; END_OF_STRING + 1];
    let (mut bits, mut placed) = (1, 0);
    while bits <= CODE_BITS_MAX {
        let mut symbol = 0;
        while symbol <= END_OF_STRING {
            if CODE_BITS[symbol] as usize == bits {
                counts[bits] += 1;
                symbols[placed] = symbol as u16;
                placed += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    (counts, symbols)
};

fn huffman_decode(string: &[u8]) -> Result<Bytes, DecodeError> {
    static COUNTS: [u32; CODE_BITS_MAX + 1] = CODES.0;
    static SYMBOLS: [u16; END_OF_STRING + 1] = CODES.1;
    let mut decoded = Vec::with_capacity(string.len() * 8 / 5);
    // `code` is what was read of a symbol, `first` the lowest code of its length, and `index` where the
    // symbols of that length start. No shorter code matched, so `code >= first`.
    let (mut bits, mut code, mut first, mut index) = (0, 0_u32, 0_u32, 0_u32);
    for bit in string.iter().flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1)) {
        bits += 1;
        code = (code << 1) | u32::from(bit);
        first <<= 1;
        let count = *COUNTS.get(bits).ok_or(DecodeError::Huffman)?;
        if code < first + count {
            let symbol = SYMBOLS.get((index + code - first) as usize).ok_or(DecodeError::Huffman)?;
            // Only the mark of the end, which may not be written, is no byte.
            decoded.push(u8::try_from(*symbol).map_err(|_| DecodeError::Huffman)?);
            (bits, code, first, index) = (0, 0, 0, 0);
        } else {
            first += count;
            index += count;
        }
    }
    // The last byte is filled up with ones, the start of the mark of the end (section 5.2).
    if bits > 7 || code + 1 != 1 << bits {
        return Err(DecodeError::Huffman);
    }
    Ok(decoded.into())
}

/// Appendix A; the first entry has the index 1.
#[rustfmt::skip]
static STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""),
    ("cache-control", ""), ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""),
    ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn decode(decoder: &mut Decoder, hex: &str) -> Result<String, DecodeError> {
        let fields = decoder.decode(&bytes(hex), 4096)?;
        let line = |field: &Field| {
            let (name, value) = (String::from_utf8_lossy(&field.name), String::from_utf8_lossy(&field.value));
            format!("{name}={value}{}", if field.sensitive { "!" } else { "" })
        };
        Ok(fields.iter().map(line).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn requests_on_one_connection_use_the_table() {
        // Appendix C.4.
        let mut decoder = Decoder::default();
        let start = ":method=GET :scheme=http :path=/ :authority=www.example.com";
        let first = decode(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff").unwrap();
        assert_eq!(first, start);
        let second = decode(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf").unwrap();
        assert_eq!(second, format!("{start} cache-control=no-cache"));
        let third =
            decode(&mut decoder, "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf").unwrap();
        assert_eq!(
            third,
            ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value"
        );
        assert_eq!((decoder.table.len(), decoder.table_bytes), (3, 164));
    }

    #[test]
    fn a_smaller_table_evicts() {
        // Appendix C.6, whose table of 256 bytes is here set by an update at the start of the block.
        let mut decoder = Decoder::default();
        let first = "3fe1 0148 8264 0258 85ae c377 1a4b 6196 d07a be94 1054 d444 a820 0595 040b 8166 e082 \
                     a62d 1bff 6e91 9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3";
        let expected = ":status=302 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT \
                        location=https://www.example.com";
        assert_eq!(decode(&mut decoder, first).unwrap(), expected);
        assert_eq!((decoder.table.len(), decoder.table_bytes), (4, 222));
        let second = decode(&mut decoder, "4883 640e ffc1 c0bf").unwrap();
        assert_eq!(second, expected.replace("302", "307"));
        assert_eq!((decoder.table.len(), decoder.table_bytes), (4, 222));
        assert_eq!(decode(&mut decoder, "20 82").unwrap(), ":method=GET");
        assert_eq!((decoder.table.len(), decoder.table_bytes), (0, 0));
    }

    #[test]
    fn every_byte_has_a_code() {
        // Kraft's sum is 1 when no code is missing and none is the start of another.
        let sum: u64 = CODE_BITS.iter().map(|bits| 1 << (CODE_BITS_MAX - usize::from(*bits))).sum();
        assert_eq!(sum, 1 << CODE_BITS_MAX);
        for (symbol, width) in CODE_BITS.into_iter().map(usize::from).enumerate() {
            let at = CODES.1.iter().position(|placed| usize::from(*placed) == symbol).unwrap();
            let before = &CODES.1[..at];
            // The code is the space that the codes before it take, in units of its own length.
            let units =
                |placed: &u16| 1_u64 << (CODE_BITS_MAX - usize::from(CODE_BITS[usize::from(*placed)]));
            let code = before.iter().map(units).sum::<u64>() >> (CODE_BITS_MAX - width);
            let padded = (code << (40 - width)) | ((1 << (40 - width)) - 1);
            let string = &padded.to_be_bytes()[3..3 + width.div_ceil(8)];
            let decoded = huffman_decode(string);
            match u8::try_from(symbol) {
                Ok(byte) => assert_eq!(decoded.unwrap(), vec![byte]),
                Err(_) => assert_eq!(decoded, Err(DecodeError::Huffman)),
            }
        }
    }

    #[test]
    fn literals_keep_what_is_sensitive() {
        let fields =
            [("a", "".to_owned(), true), ("b", "x".repeat(127), false), ("c", "y".repeat(70_000), true)];
        let fields = fields.map(|(name, value, sensitive)| Field {
            name: name.into(),
            value: value.into(),
            sensitive,
        });
        let mut block = Vec::new();
        fields.iter().for_each(|field| encode(field, &mut block));
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(&block, 1 << 20).unwrap(), fields);
        assert!(decoder.table.is_empty());
        for end in 0..300 {
            // Every start of it is either whole fields or an error.
            let decoded = decoder.decode(&block[..end], 1 << 20);
            let whole = [0, 4, 136].contains(&end);
            assert_eq!(decoded.is_ok(), whole, "{end}: {decoded:?}");
        }
    }

    #[test]
    fn bad_blocks_are_errors() {
        for (hex, error) in [
            ("80", DecodeError::Index),
            ("be", DecodeError::Index),
            ("ff", DecodeError::Truncated),
            ("ff ffff ff00", DecodeError::Integer),
            ("41", DecodeError::Truncated),
            ("41 05 61", DecodeError::Truncated),
            ("3f e2 1f", DecodeError::TableSize),
            ("82 20", DecodeError::TableSize),
            ("41 81 00", DecodeError::Huffman),
            ("41 82 ffff", DecodeError::Huffman),
        ] {
            assert_eq!(decode(&mut Decoder::default(), hex), Err(error), "{hex}");
        }
        let bomb: Vec<u8> = [&b"\x40\x01a\x7f\x81\x17"[..], &[b'x'; 3072], &[0xbe; 100]].concat();
        assert_eq!(Decoder::default().decode(&bomb, 64 << 10), Err(DecodeError::TooLarge));
    }

    #[test]
    fn no_block_makes_it_panic() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut decoder = Decoder::default();
        let mut decoded = 0;
        for _ in 0..20_000 {
            let block: Vec<u8> = (0..random % 24)
                .map(|_| {
                    // xorshift64
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random as u8
                })
                .collect();
            random = random.wrapping_add(1);
            decoded += usize::from(decoder.decode(&block, 4096).is_ok_and(|fields| !fields.is_empty()));
            let counted = decoder.table.iter().map(|(name, value)| name.len() + value.len() + ENTRY_OVERHEAD);
            assert_eq!(counted.sum::<usize>(), decoder.table_bytes);
            assert!(decoder.table_bytes <= decoder.table_bytes_max);
        }
        assert!(decoded > 100, "{decoded}");
    }
}
