//! Which of etcd's rules the requests came upon. A rule that none came upon fails the test: it would not be tested.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::alarm_request::AlarmAction;
use holdfast::api::etcdserverpb::request_op::Request as Op;
use holdfast::api::etcdserverpb::response_op::Response;
use holdfast::api::mvccpb::KeyValue;

use crate::ask::{Ask, Outcome, Reply, steps};

/// Every rule, by the call that it is about. Sorts and conditions are added by kind.
const RULES: &[(&str, &[&str])] = &[
    (
        "range",
        &[
            "no key",
            "a key that is there",
            "a key that is not there",
            "from the first key",
            "to the last key",
            "from a key to before another",
            "the other way round",
            "a negative revision",
            "an old revision",
            "the revision of the compaction",
            "a compacted revision",
            "a future revision",
            "limit with more",
            "limit without more",
            "a negative limit",
            "a page of an old revision",
            "limit after sorting",
            "limit after filtering",
            "a count beyond the filters",
            "count only",
            "keys only",
            "min_mod_revision",
            "max_mod_revision",
            "min_create_revision",
            "max_create_revision",
            "serializable",
            "an unknown sort",
        ],
    ),
    (
        "put",
        &[
            "no key",
            "a new key",
            "a key again",
            "the same value again",
            "a key that was deleted",
            "prev_kv",
            "prev_kv of a new key",
            "ignore_value",
            "ignore_value with a value",
            "ignore_value of nothing",
            "ignore_lease",
            "ignore_lease with a lease",
            "ignore_lease of nothing",
            "a lease",
            "an unknown lease",
            "too large for a request",
            "too large for a message",
        ],
    ),
    ("delete", &["no key", "nothing", "one key", "many keys", "prev_kvs", "to the last key", "the other way round"]),
    (
        "txn",
        &[
            "too many operations",
            "too many operations inside",
            "as many operations as are allowed",
            "an operation that is none",
            "a key twice",
            "deletions that overlap",
            "no key",
            "value provided",
            "lease provided",
            "no key in a condition",
            "a condition on a range",
            "a condition on an empty range",
            "a condition without an operand",
            "a condition of no kind",
            "nested",
            "nested in nested",
            "changes without a revision",
            "reads only",
            "reads only, stale",
            "without operations",
            "a refused step after a change",
            "an unknown lease",
            "a kept value of nothing",
            "a future revision",
            "a compacted revision",
            "a read of its own change",
            "many steps",
        ],
    ),
    ("compact", &["compacted already", "the future", "the present", "physically", "logically"]),
    (
        "lease",
        &[
            "granted",
            "raised to the minimum",
            "too long",
            "taken already",
            "a negative id",
            "any id",
            "revoked with keys",
            "revoked without keys",
            "revoked and unknown",
            "kept alive",
            "kept alive and unknown",
            "many kept alive at once",
            "time to live",
            "time to live with keys",
            "time to live of none",
            "listed",
        ],
    ),
    (
        "alarm",
        &[
            "listed",
            "raised",
            "taken back",
            "no space for a put",
            "no space for a grant",
            "no space for a txn",
            "deletes without space",
            "compacts without space",
            "deletes in a txn without space",
            "corrupt for a put",
            "corrupt for a delete",
            "corrupt for a txn",
            "corrupt for a compaction",
            "corrupt for a grant",
            "corrupt for a revocation",
            "reads though corrupt",
            "reads in a txn though corrupt",
        ],
    ),
    ("hashkv", &["the newest", "a revision", "compacted", "future"]),
    (
        "member",
        &[
            "urls that are none",
            "removed and unknown",
            "removed and the last",
            "added again",
            "promoted and unknown",
            "promoted and no learner",
            "led by itself",
            "led by nobody",
        ],
    ),
    ("metadata", &["a version"]),
];

/// Whether a rule is one of these.
pub(crate) fn counts(call: &str, rule: &str) -> bool {
    RULES.iter().any(|(of, rules)| *of == call && rules.contains(&rule))
}

