//! Transactions that append unique numbers to lists and read them (Kingsbury and Alvaro, *Elle*, VLDB
//! 2020). A list read back shows the order of its appends, so the dependencies between transactions can
//! be inferred: ww (appended after), wr (read what was appended), rw (read before it was appended), and
//! real time. A cycle is an anomaly, named as Adya did: G0 (ww alone), G1c (with wr), G-single (one rw),
//! G2 (more); `-realtime` is added when the cycle needs real time.
//!
//! Anomalies of single reads have names as well: G1a (read of what was refused), G1b (read of the middle
//! of a transaction), incompatible order, duplicate, phantom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::history::Violation;
use crate::scc::components;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Step {
    Append {
        key: u64,
        value: u64,
    },
    /// The list as it was read.
    Read {
        key: u64,
        list: Vec<u64>,
    },
}

/// What is known of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Known {
    Committed,
    Refused,
    Unknown,
}

/// One transaction. No value is appended twice to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Txn {
    pub number: u64,
    pub call: u64,
    pub ret: u64,
    pub known: Known,
    pub steps: Vec<Step>,
}

/// A kind of dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Ww,
    Wr,
    Rw,
    RealTime,
}

/// Checks transactions; how many dependencies were found.
///
/// # Errors
/// The worst anomaly that was found, with a shortest cycle of its kind.
pub fn check(txns: &[Txn]) -> Result<usize, Violation> {
    let writers = writers(txns)?;
    let orders = orders(txns)?;
    let graph = graph(txns, &writers, &orders)?;
    let edges: Vec<Vec<usize>> = graph.iter().map(|from| from.iter().map(|(to, _)| *to).collect()).collect();
    let cycles = components(&edges);
    let names = [
        ("G0", &[Edge::Ww][..], 0),
        ("G1c", &[Edge::Ww, Edge::Wr], 0),
        ("G-single", &[Edge::Ww, Edge::Wr], 1),
        ("G2", &[Edge::Ww, Edge::Wr, Edge::Rw], 0),
    ];
    for real_time in [false, true] {
        for (name, kinds, rw) in names {
            let allowed = |edge: Edge| kinds.contains(&edge) || (real_time && edge == Edge::RealTime);
            for component in &cycles {
                if let Some(cycle) = cycle(&graph, component, allowed, rw == 1) {
                    let rule = if real_time { format!("{name}-realtime") } else { name.to_owned() };
                    let cycle: Vec<u64> =
                        cycle.into_iter().filter(|at| *at < txns.len()).map(|at| txns[at].number).collect();
                    let what = format!("each of these comes before the next: {cycle:?}");
                    return Err(Violation::new(&rule, what, &cycle));
                }
            }
        }
    }
    Ok(graph[..txns.len()].iter().map(Vec::len).sum())
}

type Writers = BTreeMap<(u64, u64), usize>;

fn writers(txns: &[Txn]) -> Result<Writers, Violation> {
    let mut writers = Writers::new();
    for (at, txn) in txns.iter().enumerate() {
        for step in &txn.steps {
            if let Step::Append { key, value } = step
                && writers.insert((*key, *value), at).is_some()
            {
                let what = format!("the load appended {value} to {key} twice");
                return Err(Violation::new("load", what, &[txn.number]));
            }
        }
    }
    Ok(writers)
}

fn reads(txns: &[Txn]) -> impl Iterator<Item = (&Txn, u64, &[u64])> {
    let committed = txns.iter().filter(|txn| txn.known == Known::Committed);
    committed.flat_map(|txn| {
        txn.steps.iter().filter_map(move |step| match step {
            Step::Read { key, list } => Some((txn, *key, list.as_slice())),
            Step::Append { .. } => None,
        })
    })
}

/// The longest list of each key; every other one must be its beginning.
fn orders(txns: &[Txn]) -> Result<BTreeMap<u64, &[u64]>, Violation> {
    let mut orders: BTreeMap<u64, &[u64]> = BTreeMap::new();
    for (txn, key, list) in reads(txns) {
        if list.iter().collect::<BTreeSet<_>>().len() != list.len() {
            return Err(Violation::new("duplicate", format!("{key} was {list:?}"), &[txn.number]));
        }
        let longest = orders.entry(key).or_insert(list);
        let (short, long) = if list.len() > longest.len() { (*longest, list) } else { (list, *longest) };
        if !long.starts_with(short) {
            let what = format!("{key} was {short:?} and {long:?}");
            return Err(Violation::new("incompatible order", what, &[txn.number]));
        }
        *longest = long;
    }
    Ok(orders)
}

type Graph = Vec<Vec<(usize, Edge)>>;

