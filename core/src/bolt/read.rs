//! Reads a bbolt file page by page: any bucket of the root, in ascending order of key.
//!
//! The bytes come from a file that someone handed to us, so nothing in them is believed: every page's
//! id, kind and element bounds, the order of keys and the depth of trees are checked, and an error names
//! the page.
//!
//! Invariant: no input makes this panic, loop, or hold more than one page of each level.

use bytes::Bytes;

use super::{
    BUCKET_HEADER, ELEMENT, FLAG_BRANCH, FLAG_BUCKET, FLAG_LEAF, FLAG_META, MAGIC, META, META_SUMMED,
    PAGE_HEADER, VERSION, fnv1a,
};

/// More levels than any file that fits a disk can have.
const DEPTH_MAX: usize = 32;
/// The page sizes to look for the second meta page at, when the first one is damaged.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 9..=24;

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes could not be had; the text is the source's.
    #[error("reading the database file: {0}")]
    Source(String),
    /// Neither meta page can be trusted.
    #[error("not a database file: {0}")]
    Meta(String),
    /// A page contradicts the format.
    #[error("the database file is corrupt at page {page}: {reason}")]
    Page {
        /// The page's id.
        page: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// Random access to the bytes of a file.
pub trait ReadAt {
    /// Fills `out` with the bytes at `offset`; they lie within [`ReadAt::size`].
    ///
    /// # Errors
    /// They could not be read; the text says why.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), String>;

    /// The length of the file, with or without a checksum behind the database.
    fn size(&self) -> u64;
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        let start = usize::try_from(offset).map_err(|error| error.to_string())?;
        let end = start.checked_add(out.len()).ok_or("an offset beyond any memory")?;
        out.copy_from_slice(self.get(start..end).ok_or("an offset beyond the end")?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// An open file.
#[derive(Debug)]
pub struct Reader<'a, F: ReadAt + ?Sized> {
    file: &'a F,
    page_size: u64,
    root: u64,
    pages: u64,
}

impl<'a, F: ReadAt + ?Sized> Reader<'a, F> {
    /// Finds the meta page to believe.
    ///
    /// # Errors
    /// There is none, or the file is shorter than it says.
    pub fn open(file: &'a F) -> Result<Self, ReadError> {
        let first = Meta::read(file, 0);
        let second = match &first {
            Ok(meta) => Meta::read(file, meta.page_size),
            Err(_) => PAGE_SIZES
                .map(|bits| 1 << bits)
                .filter_map(|size| Meta::read(file, size).ok().filter(|meta| meta.page_size == size))
                .next()
                .ok_or_else(|| "no second meta page either".to_owned()),
        };
        let meta = match (first, second) {
            (Ok(first), Ok(second)) if second.transaction > first.transaction => second,
            (Ok(meta), _) | (Err(_), Ok(meta)) => meta,
            (Err(reason), Err(_)) => return Err(ReadError::Meta(reason)),
        };
        let size = meta.pages.checked_mul(meta.page_size).ok_or(ReadError::Meta("too many pages".into()))?;
        if size > file.size() {
            let reason = format!("{} bytes are there of {size}", file.size());
            return Err(ReadError::Meta(reason));
        }
        Ok(Self { file, page_size: meta.page_size, root: meta.root, pages: meta.pages })
    }

    /// The size of the database itself, without a checksum behind it.
    pub fn database_size(&self) -> u64 {
        self.pages * self.page_size
    }

    /// The names of the buckets.
    ///
    /// # Errors
    /// A corrupt page.
    pub fn buckets(&self) -> Result<Vec<Bytes>, ReadError> {
        let rows = self.cursor(self.page(self.root)?).with_buckets();
        rows.map(|row| row.map(|row| row.key)).collect()
    }

    /// The rows of a bucket; `None` when there is no such bucket.
    ///
    /// # Errors
    /// A corrupt page on the way to it. Later ones come from the iterator, which then ends.
    pub fn bucket(&self, name: &str) -> Result<Option<BucketRows<'_, 'a, F>>, ReadError> {
        let mut directory = self.cursor(self.page(self.root)?).with_buckets();
        let Some(row) = directory.find(|row| row.as_ref().map_or(true, |row| row.key == name.as_bytes()))
        else {
            return Ok(None);
        };
        let row = row?;
        let broken = |reason: &str| ReadError::Page { page: row.page, reason: reason.to_owned() };
        if row.flags & FLAG_BUCKET == 0 || row.value.len() < BUCKET_HEADER {
            return Err(broken("an entry of the root bucket is not a bucket"));
        }
        let page = match u64_at(&row.value, 0) {
            // An inline bucket: its only page lies in the value, with id 0.
            0 => Page::parse(row.page, row.value.slice(BUCKET_HEADER..))?,
            root => self.page(root)?,
        };
        Ok(Some(BucketRows(self.cursor(page))))
    }

    fn cursor(&self, root: Page) -> Cursor<'_, 'a, F> {
        Cursor { reader: self, stack: vec![(root, 0)], last: None, buckets: false, done: false }
    }

    fn page(&self, id: u64) -> Result<Page, ReadError> {
        let fail = |reason: String| ReadError::Page { page: id, reason };
        // Pages 0 and 1 are the meta pages.
        if id < 2 || id >= self.pages {
            return Err(fail(format!("the file has pages 2 to {}", self.pages.saturating_sub(1))));
        }
        let mut header = [0; PAGE_HEADER];
        self.file.read_at(id * self.page_size, &mut header).map_err(ReadError::Source)?;
        if u64_at(&header, 0) != id {
            return Err(fail(format!("it says that it is page {}", u64_at(&header, 0))));
        }
        let overflow = u64::from(u32_at(&header, 12));
        if id + overflow >= self.pages {
            return Err(fail(format!("its {overflow} pages of overflow end behind the file")));
        }
        let size =
            usize::try_from((overflow + 1) * self.page_size).map_err(|error| fail(error.to_string()))?;
        let mut bytes = vec![0; size];
        self.file.read_at(id * self.page_size, &mut bytes).map_err(ReadError::Source)?;
        Page::parse(id, bytes.into())
    }
}

/// What a meta page says.
struct Meta {
    page_size: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

impl Meta {
    fn read<F: ReadAt + ?Sized>(file: &F, offset: u64) -> Result<Self, String> {
        let mut bytes = [0; PAGE_HEADER + META];
        if offset + bytes.len() as u64 > file.size() {
            return Err("the file is too short".to_owned());
        }
        file.read_at(offset, &mut bytes)?;
        let (header, meta) = bytes.split_at(PAGE_HEADER);
        if u16_at(header, 8) & FLAG_META == 0 || u32_at(meta, 0) != MAGIC {
            return Err("there is no meta page where one must be".to_owned());
        }
        if u32_at(meta, 4) != VERSION {
            return Err(format!("format version {}, this reads {VERSION}", u32_at(meta, 4)));
        }
        if u64_at(meta, META_SUMMED) != fnv1a(&meta[..META_SUMMED]) {
            return Err("the meta page's checksum is wrong".to_owned());
        }
        let page_size = u32_at(meta, 8);
        if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size.trailing_zeros()) {
            return Err(format!("a page size of {page_size} bytes"));
        }
        Ok(Self {
            page_size: u64::from(page_size),
            root: u64_at(meta, 16),
            pages: u64_at(meta, 40),
            transaction: u64_at(meta, 48),
        })
    }
}

/// A branch or leaf page; its header is checked, its elements are not yet.
#[derive(Debug)]
struct Page {
    id: u64,
    leaf: bool,
    count: usize,
    bytes: Bytes,
}

impl Page {
    fn parse(id: u64, bytes: Bytes) -> Result<Self, ReadError> {
        let fail = |reason: String| ReadError::Page { page: id, reason };
        if bytes.len() < PAGE_HEADER {
            return Err(fail("it is cut off".to_owned()));
        }
        let leaf = match u16_at(&bytes, 8) {
            FLAG_LEAF => true,
            FLAG_BRANCH => false,
            flags => return Err(fail(format!("flags {flags:#x} are neither a leaf's nor a branch's"))),
        };
        let count = usize::from(u16_at(&bytes, 10));
        if PAGE_HEADER + count * ELEMENT > bytes.len() {
            return Err(fail(format!("{count} elements do not fit into it")));
        }
        if count == 0 && !leaf {
            return Err(fail("a branch without children".to_owned()));
        }
        Ok(Self { id, leaf, count, bytes })
    }

    /// The element's key, its value (empty in a branch), and its flags or child.
    fn element(&self, index: usize) -> Result<(Bytes, Bytes, u64), ReadError> {
        let at = PAGE_HEADER + index * ELEMENT;
        let word = |n: usize| u32_at(&self.bytes, at + 4 * n) as usize;
        let (position, key, value, tag) = if self.leaf {
            (word(1), word(2), word(3), word(0) as u64)
        } else {
            (word(0), word(1), 0, u64_at(&self.bytes, at + 8))
        };
        let start = at + position;
        let ends = start.checked_add(key).and_then(|middle| Some((middle, middle.checked_add(value)?)));
        match ends {
            Some((middle, end)) if end <= self.bytes.len() && key > 0 => {
                Ok((self.bytes.slice(start..middle), self.bytes.slice(middle..end), tag))
            }
            _ => {
                let reason = format!("element {index} reaches out of it or has no key");
                Err(ReadError::Page { page: self.id, reason })
            }
        }
    }
}

/// The rows of a bucket, ascending. Ends after the first error.
#[derive(Debug)]
pub struct BucketRows<'r, 'a, F: ReadAt + ?Sized>(Cursor<'r, 'a, F>);

impl<F: ReadAt + ?Sized> Iterator for BucketRows<'_, '_, F> {
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|row| row.map(|row| (row.key, row.value)))
    }
}

