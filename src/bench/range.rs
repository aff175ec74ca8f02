//! Reads: of single keys, or of a page from any key on.

use crate::api::etcdserverpb::RangeRequest;
use crate::base::error::Error;
use crate::bench::crew::Client;
use crate::bench::keys::end_of;
use crate::bench::tally::Operation;

/// Reads keys that `Site::fill` wrote, and looks whether they are there.
pub(super) async fn client(mut client: Client, limit: Option<u32>, serializable: bool) {
    let mut kv = client.kv.clone();
    let end = end_of(client.crew.site.prefix());
    let operation = if limit.is_some() { Operation::List } else { Operation::Get };
    while let Some(turn) = client.turn().await {
        let mut request = RangeRequest { key: client.any_key(), serializable, ..RangeRequest::default() };
        if let Some(limit) = limit {
            request.range_end = end.clone();
            request.limit = limit.into();
        }
        let answer = client.ask(operation, turn, kv.range(request)).await;
        if answer.is_some_and(|answer| answer.kvs.is_empty()) {
            client.failed("not_found", || {
                Error::damaged("a key that was written before the run is not there")
                    .hint("did somebody delete it? Otherwise check the cluster: `etcdctl endpoint hashkv --cluster`")
            });
        }
    }
}