/// Which rules were come upon, and how often.
#[derive(Debug)]
pub(crate) struct Coverage {
    hits: BTreeMap<(&'static str, String), u64>,
    /// Alarms that are raised.
    alarms: BTreeSet<i32>,
}

impl Coverage {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let mut hits = BTreeMap::new();
        for (call, rules) in RULES {
            hits.extend(rules.iter().map(|rule| ((*call, (*rule).to_owned()), 0)));
        }
        for (order, target) in (0..3).flat_map(|order| (0..5).map(move |target| (order, target))) {
            hits.insert(("range", sort(order, target)), 0);
        }
        for (target, result) in (0..5).flat_map(|target| (0..4).map(move |result| (target, result))) {
            hits.insert(("txn", condition(target, result)), 0);
        }
        Coverage { hits, alarms: BTreeSet::new() }
    }

    fn hit(&mut self, call: &'static str, rule: &str) {
        let hits = self.hits.get_mut(&(call, rule.to_owned()));
        *hits.unwrap_or_else(|| panic!("{call}: {rule} is no rule of the table")) += 1;
    }

    fn hit_if(&mut self, call: &'static str, rule: &str, condition: bool) {
        if condition {
            self.hit(call, rule);
        }
    }

    fn is_full(&self) -> bool {
        self.alarms.contains(&(pb::AlarmType::Nospace as i32))
    }

    fn is_corrupt(&self) -> bool {
        self.alarms.contains(&(pb::AlarmType::Corrupt as i32))
    }

    /// The table, and whether every rule was come upon.
    pub(crate) fn table(&self) -> (String, Vec<String>) {
        let mut table = String::new();
        for ((call, rule), hits) in &self.hits {
            table += &format!("{hits:>7}  {call}: {rule}\n");
        }
        let unseen = self.hits.iter().filter(|(_, hits)| **hits == 0);
        (table, unseen.map(|((call, rule), _)| format!("{call}: {rule}")).collect())
    }

    /// Notes what a request and etcd's answer were about.
    pub(crate) fn see(&mut self, ask: &Ask, outcome: &Outcome, before: (i64, i64)) {
        let text = outcome.as_ref().err().map_or("", |(_, text)| text.as_str());
        match (ask, outcome) {
            (Ask::Range(request), _) => {
                let reply = outcome.as_ref().ok().map(|reply| match reply {
                    Reply::Range(reply) => reply,
                    other => panic!("{other:?}"),
                });
                self.range(request, reply, text, before);
                self.hit_if("alarm", "reads though corrupt", self.is_corrupt() && reply.is_some());
            }
            (Ask::Put(request), Ok(Reply::Put(reply))) => self.put(request, Ok(reply)),
            (Ask::Put(request), _) => self.put(request, Err(text)),
            (Ask::DeleteRange(request), Ok(Reply::DeleteRange(reply))) => self.delete_range(request, reply, before.0),
            (Ask::DeleteRange(_), _) => {
                self.hit_if("delete", "no key", text.ends_with("key is not provided"));
                self.hit_if("alarm", "corrupt for a delete", text.ends_with("corrupt cluster"));
            }
            (Ask::Txn(request), Ok(Reply::Txn(reply))) => self.txn(request, reply, before.0),
            (Ask::Txn(request), _) => self.refused_txn(request, text),
            (Ask::Compact(request), _) => self.compact(request, text, before.0),
            (Ask::HashKv(revision), _) => {
                self.hit_if("hashkv", "the newest", *revision == 0 && text.is_empty());
                self.hit_if("hashkv", "a revision", *revision != 0 && text.is_empty());
                self.hit_if("hashkv", "compacted", text.ends_with("has been compacted"));
                self.hit_if("hashkv", "future", text.ends_with("is a future revision"));
            }
            (Ask::Alarm(action, alarm), Ok(_)) => {
                let raised = *alarm != pb::AlarmType::None;
                match action {
                    AlarmAction::Get => self.hit("alarm", "listed"),
                    AlarmAction::Activate if raised => drop(self.alarms.insert(*alarm as i32)),
                    AlarmAction::Activate => {}
                    AlarmAction::Deactivate => drop(self.alarms.remove(&(*alarm as i32))),
                }
                self.hit_if("alarm", "raised", raised && *action == AlarmAction::Activate);
                self.hit_if("alarm", "taken back", raised && *action == AlarmAction::Deactivate);
            }
            (Ask::MemberAdd(_) | Ask::MemberUpdate(_), Err(_)) => {
                self.hit_if("member", "urls that are none", text.ends_with("member URLs are invalid"));
            }
            (Ask::MemberAddAgain, Err(_)) => self.hit("member", "added again"),
            (Ask::MemberRemove(own), Err(_)) => {
                self.hit("member", if *own { "removed and the last" } else { "removed and unknown" });
            }
            (Ask::MemberPromote(own), Err(_)) => {
                self.hit("member", if *own { "promoted and no learner" } else { "promoted and unknown" });
            }
            (Ask::MoveLeader(own), _) => self.hit("member", if *own { "led by itself" } else { "led by nobody" }),
            (Ask::Version(_), Ok(_)) => self.hit("metadata", "a version"),
            _ => self.lease(ask, outcome, before.0),
        }
    }

