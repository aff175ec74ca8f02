//! How the members are, which of them should do heavy work, and what their data hashes to.
//!
//! Choosing a member is a pure function of what the members said, with its reason in words, so that a restore point can
//! tell why it was taken where it was taken. The leader is spared because it alone answers every write; a learner, a member
//! that lags, and one whose data is known to be corrupt would give a worse picture of the cluster than the others.
//!
//! Invariants:
//! - Statuses are only ever compared within one cluster: endpoints of different clusters are an error, not a vote.
//! - The same statuses give the same choice.

use futures::future::join_all;

use crate::api::etcdserverpb;
use crate::api::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::api::etcdserverpb::{AlarmRequest, HashKvRequest, StatusRequest, StatusResponse};
use crate::base::error::{Error, Kind, Result};
use crate::base::id::EtcdId;
use crate::base::units;
use crate::client::channel::{Client, Question};
use crate::client::options::Endpoint;
use crate::client::status;

/// A follower whose state is further than this many log entries behind the leader's is lagging. etcd itself refuses
/// requests when it is 5,000 entries behind.
pub const LAG_ENTRIES_MAX: u64 = 5_000;

/// What a member says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Where it was asked.
    pub endpoint: Endpoint,
    /// The cluster it belongs to.
    pub cluster_id: EtcdId,
    /// Itself.
    pub member_id: EtcdId,
    /// Its release, such as `3.5.1`.
    pub version: String,
    /// Size of its database file, in bytes.
    pub db_size: u64,
    /// Bytes of the file that hold data.
    pub db_size_in_use: u64,
    /// Whether it believes that it leads.
    pub is_leader: bool,
    /// Whether it knows of any leader.
    pub has_leader: bool,
    /// Whether it only listens.
    pub is_learner: bool,
    /// Its term.
    pub raft_term: u64,
    /// Highest index it knows committed.
    pub raft_index: u64,
    /// Highest index in its state.
    pub raft_applied_index: u64,
    /// Its store's revision.
    pub revision: i64,
    /// Alarms of the whole cluster, as this member knows them.
    pub alarms: Vec<Alarm>,
    /// Whatever else it complains of, in its words.
    pub errors: Vec<String>,
}

/// An alarm that somebody has to clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The member it is about.
    pub member_id: EtcdId,
    /// What is wrong.
    pub kind: AlarmKind,
}

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmKind {
    /// The quota is used up: writes are refused, reading and backing up work.
    NoSpace,
    /// The member's data differs from the others'.
    Corrupt,
    /// An alarm this program does not know.
    Other,
}

/// What the members said, and which did not answer.
#[derive(Debug)]
pub struct Survey {
    /// Those that answered, in the order of the endpoints; at least one, all of one cluster.
    pub members: Vec<MemberStatus>,
    /// Those that did not, and why.
    pub silent: Vec<(Endpoint, Error)>,
}

/// The member for heavy work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where it is reached.
    pub endpoint: Endpoint,
    /// Whether it leads, so that work there slows writes.
    pub is_leader: bool,
    /// Why this one, for people.
    pub reason: String,
}

/// A member's answer to HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C over the revisions up to the one asked for.
    pub hash: u32,
    /// The compaction in force when it was made, -1 when there never was one. Hashes are comparable only when it is equal.
    pub compact_revision: i64,
    /// The revision the hash reaches to; 0 from members before 3.6, which do not say.
    pub hash_revision: i64,
    /// The cluster.
    pub cluster_id: EtcdId,
    /// The member that hashed.
    pub member_id: EtcdId,
    /// The member's revision when it answered.
    pub revision: i64,
}

impl KvHash {
    /// The revision the hash reaches to when the newest was asked for: members before 3.6 tell it as their own.
    pub fn reaches_to(&self) -> i64 {
        if self.hash_revision > 0 { self.hash_revision } else { self.revision }
    }
}

