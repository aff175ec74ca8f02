//! The plan of a restore into an etcd snapshot file: a pure function of facts and the operator's request.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::base::clock::rfc3339;
use crate::base::error::{Error, Kind, Result};
use crate::base::id::{EtcdId, cluster_id, member_id};
use crate::base::units;
use crate::recovery::facts::{Facts, History, Member, SourceFacts, Trust};
use crate::vault::manifest::Comparison;

/// Bytes a second that a restore is expected to write, for the estimate: what a plain disk of a cloud machine does.
pub(super) const EXPECTED_BYTES_PER_S: u64 = 200 << 20;
/// Revisions a bump adds at least.
pub(super) const BUMP_MIN: i64 = 1_000_000;
/// How many times the highest observed rate a bump allows for.
const BUMP_RATE_FACTOR: f64 = 10.0;
/// The highest revision a bump may lead to: half of what a revision can be is left for the new cluster's own changes.
const BUMPED_REVISION_MAX: i64 = i64::MAX / 2;

/// By how much revisions are raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bump {
    /// Not at all.
    None,
    /// Above everything the old cluster can have reached.
    Auto,
    /// By this much.
    By(i64),
}

/// What the operator asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The members of the new cluster; those of the old one otherwise.
    pub initial_cluster: Option<Vec<Member>>,
    /// The new cluster's token.
    pub token: String,
    /// By how much revisions are raised.
    pub bump: Bump,
}

/// What will happen. Printed for people, stored as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What is restored.
    pub source: String,
    /// The revision the result has.
    pub revision: i64,
    /// Where it goes.
    pub target: String,
    /// What is done, in order.
    pub steps: Vec<String>,
    /// What will be lost.
    pub losses: Vec<String>,
    /// What may go wrong, or needs attention.
    pub risks: Vec<String>,
    /// The new cluster's token.
    pub token: String,
    /// The id the new cluster will have; none when its members are not known.
    pub cluster_id: Option<EtcdId>,
    /// The new members.
    pub members: Vec<PlannedMember>,
    /// By how much revisions are raised by the commands that follow; 0 for not at all.
    pub bump: i64,
    /// How that number came about.
    pub bump_formula: Option<String>,
    /// Bytes that will be written, about.
    pub bytes: u64,
    /// Seconds it will take, about.
    pub estimate_s: u64,
    /// What is said before the commands.
    #[serde(skip)]
    pub next: &'static str,
    /// What to run afterwards, one command for each member.
    pub commands: Vec<String>,
}

/// A member of the new cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedMember {
    /// Its name.
    pub name: String,
    /// The id it will have.
    pub id: EtcdId,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
}

/// Makes the plan. What makes it impossible is an error.
pub fn plan(facts: &Facts, request: &Request) -> Result<Plan> {
    let (source, target) = (&facts.source, &facts.target);
    let path = target.path.display().to_string();
    if target.exists {
        return Err(Error::new(Kind::Conflict, format!("{path} is already there"))
            .hint("nothing was changed; choose a new name, or move the old file away first"));
    }
    let bytes = source.raw_bytes + source.raw_bytes / 8;
    if target.free_bytes < bytes {
        let (need, have) = (units::bytes(bytes), units::bytes(target.free_bytes));
        return Err(Error::new(Kind::Full, format!("the restored file needs about {need}, {have} are free at {path}"))
            .hint("make room, or choose a place on another file system"));
    }
    let (bump, bump_formula) = bump(request.bump, source, facts.history)?;
    raised(source, bump)?;
    let members = members(facts, request);
    let ids: Vec<_> = members.iter().map(|member| member.id).collect();
    Ok(Plan {
        source: describe(source),
        revision: source.revision,
        steps: steps(facts, &path),
        losses: losses(facts),
        risks: risks(facts, request, &members),
        token: request.token.clone(),
        cluster_id: (!ids.is_empty()).then(|| cluster_id(&ids)),
        bump,
        bump_formula,
        bytes,
        estimate_s: bytes.div_ceil(EXPECTED_BYTES_PER_S),
        next: "Then, on the host of each member (its data directory must not exist):",
        commands: commands(&members, &request.token, bump, &target.path),
        members,
        target: path,
    })
}

