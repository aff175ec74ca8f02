//! Every reason for a refusal, as etcd says it on the wire.
//!
//! Clients turn a status back into an error by its text, and decide by its code whether to ask again. Both are etcd's, to
//! the letter; this is the only place that has them.

use tonic::{Code, Status};

use crate::base::error::Error;
use crate::store::auth::Denial;
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
    /// These are no addresses of a member.
    MemberUrlsInvalid,
    /// Another member has one of these addresses.
    PeerUrlsExist,
    /// The members that would be left could not agree on anything.
    NotEnoughStarted,
    /// The member votes already.
    NotLearner,
    /// No member that could lead.
    BadLeaderTransferee,
    /// The version to go down to is no version.
    DowngradeFormat,
    /// A probe asks for a service that has no health of its own.
    UnknownService,
    /// The version to go down to is not the one before.
    DowngradeTarget,
    /// There is no downgrade to cancel.
    NoDowngrade,
    /// No such user, or not its password.
    AuthFailed,
    /// The user signs in with a certificate only.
    NoPassword,
    /// The hash of a password that a client made is none of bcrypt, or one that takes too long.
    PasswordHash,
    /// There is no key here that signs tokens, only one that checks them.
    CannotSign,
    /// A token that stands for nobody, or no longer.
    InvalidToken,
    /// A password that is longer than bcrypt looks at.
    PasswordTooLong,
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
            Reason::MemberUrlsInvalid => (Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            Reason::PeerUrlsExist => (Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
            // etcd's table says FailedPrecondition; what it sends is this.
            Reason::NotEnoughStarted => {
                (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members")
            }
            Reason::NotLearner => (Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
            Reason::BadLeaderTransferee => (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            Reason::UnknownService => (Code::NotFound, "unknown service"),
            Reason::DowngradeFormat => (Code::InvalidArgument, "etcdserver: wrong downgrade target version format"),
            Reason::DowngradeTarget => (Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
            Reason::NoDowngrade => (Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
            Reason::AuthFailed => {
                (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
            }
            // These go out as etcd's auth package has them, without the server's name before them.
            Reason::NoPassword => {
                (Code::Unknown, "auth: authentication failed, password was given for no password user")
            }
            Reason::PasswordHash => (
                Code::InvalidArgument,
                "holdfast: the hash of the password is none of bcrypt, or its cost is too large",
            ),
            Reason::CannotSign => (Code::Unknown, "auth: token signing attempted with verify-only key"),
            Reason::PasswordTooLong => (Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
            Reason::InvalidToken => (Code::Unauthenticated, "etcdserver: invalid auth token"),
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
        Refusal::Auth(denial) => denied(denial),
    }
}

const fn denied(denial: Denial) -> (Code, &'static str) {
    match denial {
        Denial::UserEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
        Denial::RoleEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
        Denial::UserExists => (Code::FailedPrecondition, "etcdserver: user name already exists"),
        Denial::UserNotFound => (Code::FailedPrecondition, "etcdserver: user name not found"),
        Denial::RoleExists => (Code::FailedPrecondition, "etcdserver: role name already exists"),
        Denial::RoleNotFound => (Code::FailedPrecondition, "etcdserver: role name not found"),
        Denial::RoleNotGranted => (Code::FailedPrecondition, "etcdserver: role is not granted to the user"),
        Denial::PermissionNotGranted => (Code::FailedPrecondition, "etcdserver: permission is not granted to the role"),
        Denial::PermissionNotGiven => (Code::InvalidArgument, "etcdserver: permission not given"),
        Denial::InvalidManagement => (Code::InvalidArgument, "etcdserver: invalid auth management"),
        Denial::RootUserMissing => (Code::FailedPrecondition, "etcdserver: root user does not exist"),
        Denial::RootRoleMissing => (Code::FailedPrecondition, "etcdserver: root user does not have root role"),
        Denial::PasswordHash => (Code::Unknown, "illegal base64 data in the hash of the password"),
        Denial::NotEnabled => (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        Denial::OldRevision => (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        Denial::PermissionDenied => (Code::PermissionDenied, "etcdserver: permission denied"),
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

impl From<Denial> for Status {
    fn from(denial: Denial) -> Self {
        status(denied(denial))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes and texts that etcd's clients know, of what one member can be brought to say.
    #[test]
    fn codes_and_texts_are_etcds() {
        let said = |status: Status| (status.code() as i32, status.message().to_owned());
        let expected = [
            (3, "key is not provided", said(Refusal::EmptyKey.into())),
            (3, "key not found", said(Refusal::KeyNotFound.into())),
            (3, "value is provided", said(Refusal::ValueProvided.into())),
            (3, "lease is provided", said(Refusal::LeaseProvided.into())),
            (3, "too many operations in txn request", said(Refusal::TooManyOperations.into())),
            (3, "duplicate key given in txn request", said(Refusal::DuplicateKey.into())),
            (3, "invalid client api version", said(Reason::InvalidClientApiVersion.into())),
            (3, "invalid sort option", said(Refusal::InvalidSortOption.into())),
            (3, "request is too large", said(Fault::TooLarge.into())),
            (3, "given member URLs are invalid", said(Reason::MemberUrlsInvalid.into())),
            (3, "wrong downgrade target version format", said(Reason::DowngradeFormat.into())),
            (3, "invalid downgrade target version", said(Reason::DowngradeTarget.into())),
            (11, "mvcc: required revision has been compacted", said(Fault::Refused(Refusal::Compacted).into())),
            (11, "mvcc: required revision is a future revision", said(Refusal::FutureRevision.into())),
            (11, "too large lease TTL", said(Refusal::LeaseTtlTooLarge.into())),
            (8, "mvcc: database space exceeded", said(Refusal::NoSpace.into())),
            (2, "too many requests", said(Fault::TooManyRequests.into())),
            (5, "requested lease not found", said(Refusal::LeaseNotFound.into())),
            (5, "member not found", said(Reason::MemberNotFound.into())),
            (9, "lease already exists", said(Refusal::LeaseExists.into())),
            (9, "Peer URLs already exists", said(Reason::PeerUrlsExist.into())),
            (2, "re-configuration failed due to not enough started members", said(Reason::NotEnoughStarted.into())),
            (9, "can only promote a learner member", said(Reason::NotLearner.into())),
            (9, "bad leader transferee", said(Reason::BadLeaderTransferee.into())),
            (9, "no inflight downgrade job", said(Reason::NoDowngrade.into())),
            (9, "authentication is not enabled", said(Denial::NotEnabled.into())),
            (9, "user name already exists", said(Denial::UserExists.into())),
            (9, "user name not found", said(Denial::UserNotFound.into())),
            (9, "role name already exists", said(Denial::RoleExists.into())),
            (9, "role name not found", said(Denial::RoleNotFound.into())),
            (9, "role is not granted to the user", said(Denial::RoleNotGranted.into())),
            (9, "permission is not granted to the role", said(Denial::PermissionNotGranted.into())),
            (9, "root user does not exist", said(Denial::RootUserMissing.into())),
            (9, "root user does not have root role", said(Denial::RootRoleMissing.into())),
            (3, "user name is empty", said(Denial::UserEmpty.into())),
            (3, "role name is empty", said(Denial::RoleEmpty.into())),
            (3, "permission not given", said(Denial::PermissionNotGiven.into())),
            (3, "invalid auth management", said(Denial::InvalidManagement.into())),
            (3, "revision of auth store is old", said(Denial::OldRevision.into())),
            (3, "authentication failed, invalid user ID or password", said(Reason::AuthFailed.into())),
            (7, "permission denied", said(Fault::Refused(Denial::PermissionDenied.into()).into())),
            (16, "invalid auth token", said(Reason::InvalidToken.into())),
            (14, "no leader", said(Fault::NoLeader.into())),
            (14, "no leader", said(Reason::NoLeader.into())),
            (14, "server stopped", said(Fault::Stopped.into())),
            (14, "request timed out", said(Fault::TimedOut.into())),
            (15, "corrupt cluster", said(Refusal::Corrupt.into())),
            (1, "watch canceled", said(Reason::WatchCanceled.into())),
        ];
        for (code, text, said) in expected {
            assert_eq!(said, (code, format!("etcdserver: {text}")));
        }
    }
}