/// One leaf element and the page that it is on.
struct LeafRow {
    page: u64,
    flags: u32,
    key: Bytes,
    value: Bytes,
}

/// Walks a tree in order: the path of pages from the root, each with the next element to visit.
#[derive(Debug)]
struct Cursor<'r, 'a, F: ReadAt + ?Sized> {
    reader: &'r Reader<'a, F>,
    stack: Vec<(Page, usize)>,
    last: Option<Bytes>,
    /// Whether nested buckets are expected: in the root they are all there is, elsewhere an error.
    buckets: bool,
    done: bool,
}

impl<F: ReadAt + ?Sized> Cursor<'_, '_, F> {
    fn with_buckets(mut self) -> Self {
        self.buckets = true;
        self
    }

    fn step(&mut self) -> Result<Option<LeafRow>, ReadError> {
        while let Some((page, next)) = self.stack.last_mut() {
            if *next == page.count {
                self.stack.pop();
                continue;
            }
            let index = *next;
            *next += 1;
            let (key, value, tag) = page.element(index)?;
            let id = page.id;
            let fail = |reason: &str| Err(ReadError::Page { page: id, reason: reason.to_owned() });
            if !page.leaf {
                if self.stack.len() == DEPTH_MAX {
                    return fail("the tree is too deep");
                }
                let child = self.reader.page(tag)?;
                // Keys that must ascend bound the walk, so a page without keys must not be on it.
                if child.count == 0 {
                    return fail("a child without rows");
                }
                self.stack.push((child, 0));
                continue;
            }
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return fail("its keys do not ascend");
            }
            self.last = Some(key.clone());
            let flags = u32::try_from(tag).expect("a leaf element's flags were read from 32 bits");
            if flags & FLAG_BUCKET != 0 && !self.buckets {
                return fail("a bucket inside a bucket");
            }
            return Ok(Some(LeafRow { page: id, flags, key, value }));
        }
        Ok(None)
    }
}

impl<F: ReadAt + ?Sized> Iterator for Cursor<'_, '_, F> {
    type Item = Result<LeafRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step().transpose();
        self.done = !matches!(step, Some(Ok(_)));
        step
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes were sliced"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}
