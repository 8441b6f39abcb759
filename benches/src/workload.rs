//! The operations: which keys, which requests, and what counts as a success.

use std::ops::Range;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use cairn_core::rng::Rng;
use cairn_net::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::{Request, Status};

use crate::connection::{BenchError, Connection};
use crate::drive::Worker;
use crate::options::{Consistency, Kind, LoadOptions};
use crate::range_codec::RangeCodec;
use crate::size::Size;
use crate::zipf::Zipf;

/// Puts in one transaction when keys are written beforehand; etcd allows 128 operations.
const FILL_OPS: u64 = 100;

/// The keys of a load.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Bytes,
    digits: usize,
    size: Size,
    count: u64,
    choice: Choice,
}

/// How a key is chosen.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Sequential,
    Uniform,
    Zipf(Zipf),
}

impl Keys {
    /// # Errors
    /// The keys do not fit into their size.
    pub fn new(options: &LoadOptions) -> Result<Self, BenchError> {
        let digits = options.key_size.least().saturating_sub(options.prefix.len());
        let needed = options.keys.saturating_sub(1).max(1).ilog10() as usize + 1;
        if options.keys == 0 || digits < needed {
            return Err(BenchError::Options(format!(
                "{} keys that begin with {:?} need {} bytes each, not {}",
                options.keys,
                options.prefix,
                options.prefix.len() + needed,
                options.key_size
            )));
        }
        let prefix = Bytes::from(options.prefix.clone());
        let choice = match options.zipf {
            _ if options.sequential => Choice::Sequential,
            None => Choice::Uniform,
            Some(exponent) if exponent > 0.0 && exponent < 1.0 => {
                Choice::Zipf(Zipf::new(options.keys, exponent))
            }
            Some(_) => return Err(BenchError::Options("--zipf must be between 0 and 1".to_owned())),
        };
        Ok(Self { prefix, digits, size: options.key_size, count: options.keys, choice })
    }

    /// Key `number`.
    pub fn key(&self, number: u64) -> Bytes {
        // Whoever names a key means the same bytes, so its size depends on its number alone. What makes
        // it longer comes last and leaves the order as it is.
        let size = self.size.pick(&mut Rng::derive(0, &[number]));
        let mut key = BytesMut::with_capacity(size);
        key.put_slice(&self.prefix);
        key.put_slice(format!("{number:0digits$}", digits = self.digits).as_bytes());
        key.resize(size, b'.');
        key.freeze()
    }

    /// The keys as a range: from the prefix to the byte after the largest digit.
    pub fn all(&self) -> (Bytes, Bytes) {
        let end = [&self.prefix[..], b":"].concat();
        (self.prefix.clone(), end.into())
    }

    /// The key of an operation.
    pub fn pick(&self, rng: &mut Rng, operation: u64) -> u64 {
        match self.choice {
            Choice::Sequential => operation % self.count,
            Choice::Uniform => rng.below(self.count),
            Choice::Zipf(zipf) => zipf.pick(rng),
        }
    }
}

/// A client of the KV service.
#[derive(Debug)]
pub struct KvWorker {
    kv: KvClient<Connection>,
    ranges: Grpc<Connection>,
    kind: Kind,
    keys: Keys,
    rng: Rng,
    /// The longest value; others are its beginning.
    value: Bytes,
    val_size: Size,
    /// Where the times in a watch load's values count from.
    epoch: Instant,
}

impl KvWorker {
    /// Client `number` of a load.
    pub fn new(
        channel: Connection,
        kind: Kind,
        keys: Keys,
        options: &LoadOptions,
        number: u64,
        epoch: Instant,
    ) -> Self {
        let mut rng = Rng::derive(options.seed, &[number]);
        let val_size = options.val_size;
        let value = (0..val_size.most()).map(|_| rng.next_u64() as u8).collect::<Vec<u8>>().into();
        let ranges = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
        Self { kv: KvClient::new(channel), ranges, kind, keys, rng, value, val_size, epoch }
    }

    /// Writes the keys of `numbers` once.
    ///
    /// # Errors
    /// A transaction failed.
    pub async fn fill(&mut self, numbers: Range<u64>) -> Result<(), BenchError> {
        for first in numbers.clone().step_by(FILL_OPS as usize) {
            let puts = first..(first + FILL_OPS).min(numbers.end);
            let success = puts.map(|number| self.put_op(number)).collect();
            let txn = TxnRequest { success, ..TxnRequest::default() };
            self.kv.txn(txn).await.map_err(BenchError::prepare("writing the keys"))?;
        }
        Ok(())
    }

    fn put(&mut self, number: u64) -> PutRequest {
        let value = self.value.slice(..self.val_size.pick(&mut self.rng));
        PutRequest { key: self.keys.key(number), value, ..PutRequest::default() }
    }

    fn put_op(&mut self, number: u64) -> RequestOp {
        RequestOp { request: Some(request_op::Request::RequestPut(self.put(number))) }
    }

    fn range(&self, number: u64, rows: u64) -> RangeRequest {
        let mut range = RangeRequest { key: self.keys.key(number), ..RangeRequest::default() };
        if rows > 1 {
            let end = number + rows;
            // A key after the last one may need a digit more and would sort before it.
            range.range_end = if end < self.keys.count { self.keys.key(end) } else { self.keys.all().1 };
        }
        range
    }

    async fn write(&mut self, number: u64) -> Result<(), Status> {
        let put = self.put(number);
        self.kv.put(put).await.map(drop)
    }

