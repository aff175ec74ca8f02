//! Every reason for a refusal, as etcd says it on the wire.
//!
//! Clients turn a status back into an error by its text, and decide by its code whether to ask again. Both are etcd's, to
//! the letter; this is the only place that has them.

use tonic::{Code, Status};

use crate::base::error::Error;
use crate::store::machine::refusal::{Failure, Refusal};
use crate::store::node::{Fault, Handle};

/// Reasons of the server's own, beside those of the machine and of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Metadata that names the client's version cannot be read.
    InvalidClientApiVersion,
    /// The client wants a leader, and there is none.
    NoLeader,
    /// No such member.
    MemberNotFound,
    /// The member votes already.
    NotLearner,
    /// No member that could lead.
    BadLeaderTransferee,
    /// The version to go down to is no version.
    DowngradeFormat,
    /// The version to go down to is not the one before.
    DowngradeTarget,
    /// There is no downgrade to cancel.
    NoDowngrade,
    /// A stream of watches was ended by its client.
    WatchCanceled,
    /// There are as many streams of watches as may be.
    TooManyStreams,
}

impl Reason {
    const fn wire(self) -> (Code, &'static str) {
        match self {
            Reason::InvalidClientApiVersion => (Code::InvalidArgument, "etcdserver: invalid client api version"),
            Reason::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            Reason::MemberNotFound => (Code::NotFound, "etcdserver: member not found"),
            Reason::NotLearner => (Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
            Reason::BadLeaderTransferee => (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            Reason::DowngradeFormat => (Code::InvalidArgument, "etcdserver: wrong downgrade target version format"),
            Reason::DowngradeTarget => (Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
            Reason::NoDowngrade => (Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
            Reason::WatchCanceled => (Code::Cancelled, "etcdserver: watch canceled"),
            Reason::TooManyStreams => (Code::ResourceExhausted, "etcdserver: too many watch streams"),
        }
    }
}

const fn refused(refusal: Refusal) -> (Code, &'static str) {
    match refusal {
        Refusal::EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
        Refusal::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        Refusal::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
        Refusal::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
        Refusal::TooManyOperations => (Code::InvalidArgument, "etcdserver: too many operations in txn request"),
        Refusal::DuplicateKey => (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        Refusal::InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
        Refusal::Compacted => (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        Refusal::FutureRevision => (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        Refusal::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
        Refusal::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        Refusal::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
        Refusal::NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        Refusal::Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
    }
}

const fn faulted(fault: &Fault) -> (Code, &'static str) {
    match fault {
        Fault::Refused(refusal) => refused(*refusal),
        // etcd's table says ResourceExhausted; what it sends is this, and clients have met nothing else.
        Fault::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
        Fault::TooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
        Fault::TimedOut => (Code::Unavailable, "etcdserver: request timed out"),
        Fault::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
        Fault::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
    }
}

fn status((code, text): (Code, &'static str)) -> Status {
    Status::new(code, text)
}

impl From<Reason> for Status {
    fn from(reason: Reason) -> Self {
        status(reason.wire())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        status(refused(refusal))
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        status(faulted(&fault))
    }
}

/// What came of a read. A state that cannot be read is the end of this member: it must not answer as if all were well.
pub fn read<T>(handle: &Handle, outcome: Result<T, Failure>) -> Result<T, Status> {
    outcome.map_err(|failure| match failure {
        Failure::Refused(refusal) => refusal.into(),
        Failure::Broken(error) => broken(handle, error),
    })
}

/// The end of this member, told to whoever found it.
pub fn broken(handle: &Handle, error: Error) -> Status {
    handle.poison(error);
    Fault::Stopped.into()
}

/// Something that an operator asked for and that failed, without harm.
pub fn failed(error: &Error) -> Status {
    Status::unknown(format!("etcdserver: {}", error.chain()))
}