/// What became of a HashKV question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAnswer {
    /// The hash.
    Hash(KvHash),
    /// The revision is compacted: its hash can no longer be had from this member.
    Compacted,
    /// The member has not come to the revision.
    Future,
}

impl Client {
    /// Asks every endpoint at once how its member is. Fails when nobody answers, or when they are not of one cluster.
    pub async fn survey(&self) -> Result<Survey> {
        let endpoints: Vec<Endpoint> = self.endpoints().cloned().collect();
        let answers = join_all(endpoints.iter().map(|endpoint| self.member_status(endpoint))).await;
        let (mut members, mut silent) = (Vec::new(), Vec::new());
        for (endpoint, answer) in endpoints.into_iter().zip(answers) {
            match answer {
                Ok(member) => members.push(member),
                Err(error) => silent.push((endpoint, error)),
            }
        }
        if members.is_empty() {
            return Err(nobody(silent));
        }
        one_cluster(&members)?;
        Ok(Survey { members, silent })
    }

    /// How the member at `endpoint` is.
    pub async fn member_status(&self, endpoint: &Endpoint) -> Result<MemberStatus> {
        let question = self.question("read the member's status");
        let ask = |link| async move { MaintenanceClient::new(link).status(StatusRequest {}).await };
        let response =
            self.at(endpoint, question, ask).await.map_err(|unanswered| unanswered.error(question, endpoint))?;
        member_status(endpoint, response.into_inner())
    }

    /// The hash of all revisions up to `revision` (0: the newest), made by the member at `endpoint`. It reads the member's
    /// whole key space.
    pub async fn hash_kv(&self, endpoint: &Endpoint, revision: i64) -> Result<HashAnswer> {
        let question = Question { what: "hash the revisions", deadline: self.options().hash_deadline };
        let ask = |link| async move { MaintenanceClient::new(link).hash_kv(HashKvRequest { revision }).await };
        let response = match self.at(endpoint, question, ask).await {
            Ok(response) => response.into_inner(),
            Err(unanswered) if unanswered.status().is_some_and(status::is_compacted) => {
                return Ok(HashAnswer::Compacted);
            }
            Err(unanswered) if unanswered.status().is_some_and(status::is_future) => return Ok(HashAnswer::Future),
            Err(unanswered) => return Err(unanswered.error(question, endpoint)),
        };
        let header = response.header.unwrap_or_default();
        Ok(HashAnswer::Hash(KvHash {
            hash: response.hash,
            compact_revision: response.compact_revision,
            hash_revision: response.hash_revision,
            cluster_id: EtcdId(header.cluster_id),
            member_id: EtcdId(header.member_id),
            revision: header.revision,
        }))
    }

    /// All alarms of the cluster.
    pub async fn alarms(&self) -> Result<Vec<Alarm>> {
        let every = AlarmRequest {
            action: etcdserverpb::alarm_request::AlarmAction::Get.into(),
            member_id: 0,
            alarm: etcdserverpb::AlarmType::None.into(),
        };
        let (response, _) =
            self.any(self.question("list the alarms"), |link| async move {
                MaintenanceClient::new(link).alarm(every).await
            })
            .await?;
        let alarms = response.into_inner().alarms.into_iter().map(|alarm| Alarm {
            member_id: EtcdId(alarm.member_id),
            kind: match alarm.alarm() {
                etcdserverpb::AlarmType::Nospace => AlarmKind::NoSpace,
                etcdserverpb::AlarmType::Corrupt => AlarmKind::Corrupt,
                etcdserverpb::AlarmType::None => AlarmKind::Other,
            },
        });
        Ok(alarms.collect())
    }
}

