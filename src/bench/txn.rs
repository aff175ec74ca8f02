//! Compare and set: each client has a key, and sets it if its revision is the one that the client knows.

use crate::api::etcdserverpb::response_op::Response;
use crate::api::etcdserverpb::{TxnRequest, TxnResponse};
use crate::bench::crew::Client;
use crate::bench::site::{get, put, unchanged};
use crate::bench::tally::Operation;

/// Sets its key again and again.
pub(super) async fn client(mut client: Client) {
    let mut kv = client.kv.clone();
    let key = client.crew.site.keys.key(client.n as u64);
    let mut revision = 0;
    while let Some(turn) = client.turn().await {
        let request = TxnRequest {
            compare: vec![unchanged(key.clone(), revision)],
            success: vec![put(key.clone(), client.any_value())],
            failure: vec![get(key.clone())],
        };
        let Some(answer) = client.ask(Operation::Txn, turn, kv.txn(request)).await else { continue };
        if !answer.succeeded {
            client.compare_failed();
        }
        revision = revision_of(&answer);
    }
}

/// The revision of the one key of a transaction: at which it was set, or which it was found at (0: not there).
pub(super) fn revision_of(answer: &TxnResponse) -> i64 {
    if answer.succeeded {
        return answer.header.as_ref().map_or(0, |header| header.revision);
    }
    let found = answer.responses.iter().find_map(|step| match &step.response {
        Some(Response::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    });
    found.map_or(0, |kv| kv.mod_revision)
}