/// Refuses to raise revisions beyond what can be counted on.
pub(super) fn raised(source: &SourceFacts, bump: i64) -> Result<()> {
    if source.revision.checked_add(bump).is_none_or(|raised| raised > BUMPED_REVISION_MAX) {
        let text = format!("raising revision {} by {bump} leaves no room to count on", source.revision);
        return Err(Error::new(Kind::Usage, text)
            .hint("give a smaller number with --bump: above every revision the old cluster can have reached"));
    }
    Ok(())
}

/// The new cluster's members. One of the old cluster that has no name was added and never started: it holds nothing that
/// others do not, and etcd takes no member without a name.
fn members(facts: &Facts, request: &Request) -> Vec<PlannedMember> {
    let started = request.initial_cluster.as_ref().unwrap_or(&facts.members).iter().filter(|m| !m.name.is_empty());
    let planned = |m: &Member| PlannedMember {
        name: m.name.clone(),
        id: member_id(&m.peer_urls, &request.token),
        peer_urls: m.peer_urls.clone(),
    };
    started.map(planned).collect()
}

pub(super) fn describe(source: &SourceFacts) -> String {
    let mut text = format!("{}, revision {}", source.name, source.revision);
    if source.compact_revision > 0 {
        let _ = write!(text, " compacted to {}", source.compact_revision);
    }
    if let Some(time) = source.time {
        let _ = write!(text, ", taken {}", rfc3339(time));
    }
    if let Some(keys) = source.live_keys {
        let _ = write!(text, ", {} keys", units::count(keys));
    }
    text
}

fn steps(facts: &Facts, path: &str) -> Vec<String> {
    let source = &facts.source;
    vec![
        format!("read {} from {}, checking every byte", units::bytes(source.stored_bytes), source.name),
        format!("build an etcd database in {}, without a name", folder_of(path)),
        "read it back: revision, counts, HashKV and state digest must be the source's".to_owned(),
        format!("append its SHA-256, make it durable, and give it its name {path}"),
    ]
}

/// The folder that a path names a file in.
fn folder_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => "the working directory",
    }
}

pub(super) fn losses(facts: &Facts) -> Vec<String> {
    let source = &facts.source;
    let mut losses = vec![match source.time {
        Some(time) => format!("every change after {} (revision {})", rfc3339(time), source.revision),
        None => format!("every change after revision {}", source.revision),
    }];
    if let Some(history) = facts.history
        && history.high_water > source.revision
    {
        losses.push(format!(
            "at least {} revisions: later points reach revision {}",
            units::count((history.high_water - source.revision).unsigned_abs()),
            history.high_water
        ));
    }
    if source.compact_revision > 0 {
        losses.push(format!("history before revision {}, which was compacted", source.compact_revision));
    }
    losses
}

/// What speaks against the source.
pub(super) fn trust_risks(source: &SourceFacts) -> Vec<String> {
    let mut risks: Vec<String> = vec![];
    match &source.trust {
        Trust::Point { comparison, verified, condemned, doubt } => {
            risks.extend(doubt.as_ref().map(|doubt| format!("the point is {doubt}")));
            match comparison {
                Comparison::Equal => {}
                Comparison::Differs => risks.push("the point DIFFERS from the cluster it was taken from".to_owned()),
                Comparison::NotCompared => risks.push("the point was not compared with the live cluster".to_owned()),
            }
            match verified {
                Some((level, false)) => risks.push(format!("its last verification (level {level}) FAILED")),
                Some((level @ ..3, true)) => risks.push(format!("it was verified at level {level} only")),
                Some(_) => {}
                None => risks.push("it was never verified".to_owned()),
            }
            if *condemned {
                risks.push("it is condemned: a collector is about to delete it".to_owned());
            }
        }
        Trust::Sealed => {}
        Trust::Bare => risks.push("the file has no SHA-256 behind it: damage in values cannot be noticed".to_owned()),
    }
    risks
}