fn member_status(endpoint: &Endpoint, response: StatusResponse) -> Result<MemberStatus> {
    let header = response.header.unwrap_or_default();
    let size = |name: &str, bytes: i64| {
        u64::try_from(bytes).map_err(|_| {
            Error::damaged(format!("read the member's status from {endpoint}: its {name} is negative"))
                .hint("is this the client port of an etcd member?")
        })
    };
    let (alarms, errors): (Vec<_>, Vec<_>) = response.errors.into_iter().map(|text| (parse_alarm(&text), text)).unzip();
    let errors = errors.into_iter().zip(&alarms).filter(|(_, alarm)| alarm.is_none()).map(|(text, _)| text);
    Ok(MemberStatus {
        errors: errors.collect(),
        alarms: alarms.into_iter().flatten().collect(),
        endpoint: endpoint.clone(),
        cluster_id: EtcdId(header.cluster_id),
        member_id: EtcdId(header.member_id),
        version: response.version,
        db_size: size("database size", response.db_size)?,
        db_size_in_use: size("database size in use", response.db_size_in_use)?,
        is_leader: response.leader != 0 && response.leader == header.member_id,
        has_leader: response.leader != 0,
        is_learner: response.is_learner,
        raft_term: response.raft_term,
        raft_index: response.raft_index,
        raft_applied_index: response.raft_applied_index,
        revision: header.revision,
    })
}

/// Reads an alarm out of a status's errors: `memberID:10276657743932975437 alarm:NOSPACE `, with any spacing.
fn parse_alarm(text: &str) -> Option<Alarm> {
    let mut words = text.split_whitespace();
    let member_id = words.next()?.strip_prefix("memberID:")?.parse().ok()?;
    let kind = match words.next()?.strip_prefix("alarm:")? {
        "NOSPACE" => AlarmKind::NoSpace,
        "CORRUPT" => AlarmKind::Corrupt,
        _ => AlarmKind::Other,
    };
    words.next().is_none().then_some(Alarm { member_id: EtcdId(member_id), kind })
}

/// One error for endpoints that all kept silent; the first one's reason is the cause.
fn nobody(silent: Vec<(Endpoint, Error)>) -> Error {
    let count = silent.len();
    let (_, first) = silent.into_iter().next().expect("a client has at least one endpoint");
    if count == 1 { first } else { first.during(format!("none of the {count} endpoints answered")) }
}

fn one_cluster(members: &[MemberStatus]) -> Result<()> {
    let first = &members[0];
    let strangers: Vec<String> = members
        .iter()
        .filter(|member| member.cluster_id != first.cluster_id)
        .map(|member| format!("{} to {}", member.endpoint, member.cluster_id))
        .collect();
    if strangers.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the endpoints belong to different clusters: {} to {}, {}",
        first.endpoint,
        first.cluster_id,
        strangers.join(", ")
    );
    Err(Error::new(Kind::Usage, text).hint("name the members of one cluster only; one policy stands for one cluster"))
}

/// Picks the member for heavy work: the first healthy voter that keeps up and does not lead; else the leader.
pub fn choose(members: &[MemberStatus]) -> Result<Choice> {
    let term = members.iter().map(|member| member.raft_term).max().unwrap_or(0);
    let is_head = |member: &&MemberStatus| member.is_leader && member.raft_term == term;
    let leader = members.iter().find(is_head);
    // Without the leader's own word, what the best informed member knows committed stands in for it.
    let head = leader.map_or_else(
        || members.iter().map(|member| member.raft_index).max().unwrap_or(0),
        |leader| leader.raft_applied_index,
    );
    let is_corrupt = |member: &MemberStatus| {
        let corrupt = Alarm { member_id: member.member_id, kind: AlarmKind::Corrupt };
        members.iter().any(|witness| witness.alarms.contains(&corrupt))
    };
    let unfit = |member: &MemberStatus| unfit(member, term, head, is_corrupt(member));
    let is_other = |member: &&MemberStatus| leader.is_none_or(|leader| leader.member_id != member.member_id);

    let mut refused = Vec::new();
    for member in members.iter().filter(is_other) {
        match unfit(member) {
            None => return Ok(chosen(member, false, "a voter that keeps up and does not lead".to_owned())),
            Some(why) => refused.push(format!("{} {why}", member.endpoint)),
        }
    }
    if let Some(leader) = leader {
        match unfit(leader) {
            None if refused.is_empty() => {
                return Ok(chosen(leader, true, "the leader, the only member that answered".to_owned()));
            }
            None => return Ok(chosen(leader, true, format!("the leader, because {}", refused.join("; ")))),
            Some(why) => refused.push(format!("{} {why}", leader.endpoint)),
        }
    }
    let refused = if refused.is_empty() { "none answered".to_owned() } else { refused.join("; ") };
    Err(Error::new(Kind::Unavailable, format!("no member is fit to be read: {refused}")).hint(
        "see `etcdctl endpoint status --cluster` and `etcdctl alarm list`; name every member among the endpoints",
    ))
}

