//! What the chosen member gives: which member, why, and where the cluster stood when it was asked.
//!
//! A Holdfast member holds a moment and streams its records. Every other one streams a file, which goes into scratch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::ancestry::Position;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::file::{ReadAt, Scratch, free_bytes};
use crate::base::progress::Progress;
use crate::base::stop::Stop;
use crate::base::units;
use crate::client::Client;
use crate::client::maintenance::{Choice, MemberStatus, Survey, choose};
use crate::client::records::Moment;
use crate::policy::HashOnLeader;

/// Members that lag catch up within this; a cluster that was restored does not.
const CATCH_UP_TRIES: u32 = 10;
const CATCH_UP_PAUSE: Duration = Duration::from_millis(500);

/// What streaming needs to know.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Folder of the spool.
    pub(crate) scratch: &'a Path,
    /// Whether the leader may be read without a warning.
    pub(crate) hash_on_leader: HashOnLeader,
    /// The revision of the newest point: a cluster below it is asked again for a while.
    pub(crate) known_revision: i64,
    pub(crate) stop: &'a Stop,
    pub(crate) progress: &'a Progress,
}

/// What a member gives.
#[derive(Debug)]
pub(crate) enum Content {
    /// Its file, in scratch.
    File { file: ReadAt, bytes: u64, sha256: Sha256 },
    /// A moment, whose records are still to be received.
    Moment(Moment),
}

/// What the chosen member gives, and where it came from.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) content: Content,
    pub(crate) choice: Choice,
    pub(crate) member: MemberStatus,
    /// Where the cluster stood before the file was streamed: the furthest any member had come.
    pub(crate) cluster: Position,
}

/// Has the chosen member hold a moment, or streams its file into scratch.
pub(crate) async fn spool(client: &Client, request: Request<'_>, warnings: &mut Vec<String>) -> Result<Spool> {
    let Request { scratch: folder, stop, progress, .. } = request;
    // Where no file can be made, that is said first, whatever else is wrong; who needs none is not asked for one.
    let scratch = Scratch::create(folder);
    let (survey, cluster) = match survey(client, &request).await {
        Ok(surveyed) => surveyed,
        Err(error) => return Err(scratch.err().unwrap_or(error)),
    };
    for (endpoint, error) in &survey.silent {
        warnings.push(format!("{endpoint} did not answer: {}", error.chain()));
    }
    let choice = choose(&survey.members)?;
    let member = survey.members.iter().find(|member| member.endpoint == choice.endpoint);
    let member = member.expect("the choice is one of the members").clone();
    if let Some(moment) = stop.or(client.moment(&choice.endpoint)).await? {
        return Ok(Spool { content: Content::Moment(moment), choice, member, cluster });
    }
    let mut scratch = scratch?;
    // Where the leader is the only one named, the policy has said so already.
    let others = client.endpoints().count() > 1;
    if choice.is_leader && others && request.hash_on_leader == HashOnLeader::Warn {
        let reason = &choice.reason;
        warnings.push(format!("the snapshot and the hash come from {reason}; writes wait while it hashes its history"));
    }
    let mut stream = stop.or(client.snapshot(&choice.endpoint)).await?;
    let free = free_bytes(folder)?;
    if free < stream.db_bytes() {
        let (need, have) = (units::bytes(stream.db_bytes()), units::bytes(free));
        let text = format!("the snapshot needs {need} of scratch space in {}, {have} are free", folder.display());
        return Err(Error::new(Kind::Full, text).hint("name another folder with --scratch, or make room"));
    }
    progress.stage("receiving the snapshot", stream.db_bytes());
    while let Some(piece) = stop.or(stream.next()).await? {
        scratch.append(&piece)?;
        progress.add(piece.len() as u64);
    }
    let tail = stream.finish().await?;
    let name = PathBuf::from(format!("snapshot of {}", choice.endpoint));
    let file = scratch.into_read_at(&name)?;
    let content = Content::File { file, bytes: tail.db_bytes, sha256: tail.sha256 };
    Ok(Spool { content, choice, member, cluster })
}

/// How the members are. While all of them are behind what is known already, they are asked again: they may lag.
async fn survey(client: &Client, request: &Request<'_>) -> Result<(Survey, Position)> {
    let mut tries = 0;
    loop {
        let survey = request.stop.or(client.survey()).await?;
        let cluster = position(&survey.members);
        tries += 1;
        if cluster.revision >= request.known_revision || tries == CATCH_UP_TRIES {
            return Ok((survey, cluster));
        }
        let pause = async {
            tokio::time::sleep(CATCH_UP_PAUSE).await;
            Ok(())
        };
        request.stop.or(pause).await?;
    }
}

/// The furthest that any member has come.
fn position(members: &[MemberStatus]) -> Position {
    let most = |of: fn(&MemberStatus) -> u64| members.iter().map(of).max().unwrap_or(0);
    Position {
        cluster_id: members.first().map(|member| member.cluster_id).unwrap_or_default(),
        revision: members.iter().map(|member| member.revision).max().unwrap_or(0),
        raft_term: most(|member| member.raft_term),
        raft_index: most(|member| member.raft_index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::EtcdId;
    use crate::client::options::Endpoint;

    #[test]
    fn a_cluster_stands_where_its_furthest_member_does() {
        let member = |revision, raft_term, raft_index| MemberStatus {
            endpoint: Endpoint::parse("m", false).unwrap(),
            cluster_id: EtcdId(7),
            member_id: EtcdId(1),
            version: String::new(),
            db_size: 0,
            db_size_in_use: 0,
            is_leader: false,
            has_leader: true,
            is_learner: false,
            raft_term,
            raft_index,
            raft_applied_index: 0,
            revision,
            alarms: vec![],
            errors: vec![],
        };
        let cluster = position(&[member(5, 2, 90), member(9, 2, 80), member(7, 3, 70)]);
        let furthest = Position { cluster_id: EtcdId(7), revision: 9, raft_term: 3, raft_index: 90 };
        assert_eq!(cluster, furthest);
    }
}
