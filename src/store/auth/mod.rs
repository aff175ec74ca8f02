//! Who may do what: users, roles, and the permissions of roles, as etcd has them.
//!
//! A user has roles, and a role has permissions: to read, to write, or both, on a key or on a range of keys. What a user may
//! do is the union of what its roles may; a range that is asked for must lie within that union as a whole. The role `root`
//! may do everything, and administers the rest.
//!
//! All of it is a value, the **rules**, with a number that grows with every change: the revision of the rules. It is stored
//! as etcd stores it, message for message, so that a backup moves between the two without a translation. The rules change by
//! operations that all members agreed on, and answer questions from memory: for each user the ranges of its roles are merged
//! when they change, not when they are asked for.
//!
//! Who somebody is, is not decided here: passwords are hashed and compared, and signatures checked, by the server, because
//! neither may depend on a clock or take long where all members wait. What is here is the table of sessions (`sessions`), for
//! tokens that are no more than a name for one: each member has the same, filled by operations that were agreed on.
//!
//! Invariants:
//! - Nothing here reads a clock, draws a number, or waits.
//! - While authentication is on there is a user `root` that has the role `root`: nobody is locked out for good.
//! - Bytes that were stored are kept as they are until the entry itself is changed: fields of a later version survive.

pub mod grant;
pub mod rules;
pub mod sessions;

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Denial {
    /// Nobody asks, and somebody must; or a user would have no name.
    UserEmpty,
    /// A role would have no name.
    RoleEmpty,
    /// The name of a user is taken.
    UserExists,
    /// No such user.
    UserNotFound,
    /// The name of a role is taken.
    RoleExists,
    /// No such role.
    RoleNotFound,
    /// The user has no such role.
    RoleNotGranted,
    /// The role has no such permission.
    PermissionNotGranted,
    /// A permission is needed, and none was given.
    PermissionNotGiven,
    /// The protection of root, or a range that is none.
    InvalidManagement,
    /// Without the user root authentication cannot be switched on.
    RootUserMissing,
    /// Nor without its role.
    RootRoleMissing,
    /// The hash of a password cannot be read.
    PasswordHash,
    /// Authentication is off.
    NotEnabled,
    /// The rules have changed since the identity was made sure of.
    OldRevision,
    /// This user may not.
    PermissionDenied,
}
