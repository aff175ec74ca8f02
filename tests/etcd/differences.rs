//! Where Holdfast means to answer otherwise than etcd 3.5.1. docs/differences.md has the reasons; a test holds the two
//! together.

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::request_op::Request as Op;
use tonic::Code;

use crate::ask::{Ask, Outcome};

/// Names of intended differences, as docs/differences.md has them.
pub(crate) const NAMES: [&str; 4] =
    ["unknown sort options", "hash at the compaction", "other members", "nested puts without space"];

/// The name of the difference between two answers, if it is intended.
pub(crate) fn intended(ask: &Ask, etcd: &Outcome, ours: &Outcome) -> Option<&'static str> {
    let refused = |code: Code, text: &str| matches!(ours, Err((ours, message)) if *ours == code && message == text);
    match ask {
        Ask::Range(request) if is_unsortable(request) && refused(Code::InvalidArgument, UNSORTABLE) => Some(NAMES[0]),
        Ask::HashKv(_) if ours.is_ok() && etcd.as_ref().is_err_and(|(code, _)| *code == Code::OutOfRange) => {
            Some(NAMES[1])
        }
        Ask::MemberAdd(_) | Ask::MemberUpdate(_)
            if ours.as_ref().is_err_and(|(code, _)| *code == Code::Unimplemented) =>
        {
            Some(NAMES[2])
        }
        Ask::Txn(request) if has_nested(request) && refused(Code::ResourceExhausted, NO_SPACE) && etcd.is_ok() => {
            Some(NAMES[3])
        }
        _ => None,
    }
}

const UNSORTABLE: &str = "etcdserver: invalid sort option";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

fn has_nested(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| matches!(op.request, Some(Op::RequestTxn(_))))
}

/// Whether an order or what to order by is unknown.
fn is_unsortable(request: &pb::RangeRequest) -> bool {
    !(0..=2).contains(&request.sort_order) || !(0..=4).contains(&request.sort_target)
}

#[test]
fn every_difference_is_told_to_users() {
    let document = include_str!("../../docs/differences.md");
    for name in NAMES {
        assert!(document.contains(&format!("**{name}**")), "docs/differences.md does not tell of {name:?}");
    }
}
