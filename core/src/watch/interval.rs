//! Which watched ranges contain a key.
//!
//! Single keys live in an ordered map. Half-open and open-ended ranges live in a treap ordered by
//! (start, end) in which every node knows the largest end below it, so a query skips every subtree
//! that ends at or before the key: O(log n + hits) for ranges that nest as prefixes do.
//!
//! Invariant: the shape depends on the sequence of calls alone (priorities are a function of the order
//! of insertion), and so does the order of a query's hits.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::rng::Rng;
use crate::types::KeyRange;

type Link = Option<u32>;

/// An upper bound; `None` is above every key.
type End = Option<Bytes>;

fn cmp_end(a: &End, b: &End) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
    }
}

fn above(end: &End, key: &[u8]) -> bool {
    end.as_ref().is_none_or(|end| key < end.as_ref())
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    /// The largest `end` of this node and everything below it.
    end_max: End,
    priority: u64,
    left: Link,
    right: Link,
    values: Vec<u32>,
}

/// A set of (range, value) pairs that finds all values whose range contains a key.
#[derive(Debug)]
pub(super) struct RangeIndex {
    single: BTreeMap<Bytes, Vec<u32>>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: Link,
    priorities: Rng,
}

impl RangeIndex {
    /// An empty index; `seed` only shapes the tree.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            single: BTreeMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            root: None,
            priorities: Rng::derive(seed, &[1]),
        }
    }

    /// Adds a pair. The caller adds each at most once and adds no empty range.
    pub(super) fn insert(&mut self, range: &KeyRange, value: u32) {
        debug_assert!(!range.is_empty());
        match bounds(range) {
            None => self.single.entry(range.start().clone()).or_default().push(value),
            Some((start, end)) => {
                if let Some(node) = self.find(start, &end) {
                    self.nodes[node as usize].values.push(value);
                    return;
                }
                let node = self.allocate(start.clone(), end, value);
                self.root = Some(self.insert_node(self.root, node));
            }
        }
    }

    /// Takes a pair out; nothing happens when it is not there.
    pub(super) fn remove(&mut self, range: &KeyRange, value: u32) {
        match bounds(range) {
            None => {
                if let Some(values) = self.single.get_mut(range.start()) {
                    values.retain(|&other| other != value);
                    if values.is_empty() {
                        self.single.remove(range.start());
                    }
                }
            }
            Some((start, end)) => {
                let Some(node) = self.find(start, &end) else { return };
                self.nodes[node as usize].values.retain(|&other| other != value);
                if self.nodes[node as usize].values.is_empty() {
                    self.root = self.remove_node(self.root, start, &end);
                    self.release(node);
                }
            }
        }
    }

    /// Calls `hit` with the value of every range that contains `key`.
    pub(super) fn stab(&self, key: &[u8], hit: &mut impl FnMut(u32)) {
        for &value in self.single.get(key).into_iter().flatten() {
            hit(value);
        }
        self.stab_below(self.root, key, hit);
    }

    fn stab_below(&self, link: Link, key: &[u8], hit: &mut impl FnMut(u32)) {
        let Some(id) = link else { return };
        let node = &self.nodes[id as usize];
        if !above(&node.end_max, key) {
            return;
        }
        self.stab_below(node.left, key, hit);
        if node.start.as_ref() <= key {
            if above(&node.end, key) {
                for &value in &node.values {
                    hit(value);
                }
            }
            self.stab_below(node.right, key, hit);
        }
    }

    fn find(&self, start: &Bytes, end: &End) -> Link {
        let mut link = self.root;
        while let Some(id) = link {
            match self.compare(start, end, id) {
                Ordering::Less => link = self.nodes[id as usize].left,
                Ordering::Greater => link = self.nodes[id as usize].right,
                Ordering::Equal => return Some(id),
            }
        }
        None
    }

    fn compare(&self, start: &Bytes, end: &End, id: u32) -> Ordering {
        let node = &self.nodes[id as usize];
        start.cmp(&node.start).then_with(|| cmp_end(end, &node.end))
    }

    fn allocate(&mut self, start: Bytes, end: End, value: u32) -> u32 {
        let node = Node {
            start,
            end_max: end.clone(),
            end,
            priority: self.priorities.next_u64(),
            left: None,
            right: None,
            values: vec![value],
        };
        if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            id
        } else {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 watched ranges fit in memory")
        }
    }

    fn release(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        // The keys may be long; an unused slot must not hold them.
        (node.start, node.end, node.end_max, node.values) = (Bytes::new(), None, None, Vec::new());
        self.free.push(id);
    }

    fn insert_node(&mut self, link: Link, node: u32) -> u32 {
        let Some(id) = link else { return node };
        let (start, end) = (self.nodes[node as usize].start.clone(), self.nodes[node as usize].end.clone());
        if self.nodes[node as usize].priority > self.nodes[id as usize].priority {
            let (left, right) = self.split(Some(id), &start, &end);
            self.nodes[node as usize].left = left;
            self.nodes[node as usize].right = right;
            self.update(node);
            return node;
        }
        if self.compare(&start, &end, id) == Ordering::Less {
            let child = self.insert_node(self.nodes[id as usize].left, node);
            self.nodes[id as usize].left = Some(child);
        } else {
            let child = self.insert_node(self.nodes[id as usize].right, node);
            self.nodes[id as usize].right = Some(child);
        }
        self.update(id);
        id
    }

    /// Parts a subtree into what is before and what is after (start, end), which is not in it.
    fn split(&mut self, link: Link, start: &Bytes, end: &End) -> (Link, Link) {
        let Some(id) = link else { return (None, None) };
        if self.compare(start, end, id) == Ordering::Less {
            let (left, right) = self.split(self.nodes[id as usize].left, start, end);
            self.nodes[id as usize].left = right;
            self.update(id);
            (left, Some(id))
        } else {
            let (left, right) = self.split(self.nodes[id as usize].right, start, end);
            self.nodes[id as usize].right = left;
            self.update(id);
            (Some(id), right)
        }
    }

    fn remove_node(&mut self, link: Link, start: &Bytes, end: &End) -> Link {
        let id = link?;
        match self.compare(start, end, id) {
            Ordering::Less => {
                self.nodes[id as usize].left = self.remove_node(self.nodes[id as usize].left, start, end);
            }
            Ordering::Greater => {
                self.nodes[id as usize].right = self.remove_node(self.nodes[id as usize].right, start, end);
            }
            Ordering::Equal => return self.join(self.nodes[id as usize].left, self.nodes[id as usize].right),
        }
        self.update(id);
        Some(id)
    }

    /// Merges two subtrees, the first of which is before the second.
    fn join(&mut self, left: Link, right: Link) -> Link {
        let (Some(a), Some(b)) = (left, right) else { return left.or(right) };
        if self.nodes[a as usize].priority > self.nodes[b as usize].priority {
            self.nodes[a as usize].right = self.join(self.nodes[a as usize].right, right);
            self.update(a);
            Some(a)
        } else {
            self.nodes[b as usize].left = self.join(left, self.nodes[b as usize].left);
            self.update(b);
            Some(b)
        }
    }

    fn update(&mut self, id: u32) {
        let node = &self.nodes[id as usize];
        let mut end_max = &node.end;
        for child in [node.left, node.right].into_iter().flatten() {
            let other = &self.nodes[child as usize].end_max;
            if cmp_end(other, end_max) == Ordering::Greater {
                end_max = other;
            }
        }
        let end_max = end_max.clone();
        self.nodes[id as usize].end_max = end_max;
    }
}

