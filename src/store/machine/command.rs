//! Commands as bytes: what an entry of the log holds.

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

/// What an operation is called, as etcd calls it.
pub fn name(operation: &Operation) -> &'static str {
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
    use crate::api::etcdserverpb::PutRequest;

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
