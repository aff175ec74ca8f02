//! The one call that writes: a key into a member that this process started itself, to see that it can be written to.
//!
//! No cluster that is protected is ever written to. So the member must listen on 127.0.0.1, and must say that it is the
//! cluster whose id was minted for it a moment ago, from a token that no other cluster has.

use bytes::Bytes;

use crate::api::etcdserverpb::PutRequest;
use crate::api::etcdserverpb::kv_client::KvClient;
use crate::base::error::{Error, Kind, Result};
use crate::base::id::EtcdId;
use crate::client::channel::Client;
use crate::client::kv::KeyRange;
use crate::client::options::Endpoint;

impl Client {
    /// Writes `value` at `key` into the cluster `own` and reads it back; the revision it was written at.
    pub async fn canary(&self, endpoint: &Endpoint, own: EtcdId, key: &[u8], value: &[u8]) -> Result<i64> {
        let found = self.member_status(endpoint).await?.cluster_id;
        if endpoint.host != "127.0.0.1" || found != own {
            let text = format!("{endpoint} serves cluster {found}, not {own}, which is ours: nothing was written");
            return Err(Error::new(Kind::Conflict, text).hint("another etcd took the port; run the command again"));
        }
        let question = self.question("write the canary");
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        let ask = |link| {
            let put = PutRequest { key: key.clone(), value: value.clone(), ..PutRequest::default() };
            async move { KvClient::new(link).put(put).await }
        };
        let written = self.at(endpoint, question, ask).await;
        let written = written.map_err(|unanswered| unanswered.error(question, endpoint))?.into_inner();
        let revision = written.header.unwrap_or_default().revision;
        let page = self.range(KeyRange::key(&key), 0, Some(endpoint)).next().await?;
        let read = page.and_then(|page| page.kvs.into_iter().next());
        if read.is_some_and(|kv| kv.value == value && kv.mod_revision == revision) {
            return Ok(revision);
        }
        Err(Error::damaged("what was written is not what is read back").hint("do not use this version of etcd"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::{self, Script};

    #[tokio::test]
    async fn a_cluster_that_is_not_ours_is_not_written_to() {
        let (endpoint, _script) = fake::start(Script::default()).await;
        let client = Client::new(&fake::options(&[&endpoint])).unwrap();
        let endpoint = client.endpoints().next().unwrap().clone();
        let theirs = client.member_status(&endpoint).await.unwrap().cluster_id;
        let error = client.canary(&endpoint, EtcdId(theirs.0 ^ 1), b"k", b"v").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.to_string().contains("nothing was written") && error.hint_text().is_some());
    }
}