/// Start and end of a range that is more than one key.
fn bounds(range: &KeyRange) -> Option<(&Bytes, End)> {
    match range {
        KeyRange::Single(_) => None,
        KeyRange::HalfOpen(start, end) => Some((start, Some(end.clone()))),
        KeyRange::From(start) => Some((start, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_range(rng: &mut Rng) -> KeyRange {
        let key = |rng: &mut Rng| {
            let len = 1 + rng.below(3) as usize;
            Bytes::from((0..len).map(|_| b'a' + rng.below(4) as u8).collect::<Vec<_>>())
        };
        let (a, b) = (key(rng), key(rng));
        match rng.below(4) {
            0 => KeyRange::Single(a),
            1 => KeyRange::From(a),
            _ if a < b => KeyRange::HalfOpen(a, b),
            _ => KeyRange::HalfOpen(b, a),
        }
    }

    #[test]
    fn finds_what_a_scan_finds() {
        for seed in 0..60 {
            let mut rng = Rng::new(seed);
            let mut index = RangeIndex::new(seed);
            let mut model: Vec<(KeyRange, u32)> = Vec::new();
            for value in 0..300 {
                if rng.chance(1, 3) && !model.is_empty() {
                    let (range, value) = model.remove(rng.below(model.len() as u64) as usize);
                    index.remove(&range, value);
                } else {
                    let range = random_range(&mut rng);
                    if range.is_empty() {
                        continue;
                    }
                    index.insert(&range, value);
                    model.push((range, value));
                }
                let probe = random_range(&mut rng).start().clone();
                let mut got = Vec::new();
                index.stab(&probe, &mut |value| got.push(value));
                got.sort_unstable();
                let mut want: Vec<u32> =
                    model.iter().filter(|(range, _)| range.contains(&probe)).map(|&(_, v)| v).collect();
                want.sort_unstable();
                assert_eq!(got, want, "seed {seed}, key {probe:?}");
            }
        }
    }

    #[test]
    fn stays_shallow_and_releases_its_nodes() {
        let mut index = RangeIndex::new(7);
        let range = |i: u32| KeyRange::HalfOpen(format!("p/{i:06}/").into(), format!("p/{i:06}0").into());
        for i in 0..10_000 {
            index.insert(&range(i), i);
        }
        fn depth(index: &RangeIndex, link: Link) -> usize {
            link.map_or(0, |id| {
                let node = &index.nodes[id as usize];
                1 + depth(index, node.left).max(depth(index, node.right))
            })
        }
        // Sorted insertion is the worst case of an unbalanced tree; 2 * ln(10,000) is 18 on average.
        assert!(depth(&index, index.root) < 60);
        let mut hits = Vec::new();
        index.stab(b"p/004711/x", &mut |value| hits.push(value));
        assert_eq!(hits, [4711]);
        for i in 0..10_000 {
            index.remove(&range(i), i);
        }
        assert_eq!(index.root, None);
        assert_eq!(index.free.len(), index.nodes.len());
    }
}
