//! etcd's snapshot file: a bbolt database, read and written as bytes.
//!
//! `etcdctl snapshot save` receives exactly such a file from a member, and `snapshot restore` and
//! `snapshot status` expect one, so this format is API although Cairn stores nothing in it. It is a
//! pure codec: [`write`] turns sorted rows into pages, [`read`] turns pages into sorted rows, [`rows`]
//! knows what etcd 3.4 keeps in which bucket.
//!
//! The file: pages of equal size, all integers little-endian. A page starts with its id (8 bytes), flags
//! (2), count of elements (2) and the number of pages that follow it as its overflow (4). Pages 0 and 1
//! are the meta pages; the one with the higher transaction id and a right checksum names the root
//! bucket's page. A bucket is a B+ tree of branch and leaf pages; the root bucket's values are the
//! headers of the named buckets.
//!
//! Invariant: neither direction ever holds more than one page of each level of a tree.

pub mod read;
pub mod rows;
pub mod write;

#[cfg(test)]
mod tests;

/// The size of the pages that [`write`] makes.
pub const PAGE_SIZE: usize = 4096;

/// The bytes before a page's elements.
const PAGE_HEADER: usize = 16;
/// The bytes of one element of a branch or leaf page, without its key and value.
const ELEMENT: usize = 16;
/// The bytes of a bucket's header: the root page (0 when the bucket is inline) and a sequence.
const BUCKET_HEADER: usize = 16;
/// The bytes of a meta page's body that its checksum covers, and with the checksum.
const META_SUMMED: usize = 56;
const META: usize = META_SUMMED + 8;

const FLAG_BRANCH: u16 = 0x01;
const FLAG_LEAF: u16 = 0x02;
const FLAG_META: u16 = 0x04;
const FLAG_FREELIST: u16 = 0x10;
/// A leaf element's flag: its value is a bucket's header.
const FLAG_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// Whether a file of this length carries the SHA-256 that `etcdctl snapshot save` puts behind the
/// database: 32 bytes more than whole pages.
pub fn has_checksum(len: u64) -> bool {
    len % 512 == 32
}

/// FNV-1a with 64 bits, the checksum of meta pages.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