    async fn read(&mut self, number: u64, rows: u64, consistency: Consistency) -> Result<(), Status> {
        let mut range = self.range(number, rows);
        range.serializable = consistency == Consistency::S;
        self.ranges.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let found = self.ranges.unary(Request::new(range), path, RangeCodec).await?.into_inner();
        if found == rows { Ok(()) } else { Err(Status::not_found("keys that were written are not there")) }
    }

    /// The second key is read at the first one's revision, as etcd's client does.
    async fn stm(&mut self, operation: u64) -> Result<(), Status> {
        let first = self.keys.pick(&mut self.rng, operation);
        let second = (first + 1 + self.rng.below(self.keys.count - 1)) % self.keys.count;
        loop {
            let (mut compare, mut success, mut revision) = (Vec::new(), Vec::new(), 0);
            for number in [first, second] {
                let range = RangeRequest { revision, ..self.range(number, 1) };
                let found = self.kv.range(range).await?.into_inner();
                revision = found.header.map_or(0, |header| header.revision);
                let modified = found.kvs.first().map_or(0, |kv| kv.mod_revision);
                compare.push(Compare {
                    result: CompareResult::Equal.into(),
                    target: CompareTarget::Mod.into(),
                    key: self.keys.key(number),
                    target_union: Some(TargetUnion::ModRevision(modified)),
                    ..Compare::default()
                });
                success.push(self.put_op(number));
            }
            let txn = TxnRequest { compare, success, failure: Vec::new() };
            if self.kv.txn(txn).await?.into_inner().succeeded {
                return Ok(());
            }
        }
    }

    fn txn(&mut self, operation: u64, reads: u32, writes: u32) -> TxnRequest {
        let mut success = Vec::new();
        // Two puts of one key are refused, so the keys of a transaction follow each other.
        let first = self.keys.pick(&mut self.rng, operation);
        for put in 0..u64::from(writes) {
            success.push(self.put_op((first + put) % self.keys.count));
        }
        for _ in 0..reads {
            let number = self.keys.pick(&mut self.rng, operation);
            let range = self.range(number, 1);
            success.push(RequestOp { request: Some(request_op::Request::RequestRange(range)) });
        }
        let exists = Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: self.keys.key(first),
            target_union: Some(TargetUnion::Version(0)),
            ..Compare::default()
        };
        TxnRequest { compare: vec![exists], success, failure: Vec::new() }
    }
}

impl Worker for KvWorker {
    async fn operate(&mut self, operation: u64) -> Result<(), Status> {
        let number = self.keys.pick(&mut self.rng, operation);
        match self.kind {
            Kind::Put | Kind::Lease { .. } | Kind::Lock => self.write(number).await,
            Kind::Range { consistency, rows } => {
                let number = number.min(self.keys.count.saturating_sub(rows));
                self.read(number, rows, consistency).await
            }
            Kind::Txn { reads, writes } => {
                let txn = self.txn(operation, reads, writes);
                match self.kv.txn(txn).await?.into_inner().succeeded {
                    true => Ok(()),
                    false => Err(Status::failed_precondition("a compare that holds did not")),
                }
            }
            Kind::Stm => self.stm(operation).await,
            Kind::Mixed { consistency, read_percent } => {
                if self.rng.chance(read_percent, 100) {
                    self.read(number, 1, consistency).await
                } else {
                    self.write(number).await
                }
            }
            Kind::Watch { .. } => {
                let mut put = self.put(number);
                let mut value = BytesMut::from(&put.value[..]);
                let nanos = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
                value[..8].copy_from_slice(&nanos.to_be_bytes());
                put.value = value.freeze();
                self.kv.put(put).await.map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_size_and_lie_in_the_range_of_all() {
        let options = LoadOptions { keys: 1000, key_size: Size::fixed(9), ..LoadOptions::default() };
        let keys = Keys::new(&options).unwrap();
        let (start, end) = keys.all();
        for number in [0, 7, 999] {
            let key = keys.key(number);
            assert_eq!(key.len(), 9);
            assert!(start <= key && key < end);
        }
        assert!(Keys::new(&LoadOptions { key_size: Size::fixed(8), ..options.clone() }).is_err());
        assert!(Keys::new(&LoadOptions { keys: 0, ..options }).is_err());
    }

    #[test]
    fn keys_of_many_sizes_keep_theirs_and_their_order() {
        let key_size = "12-40".parse().unwrap();
        let keys = Keys::new(&LoadOptions { keys: 1000, key_size, ..LoadOptions::default() }).unwrap();
        let all: Vec<Bytes> = (0..1000).map(|number| keys.key(number)).collect();
        assert!(all.is_sorted());
        assert!(all.iter().all(|key| (12..=40).contains(&key.len())));
        assert!(all.iter().any(|key| key.len() != all[0].len()));
        assert_eq!(keys.key(7), all[7]);
        assert!(keys.all().0 < all[0] && all[999] < keys.all().1);
    }

    #[test]
    fn sequential_keys_go_round_and_random_ones_repeat_with_the_seed() {
        let options = LoadOptions { keys: 10, ..LoadOptions::default() };
        let sequential = Keys::new(&LoadOptions { sequential: true, ..options.clone() }).unwrap();
        let mut rng = Rng::new(1);
        assert_eq!([3, 13].map(|operation| sequential.pick(&mut rng, operation)), [3, 3]);
        let random = Keys::new(&options).unwrap();
        let draw = || {
            let mut rng = Rng::new(5);
            (0..20).map(|operation| random.pick(&mut rng, operation)).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        assert!(draw().iter().any(|number| *number != draw()[0]));
    }
}
