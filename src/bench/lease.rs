//! Leases: each client grants one, keeps it alive a few times on a stream of its own, revokes it, and begins again.

use futures::SinkExt as _;
use futures::channel::mpsc;
use tonic::{Response, Status, Streaming};

use crate::api::etcdserverpb::lease_client::LeaseClient;
use crate::api::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest};
use crate::bench::crew::Client;
use crate::bench::pace::Turn;
use crate::bench::site::in_time;
use crate::bench::tally::Operation;
use crate::client::line::Line;

/// Seconds that a lease is granted for: one that is left behind ends soon.
const TTL_S: i64 = 120;
/// How often a lease is kept alive before it is revoked.
const KEEP_ALIVES: u32 = 8;

/// A stream of keep-alives.
struct Stream {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

/// Grants, keeps alive, revokes.
pub(super) async fn client(client: Client) {
    let mut leases = LeaseClient::new(client.crew.site.line(client.n));
    let mut stream = None;
    // The lease that this client holds, and how often it was kept alive.
    let mut held: Option<(i64, u32)> = None;
    while let Some(turn) = client.turn().await {
        held = match held {
            None => {
                let request = LeaseGrantRequest { ttl: TTL_S, ..LeaseGrantRequest::default() };
                client.ask(Operation::Grant, turn, leases.lease_grant(request)).await.map(|answer| (answer.id, 0))
            }
            Some((id, KEEP_ALIVES)) => {
                let request = LeaseRevokeRequest { id };
                client.ask(Operation::Revoke, turn, leases.lease_revoke(request)).await;
                None
            }
            Some((id, times)) => {
                let is_kept = keep_alive(&client, &mut leases, &mut stream, turn, id).await;
                // One that could not be kept alive is revoked in the next turn: none is left behind.
                Some((id, if is_kept { times + 1 } else { KEEP_ALIVES }))
            }
        };
    }
    if let Some((id, _)) = held {
        // Not measured. One that stays ends by itself.
        let _ = in_time(leases.lease_revoke(LeaseRevokeRequest { id })).await;
    }
}

/// Sends one keep-alive and waits for its answer; whether the lease is still there. A stream that broke is opened again.
async fn keep_alive(
    client: &Client,
    leases: &mut LeaseClient<Line>,
    stream: &mut Option<Stream>,
    turn: Turn,
    id: i64,
) -> bool {
    let call = async {
        let (open, answer) = match stream.take() {
            Some(open) => open.keep_alive(id).await?,
            None => Stream::open(leases, id).await?,
        };
        *stream = Some(open);
        Ok(Response::new(answer))
    };
    let answer = client.ask(Operation::KeepAlive, turn, call).await;
    answer.is_some_and(|answer| answer.ttl > 0)
}

impl Stream {
    /// Opens it with a first keep-alive: etcd answers nothing, not even with headers, before it was asked something.
    async fn open(leases: &mut LeaseClient<Line>, id: i64) -> Result<(Self, LeaseKeepAliveResponse), Status> {
        let (mut requests, outgoing) = mpsc::channel(1);
        requests.try_send(LeaseKeepAliveRequest { id }).expect("a new queue has room for one");
        let answers = leases.lease_keep_alive(outgoing).await?.into_inner();
        Stream { requests, answers }.answered().await
    }

    async fn keep_alive(mut self, id: i64) -> Result<(Self, LeaseKeepAliveResponse), Status> {
        self.requests.send(LeaseKeepAliveRequest { id }).await.map_err(|_| ended())?;
        self.answered().await
    }

    async fn answered(mut self) -> Result<(Self, LeaseKeepAliveResponse), Status> {
        let answer = self.answers.message().await?.ok_or_else(ended)?;
        Ok((self, answer))
    }
}

fn ended() -> Status {
    Status::unavailable("the member ended the stream of keep-alives")
}
