//! The cluster under load: connections to it, what must be there before a run, what is cleared away after it.

use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use tonic::Status;

use crate::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::api::etcdserverpb::kv_client::KvClient;
use crate::api::etcdserverpb::request_op;
use crate::api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::base::error::{Error, Result};
use crate::base::rng::{self, Seeded};
use crate::bench::keys::{Keys, Values, end_of};
use crate::bench::{Plan, Work};
use crate::client::Client;
use crate::client::line::{Line, refused};
use crate::client::options::Options;

/// The largest answer, in bytes: a page of large values is larger than tonic allows unasked.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long an answer may take.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// How many transactions that fill the key space are on their way at a time.
const FILL_IN_FLIGHT: u64 = 4;
/// Keys in one of them; etcd's limit is 128 operations.
const FILL_KEYS: u64 = 100;
/// Bytes of values in one of them; etcd's limit is 1.5 MiB.
const FILL_BYTES: usize = 1 << 20;
/// Keys that are deleted at a time: a large prefix in one request would take a member longer than it may take.
const CLEAR_KEYS: i64 = 5_000;

/// Connections, keys and values of one run.
#[derive(Debug)]
pub(super) struct Site {
    lines: Vec<Line>,
    pub(super) keys: Keys,
    pub(super) values: Values,
}

/// A key that was written before the run, and when.
#[derive(Clone, Debug)]
pub(super) struct Filled {
    pub(super) key: Bytes,
    pub(super) revision: i64,
}

impl Site {
    /// Connects as often as the plan says, to one endpoint after the other.
    pub(super) async fn open(options: &Options, plan: &Plan) -> Result<Self> {
        let mut run = [0; 4];
        rng::fill(&mut run)?;
        let connect = async |n: usize| {
            let client = Client::new(options)?;
            let endpoint = client.endpoints().cycle().nth(n).expect("a client has at least one endpoint");
            client.line(endpoint).await
        };
        let mut lines = Vec::with_capacity(plan.connections);
        // One at a time: a thousand handshakes at once would be load of another kind.
        for n in 0..plan.connections {
            lines.push(connect(n).await?);
        }
        let keys = Keys::new(u32::from_le_bytes(run), plan.key_bytes);
        Ok(Site { lines, keys, values: Values::new(plan.value_bytes, plan.seed) })
    }

    /// What everything of this run begins with.
    pub(super) fn prefix(&self) -> &str {
        self.keys.prefix()
    }

    /// The connection of the `n`-th client.
    pub(super) fn line(&self, n: usize) -> Line {
        self.lines[n % self.lines.len()].clone()
    }

    /// Keys and values over the connection of the `n`-th client.
    pub(super) fn kv(&self, n: usize) -> KvClient<Line> {
        KvClient::new(self.line(n)).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Writes what the plan's load finds when it begins: the keys that are read, the objects of the Kubernetes-like mix.
    pub(super) async fn fill(&self, plan: &Plan) -> Result<Vec<Filled>> {
        let keys: Vec<Bytes> = match plan.work {
            Work::Range { .. } => (0..plan.key_space).map(|n| self.keys.key(n)).collect(),
            Work::Kube { .. } => {
                let clients = plan.clients as u64;
                let namespace = |n: u64| usize::try_from(n % clients).expect("a number of clients");
                (0..plan.key_space).map(|n| self.keys.object(namespace(n), n / clients)).collect()
            }
            Work::Put { .. } | Work::Txn | Work::Watch { .. } | Work::Lease => return Ok(vec![]),
        };
        let fits = (FILL_BYTES / plan.value_bytes.max(1)).clamp(1, usize::try_from(FILL_KEYS).expect("a hundred"));
        let chunks: Vec<&[Bytes]> = keys.chunks(fits).collect();
        let lanes = (0..FILL_IN_FLIGHT).map(async |lane| {
            let lane_of = usize::try_from(lane).expect("a few");
            let (mut kv, mut rng) = (self.kv(lane_of), Seeded::new(plan.seed ^ lane));
            let mut filled = vec![];
            for chunk in chunks.iter().skip(lane_of).step_by(usize::try_from(FILL_IN_FLIGHT).expect("a few")) {
                let puts = chunk.iter().map(|key| put(key.clone(), self.values.any(&mut rng)));
                let txn = TxnRequest { success: puts.collect(), ..TxnRequest::default() };
                let answer =
                    in_time(kv.txn(txn)).await.map_err(|status| refused(&status).during("write what is read later"))?;
                let revision = answer.into_inner().header.unwrap_or_default().revision;
                filled.extend(chunk.iter().map(|key| Filled { key: key.clone(), revision }));
            }
            Ok::<_, Error>(filled)
        });
        Ok(try_join_all(lanes).await?.into_iter().flatten().collect())
    }

    /// Deletes everything below the prefix.
    pub(super) async fn clear(&self) -> Result<()> {
        let mut kv = self.kv(0);
        let failed = |status: Status| {
            let delete = format!("`etcdctl del --prefix {}` deletes it", self.prefix());
            refused(&status).during(format!("delete what was written below {}", self.prefix())).hint(delete)
        };
        loop {
            let (key, range_end) = (Bytes::copy_from_slice(self.prefix().as_bytes()), end_of(self.prefix()));
            let page = RangeRequest { key, range_end, limit: CLEAR_KEYS, keys_only: true, ..RangeRequest::default() };
            let page = in_time(kv.range(page)).await.map_err(failed)?.into_inner();
            let (Some(first), Some(last)) = (page.kvs.first(), page.kvs.last()) else { return Ok(()) };
            let (key, range_end) = (first.key.clone(), behind(&last.key));
            let delete = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
            in_time(kv.delete_range(delete)).await.map_err(failed)?;
            if !page.more {
                return Ok(());
            }
        }
    }
}

/// Waits for an answer, and not for ever.
pub(super) async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// The first key behind `key`.
pub(super) fn behind(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// A put, as a step of a transaction.
pub(super) fn put(key: Bytes, value: Bytes) -> RequestOp {
    let put = PutRequest { key, value, ..PutRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

/// A read of one key, as a step of a transaction.
pub(super) fn get(key: Bytes) -> RequestOp {
    let range = RangeRequest { key, ..RangeRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestRange(range)) }
}

/// A deletion of one key, as a step of a transaction.
pub(super) fn delete(key: Bytes) -> RequestOp {
    let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}

/// That `key` was last written at `revision`; 0: that it is not there.
pub(super) fn unchanged(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    }
}