fn chosen(member: &MemberStatus, is_leader: bool, reason: String) -> Choice {
    Choice { endpoint: member.endpoint.clone(), is_leader, reason }
}

/// Why a member is not fit for the work; nothing when it is.
fn unfit(member: &MemberStatus, term: u64, head: u64, is_corrupt: bool) -> Option<String> {
    if is_corrupt {
        return Some("has a CORRUPT alarm".to_owned());
    }
    if member.is_learner {
        return Some("is a learner".to_owned());
    }
    if !member.has_leader {
        return Some("knows no leader".to_owned());
    }
    if member.raft_term < term {
        return Some(format!("is still in term {}, others are in {term}", member.raft_term));
    }
    let lag = head.saturating_sub(member.raft_applied_index);
    if lag > LAG_ENTRIES_MAX {
        return Some(format!("lags {} entries behind", units::count(lag)));
    }
    let other = member.alarms.iter().any(|alarm| alarm.member_id == member.member_id && alarm.kind == AlarmKind::Other);
    if other {
        return Some("has an alarm that this version does not know".to_owned());
    }
    member.errors.first().map(|error| format!("complains: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A healthy follower of a cluster whose leader is member 1, all at index 10,000 of term 3.
    fn member(id: u64) -> MemberStatus {
        MemberStatus {
            endpoint: Endpoint::parse(&format!("m{id}"), false).unwrap(),
            cluster_id: EtcdId(0xc),
            member_id: EtcdId(id),
            version: "3.5.1".to_owned(),
            db_size: 1,
            db_size_in_use: 1,
            is_leader: id == 1,
            has_leader: true,
            is_learner: false,
            raft_term: 3,
            raft_index: 10_000,
            raft_applied_index: 10_000,
            revision: 7,
            alarms: vec![],
            errors: vec![],
        }
    }

    fn with(id: u64, change: impl FnOnce(&mut MemberStatus)) -> MemberStatus {
        let mut member = member(id);
        change(&mut member);
        member
    }

    fn alarm(id: u64, kind: AlarmKind) -> Alarm {
        Alarm { member_id: EtcdId(id), kind }
    }

    #[test]
    fn the_first_follower_that_keeps_up_is_chosen() {
        let learner = |id| with(id, |m| m.is_learner = true);
        let lagging = |id, by| with(id, |m| m.raft_applied_index -= by);
        let cases = [
            ("three healthy", vec![member(1), member(2), member(3)], "m2"),
            ("the order is the operator's", vec![member(3), member(1), member(2)], "m3"),
            ("learner", vec![learner(2), member(1), member(3)], "m3"),
            ("at the bound", vec![member(1), lagging(2, LAG_ENTRIES_MAX)], "m2"),
            ("beyond the bound", vec![member(1), lagging(2, LAG_ENTRIES_MAX + 1), member(3)], "m3"),
            ("the leader's endpoint is not among them", vec![lagging(2, 9_000), member(3)], "m3"),
            ("old term", vec![member(1), with(2, |m| m.raft_term = 2), member(3)], "m3"),
            ("no leader known", vec![member(1), with(2, |m| m.has_leader = false), member(3)], "m3"),
            ("complaint", vec![member(1), with(2, |m| m.errors.push("disk".to_owned())), member(3)], "m3"),
            ("full", vec![member(1), with(2, |m| m.alarms.push(alarm(2, AlarmKind::NoSpace))), member(3)], "m2"),
            (
                "corrupt, as another tells",
                vec![with(1, |m| m.alarms.push(alarm(2, AlarmKind::Corrupt))), member(2), member(3)],
                "m3",
            ),
            ("unknown alarm", vec![member(1), with(2, |m| m.alarms.push(alarm(2, AlarmKind::Other))), member(3)], "m3"),
            (
                "a leader of the past",
                vec![with(1, |m| m.raft_term = 2), with(2, |m| m.is_leader = true), member(3)],
                "m3",
            ),
        ];
        for (name, members, endpoint) in cases {
            let choice = choose(&members).unwrap();
            assert_eq!(
                (choice.endpoint.host.as_str(), choice.is_leader),
                (endpoint, false),
                "{name}: {}",
                choice.reason
            );
        }
    }

    #[test]
    fn the_leader_works_only_when_nobody_else_can() {
        let choice = choose(&[member(1)]).unwrap();
        assert_eq!((choice.is_leader, choice.reason.as_str()), (true, "the leader, the only member that answered"));
        let members = [with(2, |m| m.is_learner = true), member(1), with(3, |m| m.raft_applied_index = 1)];
        let choice = choose(&members).unwrap();
        assert_eq!(choice.endpoint.host, "m1");
        assert_eq!(
            choice.reason,
            "the leader, because http://m2:2379 is a learner; http://m3:2379 lags 9,999 entries behind"
        );
        // The same member under two names is still the leader.
        let twice = [with(1, |m| m.endpoint.host = "other".to_owned()), member(1)];
        assert!(choose(&twice).unwrap().is_leader);
    }

    #[test]
    fn nobody_fit_is_an_error_that_names_everyone() {
        let corrupt = with(1, |m| m.alarms.push(alarm(1, AlarmKind::Corrupt)));
        let error = choose(&[corrupt, with(2, |m| m.has_leader = false)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no member is fit to be read: http://m2:2379 knows no leader; http://m1:2379 has a CORRUPT alarm"
        );
        assert!(error.kind() == Kind::Unavailable && error.hint_text().is_some());
        assert!(choose(&[]).is_err());
    }

    #[test]
    fn members_of_two_clusters_are_told_apart() {
        let members = [member(1), member(2), with(3, |m| m.cluster_id = EtcdId(0xd))];
        assert!(one_cluster(&members[..2]).is_ok());
        let error = one_cluster(&members).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the endpoints belong to different clusters: http://m1:2379 to c, http://m3:2379 to d"
        );
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn alarms_are_read_out_of_a_status() {
        let errors = [
            "etcdserver: no leader",
            "memberID:10 alarm:NOSPACE ",
            "memberID:11  alarm:CORRUPT",
            "memberID:12 alarm:NEW",
        ];
        let errors = errors.map(str::to_owned).to_vec();
        let header = Some(etcdserverpb::ResponseHeader { member_id: 10, ..Default::default() });
        let status = StatusResponse { errors, header, leader: 10, ..Default::default() };
        let member = member_status(&Endpoint::parse("m", false).unwrap(), status).unwrap();
        assert_eq!(member.errors, ["etcdserver: no leader"]);
        let kinds = [AlarmKind::NoSpace, AlarmKind::Corrupt, AlarmKind::Other];
        assert_eq!(member.alarms, [alarm(10, kinds[0]), alarm(11, kinds[1]), alarm(12, kinds[2])]);
        assert!(member.is_leader && member.has_leader);
        let negative = StatusResponse { db_size: -1, ..Default::default() };
        assert!(member_status(&Endpoint::parse("m", false).unwrap(), negative).is_err());
    }
}
