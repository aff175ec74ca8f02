//! Who answered: the part of a reply's header that the machine does not know.

use crate::api::etcdserverpb::ResponseHeader;
use crate::store::machine::state::State;
use crate::store::node::Handle;

/// A header that says who answered, and at which revision.
pub fn header(handle: &Handle, revision: i64) -> Option<ResponseHeader> {
    let member = handle.member();
    Some(ResponseHeader {
        cluster_id: member.cluster_id,
        member_id: member.member_id,
        revision,
        raft_term: handle.term(),
    })
}

/// The header of a reply that was made from a state.
pub fn header_of(handle: &Handle, state: &State) -> Option<ResponseHeader> {
    header(handle, state.view.revision())
}

/// Completes the header of a reply that the machine made. Those nested in it stay as they are.
pub fn complete(handle: &Handle, reply: &mut Option<ResponseHeader>) {
    let revision = reply.as_ref().map_or(0, |header| header.revision);
    *reply = header(handle, revision);
}

/// Proposes a command of somebody's; the reply of its own kind, with a complete header.
macro_rules! propose {
    ($handle:expr, $requester:expr, $kind:ident, $request:expr) => {
        match $handle.propose_for($requester, Operation::$kind($request)).await? {
            Reply::$kind(mut reply) => {
                complete($handle, &mut reply.header);
                reply
            }
            other => unreachable!("a command is answered by a reply of its kind, not by {other:?}"),
        }
    };
}
pub(super) use propose;
