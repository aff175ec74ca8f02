//! What a range request is answered from a view: keys, limits, filters, order.
//!
//! etcd's rules: the count is of all keys in the range at that revision, whatever the limit and the filters say; the limit
//! cuts after filters and order; without either only as many messages are read as are returned, and one key is looked at
//! beyond, to know whether there is more.

use bytes::Bytes;

use crate::api::Message;
use crate::api::etcdserverpb::RangeRequest;
use crate::api::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::api::mvccpb::KeyValue;
use crate::base::error::{Error, Result};
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::view::{Fault, Ground};

/// Keys beyond the limit that are held before they are put in order.
const SURPLUS_MAX: usize = 1024;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The keys asked for, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many keys the range has.
    pub count: i64,
}

/// Answers a range request. Its enums were checked by whoever let it in; what is unknown here means the default.
pub fn range(ground: &Ground<'_>, request: &RangeRequest) -> Result<Found, Fault> {
    let main = ground.reads_at(request.revision)?;
    let alive = || ground.index.alive(Keys::of(&request.key, &request.range_end), main);
    if request.count_only {
        return Ok(Found { count: length(alive().count()), ..Found::default() });
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let order = Order::of(request);
    let picks = Filters::of(request);
    let (mut kvs, mut count, mut taken) = (vec![], 0, 0);
    // A single pass over the keys: those beyond the limit are counted only.
    let reads_max = if order.is_some() || picks.is_some() { usize::MAX } else { limit };
    for (_, version) in alive() {
        count += 1;
        if count <= reads_max {
            let kv = key_value(ground, version)?;
            if picks.as_ref().is_none_or(|picks| picks.take(&kv)) {
                taken += 1;
                kvs.push(kv);
            }
            // What the limit cuts off is not kept until the end: a range of one key of a million holds a few.
            if kvs.len() > limit.saturating_add(SURPLUS_MAX) {
                cut(&mut kvs, order.as_ref(), limit);
            }
        }
    }
    cut(&mut kvs, order.as_ref(), limit);
    let more = if reads_max == usize::MAX { taken > limit } else { count > limit };
    if request.keys_only {
        // Not before: an order by values is one by values that are not shown, too.
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Ok(Found { kvs, more, count: length(count) })
}

/// Leaves the first ones in this order, which is stable: cutting more than once comes to the same.
fn cut(kvs: &mut Vec<KeyValue>, order: Option<&Order>, limit: usize) {
    if let Some(order) = order {
        order.sort(kvs);
    }
    kvs.truncate(limit);
}

/// The key value of a version.
pub fn key_value(ground: &Ground<'_>, version: &Version) -> Result<KeyValue> {
    let message = ground.message(version)?;
    KeyValue::decode(message).map_err(|error| {
        Error::damaged(format!("revision {} of the state is no key value", version.rev())).source(error)
    })
}

fn length(count: usize) -> i64 {
    i64::try_from(count).expect("keys fit into memory")
}

/// Bounds on revisions; 0 is none.
struct Filters {
    created: (i64, i64),
    modified: (i64, i64),
}

impl Filters {
    fn of(request: &RangeRequest) -> Option<Filters> {
        let filters = Filters {
            created: (request.min_create_revision, request.max_create_revision),
            modified: (request.min_mod_revision, request.max_mod_revision),
        };
        (filters.created != (0, 0) || filters.modified != (0, 0)).then_some(filters)
    }

    fn take(&self, kv: &KeyValue) -> bool {
        let within = |(min, max): (i64, i64), n: i64| (min == 0 || n >= min) && (max == 0 || n <= max);
        within(self.created, kv.create_revision) && within(self.modified, kv.mod_revision)
    }
}

/// An order that is not the keys' own.
struct Order {
    target: SortTarget,
    descending: bool,
}

impl Order {
    fn of(request: &RangeRequest) -> Option<Order> {
        let target = SortTarget::try_from(request.sort_target).unwrap_or_default();
        let descending = match SortOrder::try_from(request.sort_order).unwrap_or_default() {
            // Without an order, anything but keys is meant to ascend.
            SortOrder::None | SortOrder::Ascend => false,
            SortOrder::Descend => true,
        };
        (descending || target != SortTarget::Key).then_some(Order { target, descending })
    }

    fn sort(&self, kvs: &mut [KeyValue]) {
        kvs.sort_by(|a, b| {
            let (a, b) = if self.descending { (b, a) } else { (a, b) };
            match self.target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            }
        });
    }
}