fn risks(facts: &Facts, request: &Request, members: &[PlannedMember]) -> Vec<String> {
    let source = &facts.source;
    let mut risks = trust_risks(source);
    if request.bump == Bump::None {
        let bump = if facts.history.is_some() { "auto" } else { "N" };
        risks.push(format!(
            "revisions go back: every client that watches (in Kubernetes: API servers, controllers, kubelets) must be \
             restarted, or be made to notice with --bump {bump}"
        ));
    } else {
        risks.push("--bump-revision needs etcdutl 3.5.10 or newer".to_owned());
    }
    if source.auth_enabled {
        risks.push("authentication is on: users and passwords are those of that time".to_owned());
    }
    if source.alarms > 0 {
        risks.push(format!("{} alarm(s) come back: see `etcdctl alarm list`, and disarm", source.alarms));
    }
    if !source.storage_version.is_empty() {
        risks.push(format!("the data has storage version {}: use that etcd or a newer one", source.storage_version));
    }
    let nameless = facts.members.iter().filter(|member| member.name.is_empty());
    if request.initial_cluster.is_none() {
        risks.extend(nameless.map(|member| {
            let urls = member.peer_urls.join(", ");
            format!("the member at {urls} was added and never started: it is left out, add it again afterwards")
        }));
    }
    if members.is_empty() {
        risks.push("the members are not known: name them with --initial-cluster to see the commands".to_owned());
    }
    risks
}

/// The number and how it came about.
pub(super) fn bump(bump: Bump, source: &SourceFacts, history: Option<History>) -> Result<(i64, Option<String>)> {
    match bump {
        Bump::None => Ok((0, None)),
        Bump::By(by) if by > 0 => Ok((by, Some("as asked for".to_owned()))),
        Bump::By(by) => Err(Error::new(Kind::Usage, format!("revisions cannot be raised by {by}"))
            .hint("give a number above 0, `auto` or `none`")),
        Bump::Auto => {
            let Some(history) = history else {
                return Err(Error::new(Kind::Usage, "nothing is known of the history after this file")
                    .hint("give a number with --bump: above every revision the old cluster can have reached"));
            };
            let distance = history.high_water - source.revision;
            #[expect(clippy::cast_possible_truncation, reason = "a float saturates")]
            let allowance = (BUMP_RATE_FACTOR * history.rate_per_s * history.since_last_s) as i64;
            let by = distance.saturating_add(allowance.max(BUMP_MIN));
            let formula = format!(
                "{distance} up to the highest revision seen ({}) + max({}, 10 x {:.1} changes/s x {:.0} s since the last point)",
                history.high_water, BUMP_MIN, history.rate_per_s, history.since_last_s
            );
            Ok((by, Some(formula)))
        }
    }
}

/// One `etcdutl` command for each member.
fn commands(members: &[PlannedMember], token: &str, bump: i64, file: &Path) -> Vec<String> {
    let pairs = members.iter().flat_map(|m| m.peer_urls.iter().map(|url| format!("{}={url}", m.name)));
    let initial_cluster = pairs.collect::<Vec<_>>().join(",");
    let command = |member: &PlannedMember| {
        let mut parts = vec![
            format!("etcdutl snapshot restore {}", quote(&file.display().to_string())),
            format!("--name {}", quote(&member.name)),
            format!("--initial-cluster {}", quote(&initial_cluster)),
            format!("--initial-cluster-token {}", quote(token)),
            format!("--initial-advertise-peer-urls {}", quote(&member.peer_urls.join(","))),
            format!("--data-dir {}", quote(&format!("{}.etcd", member.name))),
        ];
        if bump > 0 {
            parts.push(format!("--bump-revision {bump} --mark-compacted"));
        }
        parts.join(" ")
    };
    members.iter().map(command).collect()
}

