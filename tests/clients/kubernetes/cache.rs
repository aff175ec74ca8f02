//! A watch cache as kube-apiserver keeps it, which does not believe what it is told: each event must fit to what is there,
//! and whenever the server says how far it has told everything, the cache must be what a list at that revision is.

use std::time::Duration;

use holdfast::api::etcdserverpb as pb;
use holdfast::api::mvccpb::event::EventType;
use holdfast::api::mvccpb::{Event, KeyValue};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::api::{Api, Items, Watch};

/// How often a cache asks how far it is.
const ASK: Duration = Duration::from_millis(200);
/// How long it may hear nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is below a prefix, as events say.
#[derive(Debug)]
pub(crate) struct Cache {
    prefix: String,
    pub(crate) items: Items,
    /// Everything up to here was told.
    pub(crate) revision: i64,
    /// Events, by kind: made, changed, deleted.
    pub(crate) added: u64,
    pub(crate) modified: u64,
    pub(crate) deleted: u64,
    /// Answers to questions, and what was said unasked.
    pub(crate) answers: u64,
    pub(crate) bookmarks: u64,
    /// How often it was found to be what a list is.
    pub(crate) compared: u64,
    told: watch::Sender<i64>,
}

impl Cache {
    /// Lists, and watches from there on.
    pub(crate) async fn open(api: &Api, prefix: &str) -> (Cache, Watch) {
        let (revision, items) = api.list(prefix, 0).await.unwrap();
        let watch = api.watch(prefix, revision).await.unwrap();
        (Cache::new(prefix, revision, items), watch)
    }

    fn new(prefix: &str, revision: i64, items: Items) -> Cache {
        Cache {
            prefix: prefix.to_owned(),
            items,
            revision,
            added: 0,
            modified: 0,
            deleted: 0,
            answers: 0,
            bookmarks: 0,
            compared: 0,
            told: watch::Sender::new(revision),
        }
    }

    /// Up to where it was told everything, while it follows.
    pub(crate) fn told(&self) -> watch::Receiver<i64> {
        self.told.subscribe()
    }

    /// All events.
    pub(crate) fn events(&self) -> u64 {
        self.added + self.modified + self.deleted
    }

    /// Takes what a watch says; whether it says how far everything was told.
    pub(crate) fn hear(&mut self, reply: &pb::WatchResponse) -> bool {
        assert!(!reply.canceled && !reply.created && reply.compact_revision == 0, "{reply:?}");
        let said = reply.header.as_ref().unwrap().revision;
        if reply.events.is_empty() {
            assert!(said >= self.revision, "told everything up to {}, and now only to {said}", self.revision);
            self.revision = said;
            if reply.watch_id == -1 {
                self.answers += 1;
            } else {
                self.bookmarks += 1;
            }
            return true;
        }
        // A revision is told in one reply: what comes later is later.
        let before = self.revision;
        for event in &reply.events {
            let kv = event.kv.as_ref().unwrap();
            assert!(kv.mod_revision > before, "{kv:?} again, or too late, after {before}");
            assert!(kv.mod_revision >= self.revision && kv.mod_revision <= said, "{kv:?} after {}", self.revision);
            self.revision = kv.mod_revision;
            self.apply(event, kv);
        }
        false
    }

    fn apply(&mut self, event: &Event, kv: &KeyValue) {
        assert!(kv.key.starts_with(self.prefix.as_bytes()), "{kv:?}");
        let held = match event.r#type() {
            EventType::Put => {
                let held = self.items.insert(kv.key.clone(), kv.clone());
                let is_new = kv.create_revision == kv.mod_revision;
                assert_eq!((is_new, kv.version), (held.is_none(), held.as_ref().map_or(1, |held| held.version + 1)));
                if is_new {
                    self.added += 1;
                } else {
                    self.modified += 1;
                }
                held
            }
            EventType::Delete => {
                self.deleted += 1;
                let held = self.items.remove(&kv.key);
                assert!(held.is_some(), "{kv:?} is not there");
                held
            }
        };
        assert_eq!(event.prev_kv, held, "what was before {kv:?}");
    }

    /// A list at the revision of the cache must be the cache, unless that is compacted meanwhile.
    pub(crate) async fn compare(&mut self, api: &Api) {
        match api.list(&self.prefix, self.revision).await {
            Ok((_, items)) => {
                assert!(items == self.items, "{}", self.difference(&items));
                self.compared += 1;
            }
            Err(status) => assert!(is_compacted(&status), "{status}"),
        }
    }

    fn difference(&self, items: &Items) -> String {
        let (ours, theirs) = (self.items.values(), items.values());
        let missing: Vec<_> = theirs.filter(|kv| self.items.get(&kv.key) != Some(kv)).take(3).collect();
        let wrong: Vec<_> = ours.filter(|kv| items.get(&kv.key) != Some(kv)).take(3).collect();
        format!("{} at {}: a list has {missing:?}, the cache {wrong:?}", self.prefix, self.revision)
    }

    /// Follows the watch, asks how far it is, and compares each time, until everything up to a revision was told.
    pub(crate) async fn follow(mut self, api: Api, mut watch: Watch, mut end: watch::Receiver<i64>) -> Cache {
        let mut ask = tokio::time::interval(ASK);
        loop {
            let last = *end.borrow_and_update();
            if last > 0 && self.revision >= last {
                self.compare(&api).await;
                return self;
            }
            self.told.send_replace(self.revision);
            tokio::select! {
                reply = tokio::time::timeout(PATIENCE, watch.next()) => {
                    if self.hear(&reply.expect("something is said").unwrap()) {
                        self.compare(&api).await;
                    }
                }
                _ = ask.tick() => watch.request_progress().await,
            }
        }
    }
}

/// 410 Gone, in the words by which clients know it.
pub(crate) fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message() == "etcdserver: mvcc: required revision has been compacted"
}