    fn range(&mut self, request: &pb::RangeRequest, reply: Option<&pb::RangeResponse>, text: &str, before: (i64, i64)) {
        let (revision, compact) = before;
        self.hit_if("range", "no key", text.ends_with("key is not provided"));
        self.hit_if("range", "a compacted revision", text.ends_with("has been compacted"));
        self.hit_if("range", "a future revision", text.ends_with("is a future revision"));
        let known = (0..3).contains(&request.sort_order) && (0..5).contains(&request.sort_target);
        self.hit_if("range", "an unknown sort", !known);
        let Some(reply) = reply else { return };
        let (end, limit) = (request.range_end.as_ref(), request.limit);
        let found = i64::try_from(reply.kvs.len()).unwrap();
        let one = end.is_empty();
        self.hit_if("range", "a key that is there", one && reply.count == 1);
        self.hit_if("range", "a key that is not there", one && reply.count == 0);
        self.hit_if("range", "from the first key", !one && request.key == [0][..]);
        self.hit_if("range", "to the last key", end == [0]);
        self.hit_if("range", "from a key to before another", end > request.key.as_ref());
        self.hit_if("range", "the other way round", !one && end != [0] && end <= request.key.as_ref());
        self.hit_if("range", "a negative revision", request.revision < 0);
        let old = request.revision > 0 && request.revision < revision;
        self.hit_if("range", "an old revision", old);
        self.hit_if("range", "the revision of the compaction", request.revision == compact && compact > 0);
        self.hit_if("range", "limit with more", reply.more);
        self.hit_if("range", "limit without more", limit > 0 && found > 0 && !reply.more);
        self.hit_if("range", "a negative limit", limit < 0);
        self.hit_if("range", "a page of an old revision", old && reply.more);
        let sorted = known && (request.sort_target != 0 || request.sort_order == 2);
        self.hit_if("range", "limit after sorting", sorted && reply.more);
        let bounds = [
            ("min_mod_revision", request.min_mod_revision),
            ("max_mod_revision", request.max_mod_revision),
            ("min_create_revision", request.min_create_revision),
            ("max_create_revision", request.max_create_revision),
        ];
        let filtered = bounds.iter().any(|(_, bound)| *bound != 0);
        self.hit_if("range", "limit after filtering", filtered && reply.more);
        self.hit_if("range", "a count beyond the filters", filtered && found < reply.count && found > 0 && !reply.more);
        self.hit_if("range", "count only", request.count_only && reply.count > 0);
        self.hit_if("range", "keys only", request.keys_only && found > 0);
        for (name, bound) in bounds {
            self.hit_if("range", name, bound != 0 && reply.count > 0);
        }
        self.hit_if("range", "serializable", request.serializable);
        if known && found > 1 {
            self.hit("range", &sort(request.sort_order, request.sort_target));
        }
    }