/// A word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Reads `name=url,name=url,...` as etcd does: a name may come several times.
pub fn parse_initial_cluster(text: &str) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = vec![];
    for part in text.split(',') {
        let pair = part.split_once('=').filter(|(name, url)| !name.is_empty() && url.contains("://"));
        let Some((name, url)) = pair else {
            return Err(Error::new(Kind::Usage, format!("{part:?} is not NAME=URL"))
                .hint("write --initial-cluster as etcd takes it: m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380"));
        };
        if members.iter().any(|member| member.peer_urls.iter().any(|known| known == url)) {
            return Err(Error::new(Kind::Usage, format!("--initial-cluster names {url} twice"))
                .hint("give every member peer addresses of its own"));
        }
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => member.peer_urls.push(url.to_owned()),
            None => members.push(Member { name: name.to_owned(), peer_urls: vec![url.to_owned()] }),
        }
    }
    Ok(members)
}

/// The plan for people.
pub fn render(plan: &Plan) -> String {
    let mut text = format!("Plan: restore {}\n      into {}\n", plan.source, plan.target);
    let mut section = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}");
            lines.iter().for_each(|line| {
                let _ = writeln!(text, "  - {line}");
            });
        }
    };
    section("Steps", &plan.steps);
    section("Will be lost", &plan.losses);
    section("Risks", &plan.risks);
    let mut identity = vec![format!("token {}", plan.token)];
    identity.extend(plan.cluster_id.map(|id| format!("cluster id {id}")));
    identity
        .extend(plan.members.iter().map(|m| format!("member {} id {} at {}", m.name, m.id, m.peer_urls.join(", "))));
    if let Some(formula) = &plan.bump_formula {
        identity.push(format!("revisions raised by {}: {formula}", plan.bump));
    }
    section("New identity", &identity);
    let _ = writeln!(text, "\nWrites about {} in about {} s.", units::bytes(plan.bytes), plan.estimate_s.max(1));
    if !plan.commands.is_empty() {
        let _ = writeln!(text, "\n{}", plan.next);
        plan.commands.iter().for_each(|command| {
            let _ = writeln!(text, "  {command}");
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as StdError;
    use std::fs;

    use goldenscript::Command;

    use crate::base::clock::parse_rfc3339;
    use crate::recovery::facts::TargetFacts;

    /// Facts and a request that scripts change; each block begins anew with a sound point of three members.
    struct Planning {
        facts: Facts,
        request: Request,
    }

    impl Planning {
        fn new() -> Self {
            let members =
                parse_initial_cluster("m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380,m3=https://10.0.0.3:2380");
            let time = |text: &str| parse_rfc3339(text).unwrap();
            let source = SourceFacts {
                name: "point 3f2a91c07d5e8b46 of cluster prod".to_owned(),
                cluster_id: EtcdId(0xcdf8_1819_4e3a_8c32),
                member_lineage: None,
                revision: 5_000,
                compact_revision: 4_200,
                time: Some(time("2026-05-15T02:00:00Z")),
                storage_version: String::new(),
                live_keys: Some(1_234),
                stored_bytes: 50 << 20,
                raw_bytes: 400 << 20,
                auth_enabled: false,
                alarms: 0,
                trust: Trust::Point {
                    comparison: Comparison::Equal,
                    verified: Some((3, true)),
                    condemned: false,
                    doubt: None,
                },
            };
            let target = TargetFacts { path: "/backup/restored.db".into(), exists: false, free_bytes: 10 << 30 };
            let history = Some(History { high_water: 5_000, rate_per_s: 12.5, since_last_s: 3_600.0 });
            let now = time("2026-05-15T03:00:00Z");
            Planning {
                facts: Facts { source, members: members.unwrap(), target, history, now },
                request: Request { initial_cluster: None, token: "restored-1".to_owned(), bump: Bump::None },
            }
        }

        /// `point [compared=] [verified=LEVEL:ok|failed|never] [condemned=true] [doubt=]`
        fn point(&mut self, command: &Command) -> Result<(), Box<dyn StdError>> {
            let mut args = command.consume_args();
            let comparison = match args.take_key("compared").unwrap_or("equal") {
                "equal" => Comparison::Equal,
                "differs" => Comparison::Differs,
                _ => Comparison::NotCompared,
            };
            let verified = match args.take_key("verified").unwrap_or("3:ok").split_once(':') {
                Some((level, verdict)) => Some((level.parse()?, verdict == "ok")),
                None => None,
            };
            let condemned = args.take_key("condemned").is_some();
            let doubt = args.take_key("doubt").map(str::to_owned);
            self.facts.source.trust = Trust::Point { comparison, verified, condemned, doubt };
            args.reject_next()
        }

        /// `source [revision=] [compacted=] [auth=true] [alarms=] [storage=] [raw=] [stored=]`
        fn source(&mut self, command: &Command) -> Result<(), Box<dyn StdError>> {
            let source = &mut self.facts.source;
            let mut args = command.consume_args();
            while let Some((key, value)) = args.next_key() {
                match key {
                    "revision" => source.revision = value.parse()?,
                    "compacted" => source.compact_revision = value.parse()?,
                    "auth" => source.auth_enabled = value.parse()?,
                    "alarms" => source.alarms = value.parse()?,
                    "storage" => source.storage_version = value.to_owned(),
                    "raw" => source.raw_bytes = value.parse()?,
                    other => return Err(format!("the source has no {other}").into()),
                }
            }
            args.reject_next()
        }

        /// `file NAME sealed|bare`: what is known of a file is less than what is known of a point.
        fn file(&mut self, command: &Command) -> Result<(), Box<dyn StdError>> {
            let mut args = command.consume_args();
            let source = &mut self.facts.source;
            source.name = format!("file {}", args.next_pos().ok_or("which file?")?);
            source.trust = if args.next_pos() == Some("sealed") { Trust::Sealed } else { Trust::Bare };
            (source.cluster_id, source.time, source.live_keys) = (EtcdId(0), None, None);
            source.stored_bytes = source.raw_bytes;
            self.facts.history = None;
            args.reject_next()
        }

        /// `members [NAME=URL,URL]...`: the old cluster's, none without arguments.
        fn members(&mut self, command: &Command) -> Result<(), Box<dyn StdError>> {
            let mut args = command.consume_args();
            self.facts.members.clear();
            while let Some((name, urls)) = args.next_key() {
                let peer_urls = urls.split(',').map(str::to_owned).collect();
                self.facts.members.push(Member { name: name.to_owned(), peer_urls });
            }
            args.reject_next()
        }

        /// `target [path=] [exists=true] [free=]`
        fn target(&mut self, command: &Command) -> Result<(), Box<dyn StdError>> {
            let mut args = command.consume_args();
            let target = &mut self.facts.target;
            target.exists = args.take_key("exists").is_some();
            if let Some(path) = args.take_key("path") {
                target.path = path.into();
            }
            if let Some(free) = args.take_key("free") {
                target.free_bytes = free.parse()?;
            }
            args.reject_next()
        }

        /// `history high=REVISION rate=PER_SECOND since=SECONDS`, or `history none`
        fn history(&mut self, command: &Command) -> Result<(), Box<dyn StdError>> {
            let mut args = command.consume_args();
            self.facts.history = None;
            if args.next_pos() != Some("none") {
                let mut number = |key| args.take_key(key).unwrap_or("0").to_owned();
                let (high_water, rate_per_s, since_last_s) = (number("high"), number("rate"), number("since"));
                self.facts.history = Some(History {
                    high_water: high_water.parse()?,
                    rate_per_s: rate_per_s.parse()?,
                    since_last_s: since_last_s.parse()?,
                });
            }
            args.reject_next()
        }

        /// `ask [bump=none|auto|N] [token=] [initial_cluster=]`; what cannot be asked for is shown as the error it is.
        fn ask(&mut self, command: &Command) -> Result<String, Box<dyn StdError>> {
            let mut args = command.consume_args();
            if let Some(bump) = args.take_key("bump") {
                self.request.bump = match bump {
                    "none" => Bump::None,
                    "auto" => Bump::Auto,
                    number => Bump::By(number.parse()?),
                };
            }
            if let Some(token) = args.take_key("token") {
                token.clone_into(&mut self.request.token);
            }
            if let Some(text) = args.take_key("initial_cluster") {
                match parse_initial_cluster(text) {
                    Ok(members) => self.request.initial_cluster = Some(members),
                    Err(error) => return Ok(refusal(&error)),
                }
            }
            args.reject_next()?;
            Ok(String::new())
        }

        /// `plan`: all of it as people see it; `plan PART...`: `losses`, `risks`, `bump`, `ids`, `commands`.
        fn plan(&self, command: &Command) -> Result<String, Box<dyn StdError>> {
            let plan = match plan(&self.facts, &self.request) {
                Ok(plan) => plan,
                Err(error) => return Ok(refusal(&error)),
            };
            let mut args = command.consume_args();
            let mut text = String::new();
            while let Some(part) = args.next_pos() {
                match part {
                    "losses" => plan.losses.iter().for_each(|line| text.push_str(&format!("loss: {line}\n"))),
                    "risks" => plan.risks.iter().for_each(|line| text.push_str(&format!("risk: {line}\n"))),
                    "commands" => plan.commands.iter().for_each(|line| text.push_str(&format!("$ {line}\n"))),
                    "bump" => {
                        let formula = plan.bump_formula.as_deref().unwrap_or("not raised");
                        text.push_str(&format!("bump: {} ({formula})\n", plan.bump));
                    }
                    "ids" => {
                        text.push_str(&format!("cluster: {:?}\n", plan.cluster_id));
                        plan.members.iter().for_each(|m| text.push_str(&format!("member {:?}: {}\n", m.name, m.id)));
                    }
                    other => return Err(format!("a plan has no {other}").into()),
                }
            }
            Ok(if text.is_empty() && command.args.is_empty() { render(&plan) } else { text })
        }
    }

    fn refusal(error: &Error) -> String {
        let hint = error.hint_text().expect("every refusal has a hint");
        format!("refused ({}): {}\nhint: {hint}\n", error.kind().name(), error.chain())
    }

    impl goldenscript::Runner for Planning {
        type Command = Command;

        fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn StdError>> {
            match command.name.as_str() {
                "point" => self.point(command)?,
                "source" => self.source(command)?,
                "file" => self.file(command)?,
                "members" => self.members(command)?,
                "target" => self.target(command)?,
                "history" => self.history(command)?,
                "ask" => return self.ask(command),
                "plan" => return self.plan(command),
                other => return Err(format!("nothing is called {other}").into()),
            }
            Ok(String::new())
        }

        fn start_block(&mut self, _: &goldenscript::Block) -> Result<String, Box<dyn StdError>> {
            *self = Planning::new();
            Ok(String::new())
        }
    }

    /// Each file in scripts is a family of disasters: facts in, plan out. `UPDATE_GOLDENFILES=1` writes what comes out.
    #[test]
    fn every_disaster_has_its_plan() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/recovery/scripts");
        let mut scripts: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        scripts.sort();
        assert!(scripts.len() >= 6, "{scripts:?}");
        scripts.iter().for_each(|script| goldenscript::run(&mut Planning::new(), script).unwrap());
    }

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        for word in [
            "m1", "", "it's", "''", "$(id)", "`id`", "a b", "*?[x]", "\"", "\\", "a\nb", "é", "!", "~", "#x", "a;b&c|d",
        ] {
            let script = format!("printf '%s' {}", quote(word));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word, "{script}");
        }
    }

    #[test]
    fn a_plan_is_the_same_in_words_and_in_json() {
        let Planning { facts, request } = Planning::new();
        let (first, second) = (plan(&facts, &request).unwrap(), plan(&facts, &request).unwrap());
        assert_eq!(first, second, "the same facts give the same plan");
        let json = serde_json::to_value(&first).unwrap();
        assert_eq!(json["members"].as_array().unwrap().len(), 3);
        assert_eq!(json["cluster_id"], first.cluster_id.unwrap().to_string());
        for part in ["steps", "losses", "risks", "commands"] {
            for line in json[part].as_array().unwrap() {
                assert!(render(&first).contains(line.as_str().unwrap()), "{line} is not shown");
            }
        }
    }
}
