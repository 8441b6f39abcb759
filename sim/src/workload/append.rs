//! Transactions that append unique numbers to lists and read them: what *Elle* finds cycles in.
//!
//! A list is read, and written longer if it has not changed; if it has, the transaction reads instead.

use bytes::Bytes;
use cairn_checkers::append::{Known, Step, Txn};
use cairn_core::api::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, Request, RequestOp, Response,
    ResponseBody, ResponseOp, TxnRequest,
};

use super::Draw;
use super::script::{Record, Script, Told};
use crate::history::is_unknown;

/// Lists that are written at a time, and appends of one client after which others are.
const LISTS: u64 = 3;
const APPENDS: u64 = 20;

/// A list as it was read.
#[derive(Clone, Debug)]
struct List {
    key: u64,
    numbers: Vec<u64>,
    revision: i64,
}

/// A client that appends.
#[derive(Clone, Debug)]
pub struct Append {
    client: u64,
    appended: u64,
    keys: Vec<u64>,
    read: Vec<List>,
    writing: bool,
}

fn name(key: u64) -> Bytes {
    format!("a{key:05}").into()
}

fn parse(value: &[u8]) -> Vec<u64> {
    String::from_utf8_lossy(value).split(',').filter_map(|number| number.parse().ok()).collect()
}

fn lists(keys: &[u64], responses: &[ResponseOp]) -> Vec<List> {
    let list = |(key, response): (&u64, &ResponseOp)| match response {
        ResponseOp::Range(range) => {
            let kv = range.kvs.first();
            let numbers = kv.map(|kv| parse(&kv.value)).unwrap_or_default();
            Some(List { key: *key, numbers, revision: kv.map_or(0, |kv| kv.mod_revision) })
        }
        _ => None,
    };
    keys.iter().zip(responses).filter_map(list).collect()
}

impl Append {
    /// The program of a client.
    pub fn new(client: u64) -> Self {
        Self { client, appended: 0, keys: Vec::new(), read: Vec::new(), writing: false }
    }

    fn number(&self, at: usize) -> u64 {
        (self.client + 1) * 1_000_000 + self.appended * 4 + at as u64
    }

    fn reads(&self) -> Vec<RequestOp> {
        let get = |key: &u64| RangeRequest { key: name(*key), ..RangeRequest::default() };
        self.keys.iter().map(|key| RequestOp::Range(get(key))).collect()
    }

    fn steps(&self, response: &Response) -> Vec<Step> {
        let ResponseBody::Txn(txn) = &response.body else { return Vec::new() };
        if !self.writing || !txn.succeeded {
            let read = lists(&self.keys, &txn.responses).into_iter();
            return read.map(|list| Step::Read { key: list.key, list: list.numbers }).collect();
        }
        let read = self.read.iter().map(|list| Step::Read { key: list.key, list: list.numbers.clone() });
        read.chain(self.appends()).collect()
    }

    fn appends(&self) -> impl Iterator<Item = Step> + '_ {
        let numbered = self.read.iter().enumerate();
        numbered.map(|(at, list)| Step::Append { key: list.key, value: self.number(at) })
    }
}

impl Script for Append {
    fn next(&mut self, draw: &mut Draw<'_>) -> Request {
        self.writing = !self.read.is_empty();
        if !self.writing {
            let first = self.appended / APPENDS * LISTS;
            let one = first + draw.rng.below(LISTS);
            self.keys = vec![one];
            if draw.rng.chance(1, 2) {
                self.keys.push(first + (one - first + 1) % LISTS);
            }
            return Request::Txn(TxnRequest {
                compare: Vec::new(),
                success: self.reads(),
                failure: Vec::new(),
            });
        }
        let compare = |list: &List| Compare {
            result: CompareResult::Equal,
            target: CompareTarget::Mod(list.revision),
            key: name(list.key),
            range_end: Bytes::new(),
        };
        let put = |(at, list): (usize, &List)| {
            let mut numbers: Vec<String> = list.numbers.iter().map(u64::to_string).collect();
            numbers.push(self.number(at).to_string());
            let value = numbers.join(",").into();
            RequestOp::Put(PutRequest { key: name(list.key), value, ..PutRequest::default() })
        };
        Request::Txn(TxnRequest {
            compare: self.read.iter().map(compare).collect(),
            success: self.read.iter().enumerate().map(put).collect(),
            failure: self.reads(),
        })
    }

    fn told(&mut self, told: Told<'_>, record: &mut Record) {
        let (known, steps) = match told.answer {
            Some(Ok(response)) => (Known::Committed, self.steps(response)),
            Some(Err(error)) if !is_unknown(error) => (Known::Refused, self.appends().collect()),
            _ => (Known::Unknown, self.appends().collect()),
        };
        let wrote = std::mem::take(&mut self.writing);
        self.appended += u64::from(wrote);
        self.read.clear();
        if !wrote
            && let Some(Ok(response)) = told.answer
            && let ResponseBody::Txn(txn) = &response.body
        {
            self.read = lists(&self.keys, &txn.responses);
        }
        if !steps.is_empty() {
            record.appends.push(Txn { number: told.number, call: told.call, ret: told.at, known, steps });
        }
    }
}