    fn put(&mut self, request: &pb::PutRequest, reply: Result<&pb::PutResponse, &str>) {
        match reply {
            Ok(reply) => {
                self.hit_if("put", "prev_kv", reply.prev_kv.is_some());
                let new = request.prev_kv && reply.prev_kv.is_none();
                self.hit_if("put", "prev_kv of a new key", new);
                // A revision is one more for each change: a key that was there before is told by what it was.
                self.hit_if("put", "a new key", new);
                self.hit_if("put", "a key again", reply.prev_kv.is_some());
                let same = |kv: &KeyValue| kv.value == request.value && !request.ignore_value;
                self.hit_if("put", "the same value again", reply.prev_kv.as_ref().is_some_and(same));
                let born_later = |kv: &KeyValue| kv.create_revision > 2 && kv.version == 1;
                self.hit_if("put", "a key that was deleted", reply.prev_kv.as_ref().is_some_and(born_later));
                self.hit_if("put", "ignore_value", request.ignore_value);
                self.hit_if("put", "ignore_lease", request.ignore_lease);
                self.hit_if("put", "a lease", request.lease != 0);
            }
            Err(text) => {
                let larger = text.starts_with("grpc: received message larger than max");
                self.hit_if("put", "too large for a message", larger);
                self.hit_if("put", "too large for a request", text.ends_with("request is too large"));
                self.hit_if("put", "no key", text.ends_with("key is not provided"));
                self.hit_if("put", "ignore_value with a value", text.ends_with("value is provided"));
                self.hit_if("put", "ignore_lease with a lease", text.ends_with("lease is provided"));
                let nothing = text.ends_with("key not found");
                self.hit_if("put", "ignore_value of nothing", nothing && request.ignore_value);
                self.hit_if("put", "ignore_lease of nothing", nothing && request.ignore_lease);
                self.hit_if("put", "an unknown lease", text.ends_with("lease not found"));
                self.hit_if("alarm", "no space for a put", text.ends_with("space exceeded"));
                self.hit_if("alarm", "corrupt for a put", text.ends_with("corrupt cluster"));
            }
        }
    }

    fn delete_range(&mut self, request: &pb::DeleteRangeRequest, reply: &pb::DeleteRangeResponse, before: i64) {
        let (end, one) = (request.range_end.as_ref(), request.range_end.is_empty());
        let nothing = reply.deleted == 0 && reply.header.as_ref().unwrap().revision == before;
        self.hit_if("delete", "nothing", nothing);
        self.hit_if("delete", "one key", reply.deleted == 1 && one);
        self.hit_if("delete", "many keys", reply.deleted > 1);
        self.hit_if("delete", "prev_kvs", reply.prev_kvs.len() > 1);
        self.hit_if("delete", "to the last key", end == [0] && reply.deleted > 0);
        self.hit_if("delete", "the other way round", !one && end != [0] && end <= request.key.as_ref());
        self.hit_if("alarm", "deletes without space", self.is_full());
    }

