//! Keys and values.

use std::num::NonZero;
use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::api::Message;
use crate::api::etcdserverpb::kv_server::Kv;
use crate::api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse, request_op,
};
use crate::base::clock::Stopwatch;
use crate::base::stop::blocking;
use crate::store::machine::command::Operation;
use crate::store::machine::refusal::Failure;
use crate::store::machine::state::State;
use crate::store::machine::tally::Tally;
use crate::store::machine::{self, Reply, check, permit};
use crate::store::mvcc::index::Keys;
use crate::store::node::Handle;
use crate::store::server::convert::{complete, propose};
use crate::store::server::identity::{requester, subject};
use crate::store::server::range_stream::STALL_MAX;
use crate::store::server::{range_stream, status};

/// A range of more keys is looked at on a thread for blocking work.
const INLINE_KEYS_MAX: usize = 64;
/// So is a transaction of more steps.
const INLINE_STEPS_MAX: usize = 8;
/// Such reads at once, for each processor.
const LONG_READS: usize = 4;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    handle: Handle,
    /// Of ranges that are streamed.
    slots: Arc<Semaphore>,
    /// Of reads that take long: more at once take no less time, and hold what they found.
    long: Arc<Semaphore>,
}

impl Service {
    /// Of this member.
    pub fn new(handle: &Handle) -> Self {
        let slots = Arc::new(Semaphore::new(handle.tuning().range_streams_max));
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let long = Arc::new(Semaphore::new(LONG_READS * processors));
        Service { handle: handle.clone(), slots, long }
    }

    /// Reads what takes long, when it is its turn.
    async fn at_length<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = Arc::clone(&self.long).acquire_owned().await;
        blocking(move || {
            // Kept to the end, whether somebody still waits for the answer or not.
            let _turn = turn;
            read()
        })
        .await
    }

    /// The state to read from: as it is here, or as everybody agrees that it is.
    async fn state(&self, stale: bool) -> Result<Arc<State>, Status> {
        if stale { Ok(self.handle.state()) } else { Ok(self.handle.linearized().await?) }
    }
}

/// Answers a range, and notes that it was read.
fn found(handle: &Handle, state: &State, request: &RangeRequest, watch: &Stopwatch) -> Result<RangeResponse, Failure> {
    let outcome = machine::range(state, request);
    handle.note("read-only range ", &Tally::of_one_range(), watch.elapsed(), || {
        let request = format!("key_size:{} range_end_size:{} ", request.key.len(), request.range_end.len());
        let (count, bytes) = outcome.as_ref().map_or((0, 0), |reply| (reply.kvs.len(), reply.encoded_len()));
        (request, format!("range_response_count:{count} size:{bytes}"))
    });
    outcome
}

/// Answers a transaction that only reads, and notes what it read.
fn read(handle: &Handle, state: &State, request: &TxnRequest, watch: &Stopwatch) -> Result<TxnResponse, Failure> {
    let mut tally = Tally::default();
    let outcome = machine::read(state, request, &mut tally);
    handle.note("read-only txn ", &tally, watch.elapsed(), || {
        let (compare, success, failure) = (request.compare.len(), request.success.len(), request.failure.len());
        let (count, bytes) = outcome.as_ref().map_or((0, 0), |reply| (reply.responses.len(), reply.encoded_len()));
        let request = format!("compare:{compare} success:{success} failure:{failure} ");
        (request, format!("responses:<{count}> size:{bytes}"))
    });
    outcome
}

/// Whether a range has few keys.
fn is_short(state: &State, key: &[u8], range_end: &[u8]) -> bool {
    let keys = Keys::of(key, range_end);
    keys.is_one() || state.view.index().range(keys).nth(INLINE_KEYS_MAX).is_none()
}

/// Whether a transaction that only reads has few steps, of few keys each.
fn is_short_txn(state: &State, request: &TxnRequest) -> bool {
    let operations = || request.success.iter().chain(&request.failure);
    let ranges = operations().filter_map(|operation| match &operation.request {
        Some(request_op::Request::RequestRange(request)) => Some((&request.key, &request.range_end)),
        _ => None,
    });
    let mut touched = ranges.chain(request.compare.iter().map(|compare| (&compare.key, &compare.range_end)));
    request.compare.len() + operations().count() <= INLINE_STEPS_MAX
        && touched.all(|(key, range_end)| is_short(state, key, range_end))
}

#[tonic::async_trait]
impl Kv for Service {
    type RangeStreamStream = BoxStream<'static, Result<RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<RangeRequest>) -> Answer<RangeResponse> {
        check::range(request.get_ref())?;
        let requester = requester(&self.handle, &request)?;
        let request = request.into_inner();
        let state = self.state(request.serializable).await?;
        permit::range(&subject(&state, &requester), &request)?;
        let (handle, watch) = (&self.handle, Stopwatch::start());
        let outcome = if is_short(&state, &request.key, &request.range_end) {
            found(handle, &state, &request, &watch)
        } else {
            let handle = handle.clone();
            self.at_length(move || found(&handle, &state, &request, &watch)).await
        };
        let mut reply = status::read(&self.handle, outcome)?;
        complete(&self.handle, &mut reply.header);
        Ok(Response::new(reply))
    }

    async fn range_stream(&self, request: Request<RangeRequest>) -> Answer<Self::RangeStreamStream> {
        check::range(request.get_ref())?;
        range_stream::check(request.get_ref())?;
        let requester = requester(&self.handle, &request)?;
        let request = request.into_inner();
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot
            .map_err(|_| Status::resource_exhausted("holdfast: too many ranges are being streamed; try again later"))?;
        let state = self.state(request.serializable).await?;
        permit::range(&subject(&state, &requester), &request)?;
        self.handle.counters().ranges.increment();
        let chunks = range_stream::chunks(&self.handle, state, request, slot, STALL_MAX)?;
        Ok(Response::new(chunks))
    }

    async fn put(&self, request: Request<PutRequest>) -> Answer<PutResponse> {
        check::put(request.get_ref())?;
        let requester = requester(&self.handle, &request)?;
        Ok(Response::new(propose!(&self.handle, requester, Put, request.into_inner())))
    }

    async fn delete_range(&self, request: Request<DeleteRangeRequest>) -> Answer<DeleteRangeResponse> {
        check::delete_range(request.get_ref())?;
        let requester = requester(&self.handle, &request)?;
        Ok(Response::new(propose!(&self.handle, requester, DeleteRange, request.into_inner())))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Answer<TxnResponse> {
        check::txn(request.get_ref(), self.handle.tuning().txn_operations_max)?;
        let requester = requester(&self.handle, &request)?;
        let request = request.into_inner();
        if !check::reads_only(&request) {
            return Ok(Response::new(propose!(&self.handle, requester, Txn, request)));
        }
        let state = self.state(check::may_be_stale(&request)).await?;
        permit::txn(&subject(&state, &requester), &state.lessor, &request)?;
        let (handle, watch) = (&self.handle, Stopwatch::start());
        let outcome = if is_short_txn(&state, &request) {
            read(handle, &state, &request, &watch)
        } else {
            let handle = handle.clone();
            self.at_length(move || read(&handle, &state, &request, &watch)).await
        };
        let mut reply = status::read(&self.handle, outcome)?;
        complete(&self.handle, &mut reply.header);
        Ok(Response::new(reply))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Answer<CompactionResponse> {
        let requester = requester(&self.handle, &request)?;
        let request = request.into_inner();
        let physical = request.physical;
        let reply = propose!(&self.handle, requester, Compaction, request);
        if physical {
            self.handle.removed().await?;
        }
        Ok(Response::new(reply))
    }
}