fn graph(txns: &[Txn], writers: &Writers, orders: &BTreeMap<u64, &[u64]>) -> Result<Graph, Violation> {
    let mut graph: Graph = vec![Vec::new(); txns.len()];
    let mut add = |from: usize, to: usize, edge: Edge| {
        if from != to {
            graph[from].push((to, edge));
        }
    };
    for (key, list) in orders {
        for pair in list.windows(2) {
            if let (Some(from), Some(to)) = (writers.get(&(*key, pair[0])), writers.get(&(*key, pair[1]))) {
                add(*from, *to, Edge::Ww);
            }
        }
    }
    for (at, txn) in txns.iter().enumerate().filter(|(_, txn)| txn.known == Known::Committed) {
        let mut own: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for step in &txn.steps {
            let (key, list) = match step {
                Step::Append { key, value } => {
                    own.entry(*key).or_default().push(*value);
                    continue;
                }
                Step::Read { key, list } => (*key, list.as_slice()),
            };
            let mine = own.get(&key).map_or(&[][..], Vec::as_slice);
            let Some(others) = list.strip_suffix(mine) else {
                let what = format!("{key} was {list:?} after the transaction's own {mine:?}");
                return Err(Violation::new("internal", what, &[txn.number]));
            };
            for value in others {
                let writer = writers.get(&(key, *value)).copied();
                match writer.map(|writer| &txns[writer]) {
                    None => {
                        let what = format!("nobody appended {value} to {key}");
                        return Err(Violation::new("phantom", what, &[txn.number]));
                    }
                    Some(refused) if refused.known == Known::Refused => {
                        let what = format!("{value} of {key} was refused");
                        return Err(Violation::new("G1a", what, &[txn.number, refused.number]));
                    }
                    Some(_) => {}
                }
            }
            if let Some(last) = others.last()
                && let Some(writer) = writers.get(&(key, *last))
            {
                if *writer != at && !is_final(&txns[*writer], key, *last) {
                    let what = format!("{key} ended with {last}, the middle of a transaction");
                    return Err(Violation::new("G1b", what, &[txn.number, txns[*writer].number]));
                }
                add(*writer, at, Edge::Wr);
            }
            if let Some(next) = orders.get(&key).and_then(|order| order.get(others.len()))
                && let Some(writer) = writers.get(&(key, *next))
            {
                add(at, *writer, Edge::Rw);
            }
        }
    }
    real_time(txns, &mut graph);
    Ok(graph)
}

/// Whether a value is the last that its transaction appended to the key.
fn is_final(txn: &Txn, key: u64, value: u64) -> bool {
    let mut appended = txn.steps.iter().filter_map(|step| match step {
        Step::Append { key: to, value } if *to == key => Some(*value),
        _ => None,
    });
    appended.next_back() == Some(value)
}

/// Real time in O(n): each return becomes a node that follows all earlier returns, and a transaction
/// follows the last return before its call.
fn real_time(txns: &[Txn], graph: &mut Graph) {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (at, txn) in txns.iter().enumerate() {
        // At one time calls come first, so that nothing follows what it overlaps.
        events.push((txn.call, false, at));
        if txn.known == Known::Committed {
            events.push((txn.ret, true, at));
        }
    }
    events.sort_unstable();
    let mut last: Option<usize> = None;
    for (_, returned, at) in events {
        if returned {
            graph.push(Vec::new());
            let barrier = graph.len() - 1;
            graph[at].push((barrier, Edge::RealTime));
            if let Some(before) = last.replace(barrier) {
                graph[before].push((barrier, Edge::RealTime));
            }
        } else if let Some(barrier) = last {
            graph[barrier].push((at, Edge::RealTime));
        }
    }
}

/// A shortest cycle in a component over edges that are allowed; with `one_rw`, through exactly one rw.
fn cycle(
    graph: &Graph,
    component: &[usize],
    allowed: impl Fn(Edge) -> bool,
    one_rw: bool,
) -> Option<Vec<usize>> {
    let inside: BTreeSet<usize> = component.iter().copied().collect();
    let mut best: Option<Vec<usize>> = None;
    for from in component {
        for (to, edge) in &graph[*from] {
            let starts = if one_rw { *edge == Edge::Rw } else { allowed(*edge) };
            if !starts || !inside.contains(to) {
                continue;
            }
            if let Some(path) = path(graph, &inside, *to, *from, &allowed)
                && best.as_ref().is_none_or(|best| path.len() < best.len())
            {
                best = Some(path);
            }
        }
        // One is enough of a component that is large: a search from each node of it would be quadratic.
        if best.is_some() && component.len() > 200 {
            break;
        }
    }
    best
}

fn path(
    graph: &Graph,
    inside: &BTreeSet<usize>,
    from: usize,
    to: usize,
    allowed: &impl Fn(Edge) -> bool,
) -> Option<Vec<usize>> {
    let mut before: BTreeMap<usize, usize> = BTreeMap::from([(from, from)]);
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut path = vec![node];
            let mut at = node;
            while at != from {
                at = before[&at];
                path.push(at);
            }
            path.reverse();
            return Some(path);
        }
        for (next, edge) in &graph[node] {
            if allowed(*edge) && inside.contains(next) && !before.contains_key(next) {
                before.insert(*next, node);
                queue.push_back(*next);
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "append_tests.rs"]
mod tests;
