//! Why a request is refused: every reason etcd has, by name. Which code and which words each has on the wire is told by
//! `store::server`.

use crate::base::error::Error;
use crate::store::auth::Denial;
use crate::store::mvcc::view::Fault;

/// A reason that is the same on every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// A key is needed.
    EmptyKey,
    /// The key is not there, whose value or lease was to be kept; or an operation of a transaction is none.
    KeyNotFound,
    /// A value was given, and the present one is to be kept.
    ValueProvided,
    /// A lease was given, and the present one is to be kept.
    LeaseProvided,
    /// More operations in a transaction than are allowed.
    TooManyOperations,
    /// A transaction names a key twice.
    DuplicateKey,
    /// No such order, or nothing to order by.
    InvalidSortOption,
    /// The revision was compacted away.
    Compacted,
    /// The revision lies in the future.
    FutureRevision,
    /// No such lease.
    LeaseNotFound,
    /// The id of a lease is taken.
    LeaseExists,
    /// A lease longer than any.
    LeaseTtlTooLarge,
    /// An alarm says that there is no room.
    NoSpace,
    /// An alarm says that members differ.
    Corrupt,
    /// The rules of authentication.
    Auth(Denial),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Refusal::Auth(denial)
    }
}

/// Why something was not applied.
#[derive(Debug)]
pub enum Failure {
    /// For a reason that every member has.
    Refused(Refusal),
    /// For a reason of this member's own: its state cannot be read. It must not go on.
    Broken(Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Broken(error)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Compacted => Failure::Refused(Refusal::Compacted),
            Fault::Future => Failure::Refused(Refusal::FutureRevision),
            Fault::Failed(error) => Failure::Broken(error),
        }
    }
}
