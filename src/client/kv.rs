//! Reading keys: a prefix or a range, page by page, all pages at one revision. Reading is all there is.
//!
//! The first page is read at the newest revision, or at the one that was asked for; the rest at the revision the first
//! page told, so that together they are one picture of the store, whatever is written meanwhile.
//!
//! A page is asked for by its number of keys, but what it costs us is bytes, and what it costs the member is a walk over
//! the whole range to count it. So pages double while they are small, up to a goal in bytes, and are halved and asked for
//! again when an answer is larger than our limit. (400,000 keys of an etcd 3.5: 59 s in pages of 1,000, 3 to 4 s like this.)
//!
//! Invariants:
//! - Keys ascend within a page and from page to page; a member that repeats a key could otherwise hold us for ever.
//! - At most one page is in memory, of at most `PAGE_MESSAGE_BYTES_MAX`.

use bytes::Bytes;

use crate::api::etcdserverpb::kv_client::KvClient;
use crate::api::etcdserverpb::{RangeRequest, RangeResponse};
use crate::api::mvccpb::KeyValue;
use crate::base::error::{Error, Result};
use crate::client::channel::Client;
use crate::client::options::Endpoint;
use crate::client::status;

/// Largest answer accepted, in bytes. One key value of any etcd fits: its requests are limited to 1.5 MiB by default.
pub const PAGE_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A page that is smaller than half of this, in bytes, is followed by one of twice the keys.
pub const PAGE_BYTES_GOAL: usize = 32 << 20;
/// Keys of the first page.
pub const PAGE_KEYS_FIRST: i64 = 1_000;
/// Keys of a page, at most.
pub const PAGE_KEYS_MAX: i64 = 10_000;

/// Which keys to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key; empty: from the very first.
    pub start: Bytes,
    /// First key outside; empty: to the very last.
    pub end: Bytes,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        KeyRange { start: Bytes::new(), end: Bytes::new() }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        // The first key after them: the last byte that can be raised is, what follows it goes. All 0xff: no key is after.
        let kept = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |last| last + 1);
        let mut end = prefix[..kept].to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        KeyRange { start: Bytes::copy_from_slice(prefix), end: end.into() }
    }

    /// One key.
    pub fn key(key: &[u8]) -> Self {
        KeyRange { start: Bytes::copy_from_slice(key), end: [key, &[0]].concat().into() }
    }

    /// The range as etcd's requests write it, where one zero byte stands for "the first" and "no end".
    pub(super) fn request_bounds(&self) -> (Bytes, Bytes) {
        let zero_if_empty = |key: &Bytes| if key.is_empty() { Bytes::from_static(&[0]) } else { key.clone() };
        (zero_if_empty(&self.start), zero_if_empty(&self.end))
    }
}

/// Pages of a range.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    /// The member to read from; none: any that answers.
    endpoint: Option<Endpoint>,
    range: KeyRange,
    /// 0 until the first page told the newest.
    revision: i64,
    page_keys: i64,
    page_keys_max: i64,
    keys_only: bool,
    is_done: bool,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    /// In byte order of the keys; slices of the message they came in, so copy what is kept.
    pub kvs: Vec<KeyValue>,
    /// The revision all pages are read at.
    pub revision: i64,
}

impl Client {
    /// Reads a range at `revision` (0: the newest), from `endpoint` or from any member.
    pub fn range(&self, range: KeyRange, revision: i64, endpoint: Option<&Endpoint>) -> Pages {
        Pages {
            client: self.clone(),
            endpoint: endpoint.cloned(),
            range,
            revision,
            page_keys: PAGE_KEYS_FIRST,
            page_keys_max: PAGE_KEYS_MAX,
            keys_only: false,
            is_done: false,
        }
    }

    /// The value of one key at the newest revision; `None` when there is no such key.
    pub async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let page = self.range(KeyRange::key(key), 0, None).next().await?;
        Ok(page.and_then(|page| page.kvs.into_iter().next()))
    }
}

impl Pages {
    /// Leaves the values out.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// At most `keys` keys a page, 1 to `PAGE_KEYS_MAX`.
    #[must_use]
    pub fn page_keys_max(mut self, keys: i64) -> Self {
        self.page_keys_max = keys.clamp(1, PAGE_KEYS_MAX);
        self.page_keys = self.page_keys.min(self.page_keys_max);
        self
    }

