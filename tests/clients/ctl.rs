//! Operators' commands: what etcdctl prints and how it ends, of a member of Holdfast and of etcd side by side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::run::{Outcome, Run};

/// A member as etcdctl is told of it, and what is its own in what is printed.
pub(crate) struct Target {
    endpoint: String,
    program: PathBuf,
    /// Words of this member alone, and what stands for them.
    own: BTreeMap<String, &'static str>,
    /// The lease that was granted last.
    lease: String,
}

/// What came of a command, without what is a member's own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    code: i32,
    out: Vec<String>,
    err: Vec<String>,
}

impl Target {
    /// The member at an endpoint, for this etcdctl.
    pub(crate) fn new(program: PathBuf, endpoint: String) -> Target {
        let mut target = Target { endpoint, program, own: BTreeMap::new(), lease: String::new() };
        let status = target.run("endpoint status -w json", "").json();
        let header = &status[0]["Status"]["header"];
        for (field, name) in [("cluster_id", "CLUSTER"), ("member_id", "MEMBER")] {
            let id = header[field].as_u64().unwrap();
            target.own.insert(id.to_string(), name);
            target.own.insert(format!("{id:x}"), name);
        }
        let peers = target.run("member list -w json", "").json();
        let peer = peers["members"][0]["peerURLs"][0].as_str().unwrap().to_owned();
        target.own.insert(peer, "PEER");
        target.own.insert(target.endpoint.clone(), "ENDPOINT");
        target.own.insert(target.endpoint.replace("http://", ""), "ENDPOINT");
        target
    }

    fn run(&self, command: &str, stdin: &str) -> Outcome {
        let lease = self.lease.as_str();
        let words: Vec<_> = command.split(' ').map(|word| word.replace("LEASE", lease).replace("''", "")).collect();
        let run = Run::new(&self.program).env("ETCDCTL_API", "3");
        let endpoints = format!("--endpoints={}", self.endpoint);
        run.args(&[endpoints, "--command-timeout=20s".to_owned()]).args(&words).stdin(stdin).run()
    }

    /// Runs a command; what it shows.
    pub(crate) fn show(&mut self, command: &str, stdin: &str) -> Shown {
        let outcome = self.run(command, stdin);
        if command.starts_with("lease grant") && outcome.code() == 0 {
            // "lease 694d... granted with TTL(100s)"
            self.lease = outcome.stdout().split(' ').nth(1).unwrap().to_owned();
            self.own.insert(self.lease.clone(), "LEASE");
            self.own.insert(i64::from_str_radix(&self.lease, 16).unwrap().to_string(), "LEASE");
        }
        let names_only = command.starts_with("endpoint status");
        let lines = |text: &str| text.lines().map(|line| self.plain(line, names_only)).collect();
        Shown { code: outcome.code(), out: lines(&outcome.stdout()), err: lines(&outcome.stderr) }
    }

    /// A line without what is this member's own: ids, addresses, times, places in raft's log.
    fn plain(&self, line: &str, names_only: bool) -> String {
        // etcd's client tells of each attempt with time and place; what it failed by is what counts.
        if let Some(at) = line.starts_with('{').then(|| line.find("\"error\":")).flatten() {
            return line[at..].to_owned();
        }
        let mut line = line.to_owned();
        // The longest first: an address holds shorter words.
        let mut own: Vec<_> = self.own.iter().collect();
        own.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
        own.iter().for_each(|(word, name)| line = line.replace(word.as_str(), name));
        if names_only {
            return line
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .collect::<String>()
                .replace("kB", "")
                .replace("MB", "");
        }
        for field in ["\"raft_term\":", "\"RaftTerm\" : ", "took = ", "\"took\":\""] {
            if let Some(at) = line.find(field) {
                let rest =
                    line[at + field.len()..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == 'µ');
                line = format!("{}{field}{}", &line[..at], rest.trim_start_matches(['m', 's']));
            }
        }
        line
    }
}

/// Commands in their order, and what some of them read. `LEASE` is the lease that was granted last.
pub(crate) const COMMANDS: &[(&str, &str)] = &[
    ("put a 1", ""),
    ("put a 2 --prev-kv", ""),
    ("put ab 3", ""),
    ("put b", "from standard input"),
    ("put c/1 x -w json", ""),
    ("put c/2 y -w fields", ""),
    ("put '' nothing", ""),
    ("put missing --ignore-value", ""),
    ("put missing x --ignore-lease", ""),
    ("put a x --lease=123abc", ""),
    ("get a", ""),
    ("get a -w json", ""),
    ("get a -w fields", ""),
    ("get missing", ""),
    ("get a c", ""),
    ("get c --prefix", ""),
    ("get '' --prefix --keys-only", ""),
    ("get '' --from-key --limit=2 -w json", ""),
    ("get '' --prefix --order=DESCEND --sort-by=MODIFY", ""),
    ("get '' --prefix --order=ASCEND --sort-by=VERSION", ""),
    ("get a --rev=2", ""),
    ("get a --rev=99", ""),
    ("get c --prefix --count-only -w fields", ""),
    ("get b --print-value-only", ""),
    ("get a --consistency=s --hex", ""),
    ("get ''", ""),
    ("txn", "value(\"a\") = \"2\"\n\nput a 3\nget a\n\nget b\n\n"),
    ("txn", "mod(\"a\") > \"100\"\n\nput a 4\n\ndel c/1\nget c/1\n\n"),
    ("txn -w json", "create(\"z\") = \"0\"\n\nput z 1\nput z 2\n\n\n\n"),
    ("txn", "nonsense\n\n\n\n"),
    ("del ab --prev-kv", ""),
    ("del missing", ""),
    ("del c --prefix", ""),
    ("del b --from-key -w json", ""),
    ("compaction 4", ""),
    ("compaction 4", ""),
    ("compaction 999", ""),
    ("compaction 6 --physical", ""),
    ("get a --rev=3", ""),
    ("endpoint hashkv", ""),
    ("lease grant 100", ""),
    ("put leased 1 --lease=LEASE", ""),
    ("get leased -w json", ""),
    ("lease timetolive LEASE --keys", ""),
    ("lease list", ""),
    ("lease keep-alive --once LEASE", ""),
    ("lease revoke LEASE", ""),
    ("lease revoke LEASE", ""),
    ("lease timetolive LEASE", ""),
    ("lease keep-alive --once LEASE", ""),
    ("lease list -w json", ""),
    ("lease grant nonsense", ""),
    ("get leased", ""),
    ("endpoint health", ""),
    ("endpoint health -w json", ""),
    ("endpoint status -w fields", ""),
    ("endpoint status -w json", ""),
    // Later, leases are in what is hashed, and their ids are random.
    ("endpoint hashkv --rev=8", ""),
    ("alarm list", ""),
    ("alarm disarm", ""),
    ("member list", ""),
    ("member list -w json", ""),
    ("member remove 1234", ""),
    ("member promote 1234", ""),
    ("move-leader 1234", ""),
    ("defrag", ""),
    ("auth status", ""),
    ("auth disable", ""),
    ("get a --user=root:secret", ""),
];

/// Runs every command on both.
pub(crate) fn side_by_side(etcd: &mut Target, ours: &mut Target) -> usize {
    let mut wrong = String::new();
    for (command, stdin) in COMMANDS {
        let (etcd, ours) = (etcd.show(command, stdin), ours.show(command, stdin));
        if ours != etcd {
            wrong += &format!("`etcdctl {command}`\nof Holdfast: {ours:?}\nof etcd: {etcd:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    COMMANDS.len()
}