    fn txn(&mut self, request: &pb::TxnRequest, reply: &pb::TxnResponse, before: i64) {
        self.conditions(request);
        let revision = reply.header.as_ref().unwrap().revision;
        let taken = if reply.succeeded { &request.success } else { &request.failure };
        let steps = steps(reply);
        let changes = |op: &pb::RequestOp| matches!(op.request, Some(Op::RequestPut(_) | Op::RequestDeleteRange(_)));
        let ranges = |op: &pb::RequestOp| matches!(op.request, Some(Op::RequestRange(_)));
        self.hit_if("txn", "as many operations as are allowed", taken.len() == 128 || steps.len() == 128);
        self.hit_if("txn", "nested", steps.iter().any(|(depth, _)| *depth > 0));
        self.hit_if("txn", "nested in nested", steps.iter().any(|(depth, _)| *depth > 1));
        self.hit_if("txn", "changes without a revision", taken.iter().any(changes) && revision == before);
        self.hit_if("txn", "without operations", taken.is_empty());
        let both = || request.success.iter().chain(&request.failure);
        let reads_only = both().all(ranges) && both().next().is_some();
        self.hit_if("txn", "reads only", reads_only);
        let stale = |op: &pb::RequestOp| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable);
        self.hit_if("txn", "reads only, stale", reads_only && both().all(stale));
        let deletions = taken.iter().filter(|op| matches!(op.request, Some(Op::RequestDeleteRange(_)))).count();
        self.hit_if("txn", "deletions that overlap", deletions > 1);
        let at = |op: &Response| match op {
            Response::ResponseRange(reply) => Some(reply.header.as_ref().unwrap().revision),
            _ => None,
        };
        let own = steps.iter().filter_map(|(_, op)| at(op)).any(|read| read > before);
        self.hit_if("txn", "a read of its own change", own && revision > before);
        let many = |op: &Response| matches!(op, Response::ResponseDeleteRange(reply) if reply.deleted > 1);
        self.hit_if("txn", "many steps", steps.len() > 2 && steps.iter().any(|(_, op)| many(op)));
        self.hit_if("alarm", "reads in a txn though corrupt", reads_only && self.is_corrupt());
        let puts = |op: &pb::RequestOp| matches!(op.request, Some(Op::RequestPut(_)));
        let deletes = both().any(changes) && !both().any(puts) && self.is_full();
        self.hit_if("alarm", "deletes in a txn without space", deletes);
    }

    fn conditions(&mut self, request: &pb::TxnRequest) {
        for compare in &request.compare {
            let known = (0..5).contains(&compare.target) && (0..4).contains(&compare.result);
            if known {
                self.hit("txn", &condition(compare.target, compare.result));
            }
            let (key, end) = (compare.key.as_ref(), compare.range_end.as_ref());
            self.hit_if("txn", "a condition of no kind", !known);
            self.hit_if("txn", "a condition on a range", !end.is_empty());
            self.hit_if("txn", "a condition on an empty range", !end.is_empty() && end != [0] && end <= key);
            self.hit_if("txn", "a condition without an operand", compare.target_union.is_none());
        }
    }

    fn refused_txn(&mut self, request: &pb::TxnRequest, text: &str) {
        let many = request.success.len().max(request.failure.len()) > 128;
        let too_many = text.ends_with("too many operations in txn request");
        self.hit_if("txn", "too many operations", too_many && many);
        self.hit_if("txn", "too many operations inside", too_many && !many);
        self.hit_if("txn", "a key twice", text.ends_with("duplicate key given in txn request"));
        let all = operations(request);
        let none = all.iter().any(|op| op.request.is_none());
        let not_found = text.ends_with("key not found");
        self.hit_if("txn", "an operation that is none", not_found && none);
        self.hit_if("txn", "a kept value of nothing", not_found && !none);
        let in_condition = request.compare.iter().any(|compare| compare.key == Bytes::new());
        let no_key = text.ends_with("key is not provided");
        self.hit_if("txn", "no key in a condition", no_key && in_condition);
        self.hit_if("txn", "no key", no_key && !in_condition);
        self.hit_if("txn", "value provided", text.ends_with("value is provided"));
        self.hit_if("txn", "lease provided", text.ends_with("lease is provided"));
        self.hit_if("txn", "an unknown lease", text.ends_with("lease not found"));
        let (future, compacted) = (text.ends_with("is a future revision"), text.ends_with("has been compacted"));
        self.hit_if("txn", "a future revision", future);
        self.hit_if("txn", "a compacted revision", compacted);
        let changes = all.iter().any(|op| matches!(op.request, Some(Op::RequestPut(_))));
        self.hit_if("txn", "a refused step after a change", changes && (future || compacted));
        self.hit_if("alarm", "no space for a txn", text.ends_with("space exceeded"));
        self.hit_if("alarm", "corrupt for a txn", text.ends_with("corrupt cluster"));
    }

    fn compact(&mut self, request: &pb::CompactionRequest, text: &str, revision: i64) {
        self.hit_if("compact", "compacted already", text.ends_with("has been compacted"));
        self.hit_if("compact", "the future", text.ends_with("is a future revision"));
        self.hit_if("alarm", "corrupt for a compaction", text.ends_with("corrupt cluster"));
        if text.is_empty() {
            self.hit_if("compact", "the present", request.revision == revision);
            self.hit("compact", if request.physical { "physically" } else { "logically" });
            self.hit_if("alarm", "compacts without space", self.is_full());
        }
    }

    fn lease(&mut self, ask: &Ask, outcome: &Outcome, before: i64) {
        let text = outcome.as_ref().err().map_or("", |(_, text)| text.as_str());
        match (ask, outcome) {
            (Ask::Grant(request), Ok(Reply::Grant(reply))) => {
                self.hit_if("lease", "granted", reply.ttl == request.ttl);
                self.hit_if("lease", "a negative id", request.id < 0);
            }
            (Ask::Grant(_), _) => {
                self.hit_if("lease", "too long", text.ends_with("too large lease TTL"));
                self.hit_if("lease", "taken already", text.ends_with("lease already exists"));
                self.hit_if("alarm", "no space for a grant", text.ends_with("space exceeded"));
                self.hit_if("alarm", "corrupt for a grant", text.ends_with("corrupt cluster"));
            }
            (Ask::GrantAny(ttl), Ok(Reply::Grant(reply))) => {
                self.hit("lease", "any id");
                self.hit_if("lease", "raised to the minimum", reply.ttl > *ttl);
            }
            (Ask::Revoke(_), Ok(reply)) => {
                let changed = reply.revision().unwrap() > before;
                self.hit("lease", if changed { "revoked with keys" } else { "revoked without keys" });
            }
            (Ask::Revoke(_), _) => {
                self.hit_if("lease", "revoked and unknown", text.ends_with("lease not found"));
                self.hit_if("alarm", "corrupt for a revocation", text.ends_with("corrupt cluster"));
            }
            (Ask::KeepAlive(_), Ok(Reply::KeepAlive(replies))) => {
                for reply in replies {
                    self.hit("lease", if reply.ttl > 0 { "kept alive" } else { "kept alive and unknown" });
                }
                self.hit_if("lease", "many kept alive at once", replies.len() > 1);
            }
            (Ask::TimeToLive(_), Ok(Reply::TimeToLive(reply))) => {
                self.hit("lease", if reply.ttl < 0 { "time to live of none" } else { "time to live" });
                self.hit_if("lease", "time to live with keys", !reply.keys.is_empty());
            }
            (Ask::Leases, Ok(_)) => self.hit("lease", "listed"),
            _ => {}
        }
    }
}

fn sort(order: i32, target: i32) -> String {
    let (order, target) =
        (pb::range_request::SortOrder::try_from(order), pb::range_request::SortTarget::try_from(target));
    format!("sorted {} by {}", order.unwrap().as_str_name(), target.unwrap().as_str_name())
}

fn condition(target: i32, result: i32) -> String {
    let (target, result) = (pb::compare::CompareTarget::try_from(target), pb::compare::CompareResult::try_from(result));
    format!("{} {}", target.unwrap().as_str_name(), result.unwrap().as_str_name())
}

/// The operations of a transaction, those of nested ones too.
fn operations(request: &pb::TxnRequest) -> Vec<&pb::RequestOp> {
    let mut all = vec![];
    for op in request.success.iter().chain(&request.failure) {
        all.push(op);
        if let Some(Op::RequestTxn(nested)) = &op.request {
            all.extend(operations(nested));
        }
    }
    all
}