    /// The next page; `None` after the last. A range without keys has one page without keys, which tells the revision.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        if self.is_done {
            return Ok(None);
        }
        let response = loop {
            if let Some(response) = self.ask().await? {
                break response;
            }
            self.page_keys = (self.page_keys / 2).max(1);
            self.page_keys_max = self.page_keys;
        };
        self.accept(response).map(Some)
    }

    /// Asks for a page; nothing when the answer was too large and a smaller page may do.
    async fn ask(&self) -> Result<Option<RangeResponse>> {
        let question = self.client.question("read keys");
        let (key, range_end) = self.range.request_bounds();
        let request = RangeRequest {
            key,
            range_end,
            limit: self.page_keys,
            revision: self.revision,
            keys_only: self.keys_only,
            ..RangeRequest::default()
        };
        let can_shrink = self.page_keys > 1;
        // Too large an answer is an answer: other members would give the same one.
        let ask = |link| {
            let request = request.clone();
            async move {
                let mut client = KvClient::new(link).max_decoding_message_size(PAGE_MESSAGE_BYTES_MAX);
                match client.range(request).await {
                    Ok(response) => Ok(Some(response.into_inner())),
                    Err(status) if can_shrink && status::is_too_large(&status) => Ok(None),
                    Err(status) => Err(status),
                }
            }
        };
        match &self.endpoint {
            Some(endpoint) => {
                self.client.at(endpoint, question, ask).await.map_err(|unanswered| unanswered.error(question, endpoint))
            }
            None => Ok(self.client.any(question, ask).await?.0),
        }
    }

    /// Checks a page and moves on to the next.
    fn accept(&mut self, response: RangeResponse) -> Result<Page> {
        const HINT: &str =
            "read from another member, and compare their hashes with `etcdctl endpoint hashkv --cluster`";
        let header = response.header.unwrap_or_default();
        if self.revision == 0 {
            self.revision = header.revision;
        }
        if header.revision < self.revision {
            return Err(Error::damaged("read keys: the member's revision went back").hint(HINT));
        }
        let keys = response.kvs.iter().map(|kv| &kv.key);
        let ascends = keys.clone().zip(keys.clone().skip(1)).all(|(a, b)| a < b);
        let first_is_in = keys.clone().next().is_none_or(|key| *key >= self.range.start);
        let last_is_in = keys.clone().next_back().is_none_or(|key| self.range.end.is_empty() || *key < self.range.end);
        if !(ascends && first_is_in && last_is_in) {
            return Err(Error::damaged("read keys: the member's keys are out of order or out of range").hint(HINT));
        }
        match response.kvs.last() {
            // The next possible key is the last one with a zero byte behind it.
            Some(last) if response.more => self.range.start = [&last.key, &[0][..]].concat().into(),
            None if response.more => {
                return Err(Error::damaged("read keys: an empty page claims that more follow").hint(HINT));
            }
            _ => self.is_done = true,
        }
        let bytes: usize = response.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        if bytes < PAGE_BYTES_GOAL / 2 {
            self.page_keys = self.page_keys_max.min(self.page_keys * 2);
        }
        Ok(Page { kvs: response.kvs, revision: self.revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::ResponseHeader;
    use crate::base::error::Kind;

    #[test]
    fn a_prefix_ends_where_the_next_key_could_begin() {
        let cases: [(&[u8], &[u8]); 5] =
            [(b"a", b"b"), (b"a\xff", b"b"), (b"/r/", b"/r0"), (b"\xff\xff", b""), (b"", b"")];
        for (prefix, end) in cases {
            assert_eq!(KeyRange::prefix(prefix).end, end, "{prefix:?}");
        }
        assert_eq!(KeyRange::all().request_bounds(), (Bytes::from_static(&[0]), Bytes::from_static(&[0])));
        assert_eq!(KeyRange::key(b"k").end, b"k\0"[..]);
    }

    fn page(keys: &[&'static str], more: bool, revision: i64) -> RangeResponse {
        let kvs = keys.iter().map(|key| KeyValue { key: Bytes::from_static(key.as_bytes()), ..KeyValue::default() });
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        RangeResponse { header, kvs: kvs.collect(), more, count: 0 }
    }

    #[tokio::test]
    async fn pages_continue_behind_the_last_key_at_the_first_pages_revision() {
        let client =
            Client::new(&crate::client::Options { endpoints: vec!["h".to_owned()], ..Default::default() }).unwrap();
        let mut pages = client.range(KeyRange::prefix(b"k"), 0, None);
        assert_eq!(pages.accept(page(&["k1", "k2"], true, 7)).unwrap().revision, 7);
        assert_eq!((pages.range.start.as_ref(), pages.page_keys), (&b"k2\0"[..], 2 * PAGE_KEYS_FIRST));
        assert_eq!(pages.accept(page(&["k3"], false, 9)).unwrap().revision, 7);
        assert!(pages.next().await.unwrap().is_none());

        let wrong = [
            page(&["k2", "k1"], false, 7),
            page(&["k1", "k1"], false, 7),
            page(&["j"], false, 7),
            page(&["l"], false, 7),
            page(&[], true, 7),
            page(&["k1"], false, 6),
        ];
        for response in wrong {
            let mut pages = client.range(KeyRange::prefix(b"k"), 7, None);
            let error = pages.accept(response).unwrap_err();
            assert!(error.kind() == Kind::Damaged && error.hint_text().is_some());
        }
    }
}
