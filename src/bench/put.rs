//! Writes of single keys, with watchers or without.

use std::sync::Arc;

use bytes::Bytes;

use crate::api::etcdserverpb::PutRequest;
use crate::bench::crew::Client;
use crate::bench::pace::Turn;
use crate::bench::tally::Operation;
use crate::bench::watch::Acks;

/// Writes any key of the key space, or one after the other.
pub(super) async fn client(mut client: Client, sequential: bool) {
    while let Some(turn) = client.turn().await {
        let key = if sequential { client.key_of(turn) } else { client.any_key() };
        put(&mut client, turn, key).await;
    }
}

/// The same, while others watch: they are told when it was acknowledged.
pub(super) async fn watched(mut client: Client, acks: Arc<Acks>) {
    while let Some(turn) = client.turn().await {
        let key = client.any_key();
        if let Some(revision) = put(&mut client, turn, key).await {
            acks.note(revision, client.crew.pace.elapsed());
        }
    }
}

/// The revision it was written at, if it was.
async fn put(client: &mut Client, turn: Turn, key: Bytes) -> Option<i64> {
    let request = PutRequest { key, value: client.any_value(), ..PutRequest::default() };
    let mut kv = client.kv.clone();
    let answer = client.ask(Operation::Put, turn, kv.put(request)).await?;
    Some(answer.header.unwrap_or_default().revision)
}
