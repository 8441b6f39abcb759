//! Writes a bbolt file from sorted rows, front to back, in bounded memory.
//!
//! The meta pages come first but name the root and the number of pages, so the rows are gone through
//! twice: [`Plan::new`] lays out the pages without keeping them, [`Plan::write`] lays them out again
//! and emits them. A page is emitted when it is full, children before parents, so the ids of a branch's
//! children are known when it is emitted and ids run in file order.
//!
//! Invariants: both passes come to the same layout or the second fails; every page is reachable (bbolt's
//! own check insists); a branch page has at least two children (bbolt's rebalancing insists).

use super::{
    BUCKET_HEADER, ELEMENT, FLAG_BRANCH, FLAG_BUCKET, FLAG_FREELIST, FLAG_LEAF, FLAG_META, MAGIC, META,
    META_SUMMED, PAGE_HEADER, PAGE_SIZE, VERSION, fnv1a,
};

/// bbolt's limits on one row.
const KEY_BYTES_MAX: usize = 32_768;
const VALUE_BYTES_MAX: usize = (1 << 31) - 2;

/// The first page after the two meta pages and the empty freelist.
const FREELIST_PAGE: u64 = 2;
const FIRST_PAGE: u64 = 3;

/// Why a file could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The rows could not be read; the text is the source's.
    #[error("reading the rows: {0}")]
    Source(String),
    /// The bytes were not taken; the text is the sink's.
    #[error("writing the file: {0}")]
    Sink(String),
    /// Rows, or buckets, are not in strictly ascending order.
    #[error("key {key:02x?} of bucket {bucket:?} is not above the one before it")]
    Order {
        /// The bucket; empty for the list of buckets itself.
        bucket: String,
        /// The key that came too late.
        key: Vec<u8>,
    },
    /// A key or a value that bbolt cannot hold.
    #[error("a row of bucket {bucket:?} has a key of {key} and a value of {value} bytes")]
    RowSize {
        /// The bucket.
        bucket: String,
        /// The length of the key.
        key: usize,
        /// The length of the value.
        value: usize,
    },
    /// The source gave other rows the second time.
    #[error("the rows changed between the two passes")]
    Changed,
}

/// Takes one row; an error must be handed on at once.
pub type EachRow<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), WriteError> + 'a;
/// Takes the next bytes of the file.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), WriteError> + 'a;

/// Where the rows of a file come from: typically an immutable view of the store.
pub trait Rows {
    /// Hands every row of the bucket to `each`, keys strictly ascending; the same rows at every call.
    ///
    /// # Errors
    /// What `each` returned, or [`WriteError::Source`].
    fn for_each(&self, bucket: &str, each: &mut EachRow<'_>) -> Result<(), WriteError>;
}

/// The layout of a file that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    root: u64,
    pages: u64,
}

impl Plan {
    /// The first pass: lays out the buckets, whose names must ascend.
    ///
    /// # Errors
    /// The source failed or its rows cannot make a file.
    pub fn new(buckets: &[&str], rows: &dyn Rows) -> Result<Self, WriteError> {
        Layout { next: FIRST_PAGE, sink: None }.build(buckets, rows)
    }

    /// The size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.pages * PAGE_SIZE as u64
    }

    /// The second pass: emits the file in order, in pieces of whole pages.
    ///
    /// # Errors
    /// The source or the sink failed, or the rows differ from those of the first pass.
    pub fn write(&self, buckets: &[&str], rows: &dyn Rows, sink: &mut Sink<'_>) -> Result<(), WriteError> {
        sink(&self.meta_page(0, 2))?;
        sink(&self.meta_page(1, 1))?;
        sink(&page_header(FREELIST_PAGE, FLAG_FREELIST, 0, PAGE_SIZE))?;
        let written = Layout { next: FIRST_PAGE, sink: Some(sink) }.build(buckets, rows)?;
        if written == *self { Ok(()) } else { Err(WriteError::Changed) }
    }

    /// bbolt believes the meta page with the higher transaction id and writes the other one next.
    fn meta_page(&self, id: u64, transaction: u64) -> Vec<u8> {
        let mut page = page_header(id, FLAG_META, 0, PAGE_SIZE);
        let mut meta = Vec::with_capacity(META);
        for word in [MAGIC, VERSION, PAGE_SIZE as u32, 0] {
            meta.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.root, 0, FREELIST_PAGE, self.pages, transaction] {
            meta.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(meta.len(), META_SUMMED, "the checksum covers the whole body");
        meta.extend_from_slice(&fnv1a(&meta).to_le_bytes());
        page[PAGE_HEADER..PAGE_HEADER + META].copy_from_slice(&meta);
        page
    }
}

/// One pass: gives out page ids and, with a sink, emits the pages.
struct Layout<'a, 'b> {
    next: u64,
    sink: Option<&'a mut Sink<'b>>,
}

impl Layout<'_, '_> {
    fn build(mut self, buckets: &[&str], rows: &dyn Rows) -> Result<Plan, WriteError> {
        let mut directory = Tree::new("");
        for bucket in buckets {
            let mut tree = Tree::new(bucket);
            rows.for_each(bucket, &mut |key, value| tree.push(&mut self, 0, key, value))?;
            let root = tree.finish(&mut self)?;
            let mut header = [0; BUCKET_HEADER];
            header[..8].copy_from_slice(&root.to_le_bytes());
            directory.push(&mut self, FLAG_BUCKET, bucket.as_bytes(), &header)?;
        }
        let root = directory.finish(&mut self)?;
        Ok(Plan { root, pages: self.next })
    }

