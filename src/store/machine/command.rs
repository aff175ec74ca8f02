//! Commands as bytes: what an entry of the log holds.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use prost::Message;

use crate::api::holdfast::v1::{Command, Commands};
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Kind, Result};

pub use crate::api::holdfast::v1::command::Operation;

/// The entry that holds these commands, and the commands.
pub fn encode(commands: Vec<Command>) -> (Vec<u8>, Vec<Command>) {
    let commands = Commands { commands };
    (commands.encode_to_vec(), commands.commands)
}

/// Bytes that an operation takes in an entry.
pub fn bytes(operation: &Operation) -> usize {
    operation.encoded_len()
}

/// An operation without what is secret of it: its kind, and how long its parts are. Printed as etcd prints requests, with
/// lengths in place of keys.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What etcd calls it.
    pub kind: &'static str,
    parts: [(&'static str, usize); 3],
}

impl Shape {
    /// Of this operation.
    pub fn of(operation: &Operation) -> Shape {
        const NONE: (&str, usize) = ("", 0);
        let parts = match operation {
            Operation::Put(put) => [("key_size", put.key.len()), ("value_size", put.value.len()), NONE],
            Operation::DeleteRange(range) => {
                [("key_size", range.key.len()), ("range_end_size", range.range_end.len()), NONE]
            }
            Operation::Txn(txn) => {
                [("compare", txn.compare.len()), ("success", txn.success.len()), ("failure", txn.failure.len())]
            }
            _ => [NONE; 3],
        };
        Shape { kind: kind(operation), parts }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // PutRequest is `put`, DeleteRange `delete_range`: the names of the fields of etcd's message.
        for (i, letter) in self.kind.chars().enumerate() {
            if i > 0 && letter.is_uppercase() {
                f.write_char('_')?;
            }
            f.write_char(letter.to_ascii_lowercase())?;
        }
        f.write_str(":<")?;
        for (name, n) in self.parts.iter().filter(|(name, _)| !name.is_empty()) {
            write!(f, "{name}:{n} ")?;
        }
        f.write_str(">")
    }
}

/// What an operation is called, as etcd calls it.
fn kind(operation: &Operation) -> &'static str {
    match operation {
        Operation::Put(_) => "Put",
        Operation::DeleteRange(_) => "DeleteRange",
        Operation::Txn(_) => "Txn",
        Operation::Compaction(_) => "Compaction",
        Operation::LeaseGrant(_) => "LeaseGrant",
        Operation::LeaseRevoke(_) => "LeaseRevoke",
        Operation::LeaseCheckpoints(_) => "LeaseCheckpoint",
        Operation::Alarm(_) => "Alarm",
        Operation::Publish(_) => "ClusterMemberAttrSet",
        Operation::ClusterVersion(_) => "ClusterVersionSet",
        Operation::AuthEnable(_) => "AuthEnable",
        Operation::AuthDisable(_) => "AuthDisable",
        Operation::UserAdd(_) => "AuthUserAdd",
        Operation::UserDelete(_) => "AuthUserDelete",
        Operation::UserChangePassword(_) => "AuthUserChangePassword",
        Operation::UserGrantRole(_) => "AuthUserGrantRole",
        Operation::UserRevokeRole(_) => "AuthUserRevokeRole",
        Operation::RoleAdd(_) => "AuthRoleAdd",
        Operation::RoleDelete(_) => "AuthRoleDelete",
        Operation::RoleGrantPermission(_) => "AuthRoleGrantPermission",
        Operation::RoleRevokePermission(_) => "AuthRoleRevokePermission",
        Operation::Authenticate(_) => "Authenticate",
    }
}

/// The commands in an entry. What cannot be read, or holds an operation that this program does not know, must not be
/// skipped: this member would no longer be equal to the others.
pub fn decode(entry: Bytes) -> Result<Vec<Command>> {
    let commands = Commands::decode(entry).map_err(|error| {
        Error::damaged("an entry of the log holds no commands").source(error).hint(HINT_MEMBER_DAMAGED)
    })?;
    if commands.commands.iter().any(|command| command.operation.is_none()) {
        return Err(Error::new(Kind::Usage, "an entry of the log holds an operation that this version does not know")
            .hint("start this member with the version that its cluster runs"));
    }
    Ok(commands.commands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest, PutRequest};

    #[test]
    fn what_is_told_of_operations_is_no_secret() {
        let put = Operation::Put(PutRequest { key: "secret".into(), value: "more".into(), ..PutRequest::default() });
        assert_eq!(Shape::of(&put).to_string(), "put:<key_size:6 value_size:4 >");
        let range = DeleteRangeRequest { key: "secret".into(), range_end: "z".into(), prev_kv: false };
        assert_eq!(
            Shape::of(&Operation::DeleteRange(range)).to_string(),
            "delete_range:<key_size:6 range_end_size:1 >"
        );
        assert_eq!(Shape::of(&Operation::LeaseGrant(LeaseGrantRequest::default())).to_string(), "lease_grant:<>");
    }

    #[test]
    fn commands_come_back_and_unknown_ones_stop_the_member() {
        let put = Operation::Put(PutRequest { key: "a".into(), ..PutRequest::default() });
        let command = Command { id: 7, time_ms: 9, operation: Some(put), ..Command::default() };
        let (entry, _) = encode(vec![command.clone(), command.clone()]);
        assert_eq!(decode(entry.clone().into()).unwrap(), [command.clone(), command]);
        assert_eq!(decode(Bytes::copy_from_slice(&entry[..entry.len() - 1])).unwrap_err().kind(), Kind::Damaged);
        let (unknown, _) = encode(vec![Command { id: 7, time_ms: 9, operation: None, ..Command::default() }]);
        assert_eq!(decode(unknown.into()).unwrap_err().kind(), Kind::Usage);
        assert_eq!(decode(Bytes::new()).unwrap(), []);
    }
}
