//! The plan of a restore into a new Holdfast member's directory: a pure function of facts and the operator's request.

use std::path::PathBuf;

use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::recovery::facts::{Facts, Member};
use crate::recovery::plan::{
    BUMP_MIN, Bump, EXPECTED_BYTES_PER_S, Plan, PlannedMember, bump, describe, losses, quote, raised, trust_risks,
};
use crate::store::datadir::identity::{Identity, Origin, Reason};
use crate::store::offline::install::{Auth, Birth};

/// Bytes of an empty log.
const LOG_BYTES: u64 = 128 << 20;

/// What the operator asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The new member's directory.
    pub data_dir: PathBuf,
    /// The folder of its log, if that is another one.
    pub wal_dir: Option<PathBuf>,
    /// The new member.
    pub name: String,
    /// The members of the new cluster, this one among them.
    pub members: Vec<Member>,
    /// Where its peers reach it, when that was said once more.
    pub peer_urls: Option<Vec<String>>,
    /// The new cluster's token.
    pub token: String,
    /// What exactly is restored: the same on every host that restores the same.
    pub source_id: String,
    /// By how much revisions are raised.
    pub bump: Bump,
    /// What becomes of authentication.
    pub auth: Auth,
}

/// Makes the plan, and what carries it out. What makes it impossible is an error.
pub fn plan(facts: &Facts, request: &Request) -> Result<(Plan, Birth)> {
    let (source, target) = (&facts.source, &facts.target);
    let bytes = source.raw_bytes + source.raw_bytes / 2 + LOG_BYTES;
    let path = target.path.display().to_string();
    if target.free_bytes < bytes {
        let (need, have) = (units::bytes(bytes), units::bytes(target.free_bytes));
        return Err(Error::new(Kind::Full, format!("the new member needs about {need}, {have} are free at {path}"))
            .hint("make room, or choose a place on another file system"));
    }
    let (raise, bump_formula) = match (request.bump, facts.history) {
        (Bump::Auto, None) => {
            let formula = format!("{BUMP_MIN}: nothing is known of the history after this file");
            (BUMP_MIN, Some(formula))
        }
        (bump_by, history) => bump(bump_by, source, history)?,
    };
    raised(source, raise)?;
    let identity = identity(facts, request)?;
    let planned =
        PlannedMember { name: request.name.clone(), id: identity.member_id, peer_urls: identity.peer_urls.clone() };
    let plan = Plan {
        source: describe(source),
        revision: source.revision,
        steps: steps(facts, &path, raise),
        losses: losses(facts),
        risks: risks(facts, request, raise),
        token: request.token.clone(),
        cluster_id: Some(identity.cluster_id),
        members: vec![planned],
        bump: raise,
        bump_formula,
        bytes,
        estimate_s: bytes.div_ceil(EXPECTED_BYTES_PER_S),
        next: "Then start it, with the addresses of this host:",
        commands: vec![command(request)],
        target: path,
    };
    let birth = Birth {
        data_dir: request.data_dir.clone(),
        wal_dir: request.wal_dir.clone(),
        identity,
        raise,
        auth: request.auth,
    };
    Ok((plan, birth))
}

fn identity(facts: &Facts, request: &Request) -> Result<Identity> {
    if request.members.len() > 1 {
        let text = format!("--initial-cluster names {} members, and this version runs one", request.members.len());
        return Err(Error::new(Kind::Usage, text)
            .hint("name one member; for a cluster of several restore into etcd with --etcd-snapshot"));
    }
    let members: Vec<_> =
        request.members.iter().map(|member| (member.name.clone(), member.peer_urls.clone())).collect();
    let origin = Origin {
        parent: facts.source.member_lineage,
        // A point tells no more than that.
        ancestry: &[],
        source: &request.source_id,
        fork_revision: Some(facts.source.revision),
        reason: Reason::Restore,
    };
    let identity = Identity::born(&origin, &request.name, &request.token, &members)?;
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    match &request.peer_urls {
        Some(urls) if sorted(urls) != sorted(&identity.peer_urls) => {
            let text = format!(
                "--initial-cluster has {} for {}, --initial-advertise-peer-urls says {}",
                identity.peer_urls.join(","),
                request.name,
                urls.join(",")
            );
            Err(Error::new(Kind::Usage, text).hint("give the same addresses to both"))
        }
        _ => Ok(identity),
    }
}

fn steps(facts: &Facts, path: &str, raise: i64) -> Vec<String> {
    let source = &facts.source;
    let mut steps = vec![
        format!("read {} from {}, checking every byte", units::bytes(source.stored_bytes), source.name),
        format!("load it into a new state below {path}, which is no member yet"),
        "read it back: revision, counts, HashKV and state digest must be the source's".to_owned(),
    ];
    if raise > 0 {
        steps.push(format!(
            "raise the revision by {} to {}, and mark everything before as compacted",
            units::count(raise.unsigned_abs()),
            source.revision + raise
        ));
    }
    steps.push("begin a log, make all of it durable, and make it a member in one step".to_owned());
    steps
}

fn risks(facts: &Facts, request: &Request, raise: i64) -> Vec<String> {
    let source = &facts.source;
    let mut risks = trust_risks(source);
    if raise == 0 {
        risks.push(
            "revisions go back: every client that watches (in Kubernetes: API servers, controllers, kubelets) must be \
             restarted, or be made to notice with --bump auto"
                .to_owned(),
        );
    } else if facts.history.is_none() && request.bump == Bump::Auto {
        risks.push(format!(
            "the old cluster may have come further than {} revisions since: then give a greater --bump",
            units::count(raise.unsigned_abs())
        ));
    }
    if source.auth_enabled {
        risks.push("authentication was on and will be off: everybody who reaches the member is let in".to_owned());
    }
    if source.alarms > 0 {
        risks.push(format!("{} alarm(s) come back: see `etcdctl alarm list`, and disarm", source.alarms));
    }
    risks
}

fn command(request: &Request) -> String {
    let mut parts = vec![
        "holdfast serve".to_owned(),
        format!("--name {}", quote(&request.name)),
        format!("--data-dir {}", quote(&request.data_dir.display().to_string())),
    ];
    parts.extend(request.wal_dir.as_ref().map(|wal| format!("--wal-dir {}", quote(&wal.display().to_string()))));
    parts.push("--listen-client-urls URL --advertise-client-urls URL".to_owned());
    parts.join(" ")
}