    fn emit(&mut self, node: &Node, flag: u16) -> Result<u64, WriteError> {
        let id = self.next;
        let pages = node.size().div_ceil(PAGE_SIZE);
        self.next += pages as u64;
        match &mut self.sink {
            Some(sink) => sink(&node.encode(id, flag, pages)).map(|()| id),
            None => Ok(id),
        }
    }
}

/// The right edge of a bucket's tree: the page of each level that is being filled, leaf first.
struct Tree<'a> {
    bucket: &'a str,
    levels: Vec<Node>,
    last: Option<Vec<u8>>,
}

impl<'a> Tree<'a> {
    fn new(bucket: &'a str) -> Self {
        Self { bucket, levels: vec![Node::default()], last: None }
    }

    fn push(
        &mut self,
        layout: &mut Layout<'_, '_>,
        flags: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), WriteError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            let bucket = self.bucket.to_owned();
            return Err(WriteError::RowSize { bucket, key: key.len(), value: value.len() });
        }
        if self.last.as_deref().is_some_and(|last| last >= key) {
            return Err(WriteError::Order { bucket: self.bucket.to_owned(), key: key.to_vec() });
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);

        let leaf = &self.levels[0];
        if !leaf.elements.is_empty() && leaf.size() + ELEMENT + key.len() + value.len() > PAGE_SIZE {
            let full = std::mem::take(&mut self.levels[0]);
            let child = layout.emit(&full, FLAG_LEAF)?;
            self.push_child(layout, 1, full.first_key(), child)?;
        }
        self.levels[0].push(key, value, u64::from(flags));
        Ok(())
    }

    fn push_child(
        &mut self,
        layout: &mut Layout<'_, '_>,
        level: usize,
        key: &[u8],
        child: u64,
    ) -> Result<(), WriteError> {
        if self.levels.len() == level {
            self.levels.push(Node::default());
        }
        let branch = &mut self.levels[level];
        if branch.elements.len() >= 3 && branch.size() + ELEMENT + key.len() > PAGE_SIZE {
            // The last child moves over to the next page, so that no page ends up with only one.
            let mut full = std::mem::take(branch);
            let (carried_key, carried) = full.pop();
            branch.push(&carried_key, &[], carried);
            let id = layout.emit(&full, FLAG_BRANCH)?;
            self.push_child(layout, level + 1, full.first_key(), id)?;
        }
        self.levels[level].push(key, &[], child);
        Ok(())
    }

    /// Emits what is left; returns the id of the root page.
    fn finish(mut self, layout: &mut Layout<'_, '_>) -> Result<u64, WriteError> {
        let mut level = 0;
        loop {
            let node = std::mem::take(&mut self.levels[level]);
            let flag = if level == 0 { FLAG_LEAF } else { FLAG_BRANCH };
            let id = layout.emit(&node, flag)?;
            level += 1;
            if level == self.levels.len() {
                return Ok(id);
            }
            self.push_child(layout, level, node.first_key(), id)?;
        }
    }
}

/// A page in the making: keys and values back to back in `data`.
#[derive(Default)]
struct Node {
    elements: Vec<Element>,
    data: Vec<u8>,
}

struct Element {
    key: usize,
    value: usize,
    /// A leaf element's flags, or a branch element's child.
    tag: u64,
}

impl Node {
    fn size(&self) -> usize {
        PAGE_HEADER + self.elements.len() * ELEMENT + self.data.len()
    }

    fn push(&mut self, key: &[u8], value: &[u8], tag: u64) {
        self.elements.push(Element { key: key.len(), value: value.len(), tag });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    /// Takes the last element of a branch out again.
    fn pop(&mut self) -> (Vec<u8>, u64) {
        let element = self.elements.pop().expect("only a full branch gives a child away");
        (self.data.split_off(self.data.len() - element.key), element.tag)
    }

    fn first_key(&self) -> &[u8] {
        self.elements.first().map_or(&[], |first| &self.data[..first.key])
    }

    fn encode(&self, id: u64, flag: u16, pages: usize) -> Vec<u8> {
        let count = u16::try_from(self.elements.len()).expect("elements of 16 bytes fill a page long before");
        let mut page = page_header(id, flag, count, pages * PAGE_SIZE);
        let mut at = PAGE_HEADER;
        let mut data = PAGE_HEADER + self.elements.len() * ELEMENT;
        let small = |n: usize| u32::try_from(n).expect("rows are limited to what bbolt holds").to_le_bytes();
        for element in &self.elements {
            // A position counts from its own element.
            let words = if flag == FLAG_LEAF {
                let tag = u32::try_from(element.tag).expect("flags have 32 bits").to_le_bytes();
                [tag, small(data - at), small(element.key), small(element.value)]
            } else {
                let [a, b, c, d, e, f, g, h] = element.tag.to_le_bytes();
                [small(data - at), small(element.key), [a, b, c, d], [e, f, g, h]]
            };
            page[at..at + ELEMENT].copy_from_slice(words.as_flattened());
            at += ELEMENT;
            data += element.key + element.value;
        }
        page[at..data].copy_from_slice(&self.data);
        page
    }
}

/// Zeroes with a page's header in front.
fn page_header(id: u64, flag: u16, count: u16, size: usize) -> Vec<u8> {
    let overflow = u32::try_from(size / PAGE_SIZE - 1).expect("a page holds at most one large row");
    let mut page = vec![0; size];
    page[..8].copy_from_slice(&id.to_le_bytes());
    page[8..10].copy_from_slice(&flag.to_le_bytes());
    page[10..12].copy_from_slice(&count.to_le_bytes());
    page[12..16].copy_from_slice(&overflow.to_le_bytes());
    page
}
