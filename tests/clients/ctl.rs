//! Operators' commands: what etcdctl prints and how it ends, of a member of Holdfast and of etcd side by side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use prost::encoding::{decode_varint, encode_varint};

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
        let lines = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(|line| self.plain(line, names_only)).collect();
            // etcdctl ends over some of what it cannot show; where in its memory is each process's own.
            if let Some(at) = lines.iter().position(|line| line.starts_with("panic: ")) {
                lines.truncate(at + 1);
            }
            lines
        };
        let binary = outcome.stdout_bytes.iter().any(|byte| byte.is_ascii_control() && !b"\n\t".contains(byte));
        let out = if binary { self.fields(&outcome.stdout_bytes) } else { lines(&outcome.stdout()) };
        Shown { code: outcome.code(), out, err: lines(&outcome.stderr) }
    }

    /// The fields of a message but for its header, in hexadecimal, without what is this member's own.
    fn fields(&self, message: &[u8]) -> Vec<String> {
        let own = self.own.iter().filter_map(|(word, name)| {
            let mut id = vec![];
            word.parse().ok().map(|number: u64| encode_varint(number, &mut id))?;
            Some((hex(&id), *name))
        });
        // A word with the length before it.
        let text = |word: &str| format!("{:02x}{}", word.len(), hex(word.as_bytes()));
        let own: Vec<_> = own.chain(self.own.iter().map(|(word, name)| (text(word), *name))).collect();
        let (mut rest, mut shown) = (message, vec![]);
        while !rest.is_empty() {
            // A line's end is not of the message.
            let Ok(tag) = decode_varint(&mut rest) else { return shown };
            let before = rest;
            let Ok(value) = decode_varint(&mut rest) else { return shown };
            let bytes = if tag & 7 == 2 {
                let (bytes, after) = rest.split_at(usize::try_from(value).unwrap().min(rest.len()));
                rest = after;
                bytes
            } else {
                &before[..before.len() - rest.len()]
            };
            let is_header = tag == 0x0a;
            let mut text = if is_header { "header".to_owned() } else { hex(bytes) };
            own.iter().filter(|(word, _)| word.len() > 8).for_each(|(word, name)| text = text.replace(word, name));
            shown.push(format!("{}: {text}", tag >> 3));
        }
        // Replies about leases are shown as their header alone, whose fourth field is the term.
        if shown.first().is_some_and(|first| first == "1: CLUSTER") {
            shown.truncate(3);
        }
        shown
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
        line = line.split(' ').map(|word| if is_time(word) { "TIME" } else { word }).collect::<Vec<_>>().join(" ");
        // Columns of tables are as wide as ids are long.
        if line.starts_with(['+', '|']) {
            line = line.split(['-', ' ']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        }
        if names_only {
            return line
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .collect::<String>()
                .replace("kB", "")
                .replace("MB", "");
        }
        for field in [
            "\"raft_term\":",
            "\"RaftTerm\" : ",
            "raft_term:",
            "took = ",
            "\"took\":\"",
            "remaining(",
            "\"ttl\":",
            "\"TTL\" : ",
        ] {
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
const COMMANDS: &[(&str, &str)] = &[
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

/// Commands that are asked for in every format, in their order.
const FORMATTED: &[(&str, &str)] = &[
    ("put f/1 x", ""),
    ("put f/1 y --prev-kv", ""),
    ("put f/2", "from standard input"),
    ("put f/3 x --ignore-value", ""),
    ("get f --prefix", ""),
    ("get f --prefix --keys-only", ""),
    ("get f --prefix --count-only", ""),
    ("get f --prefix --limit=1", ""),
    ("get f/1 --consistency=s", ""),
    ("get f/1 f/9 --order=DESCEND --sort-by=CREATE", ""),
    ("get f/2 --from-key", ""),
    ("get f/1 --hex", ""),
    ("get none", ""),
    ("get f --rev=99999", ""),
    ("txn", "mod(\"f/1\") > \"0\"\n\nput f/3 1\nget f --prefix\ndel f/3\n\nget f/2\n\n"),
    ("txn", "ver(\"f/1\") = \"99\"\n\nput f/3 1\n\nget f/2\nget none\n\n"),
    ("txn", "val(\"f/1\") < \"z\"\nc(\"none\") = \"0\"\n\n\n\n"),
    ("txn", "mod(\"f/1\") ? \"0\"\n\n\n\n"),
    ("txn", "\nput f/3\n\n\n"),
    ("del f/2 --prev-kv", ""),
    ("del f/2", ""),
    ("put f/leased x --lease=LEASE", ""),
    ("lease timetolive LEASE", ""),
    ("lease timetolive LEASE --keys", ""),
    ("lease timetolive 1234", ""),
    ("lease list", ""),
    ("lease keep-alive --once LEASE", ""),
    ("lease revoke LEASE", ""),
    ("lease revoke 1234", ""),
    ("member list", ""),
    ("member remove 1234", ""),
    ("member promote 1234", ""),
    ("member update 1234 --peer-urls=nonsense", ""),
    ("member add new --peer-urls=nonsense", ""),
    ("member add new", ""),
    ("endpoint health", ""),
    ("endpoint health --cluster", ""),
    ("endpoint status --cluster", ""),
    ("alarm list", ""),
    ("alarm disarm", ""),
    ("defrag --cluster", ""),
    ("auth status", ""),
    ("user add ann:pw", ""),
    ("user add ann:pw", ""),
    ("user add bob --no-password", ""),
    ("user add cid --new-user-password=pw", ""),
    ("user add dan --interactive=false", "pw"),
    ("user list", ""),
    ("role add reader", ""),
    ("role add reader", ""),
    ("role grant-permission reader read f --prefix", ""),
    ("role grant-permission reader write g h", ""),
    ("role grant-permission reader readwrite z --from-key", ""),
    ("role grant-permission reader nonsense z", ""),
    ("role grant-permission none read z", ""),
    ("role get reader", ""),
    ("role get none", ""),
    ("role list", ""),
    ("user grant-role ann reader", ""),
    ("user grant-role ann none", ""),
    ("user get ann", ""),
    ("user get ann --detail", ""),
    ("user get none", ""),
    ("user passwd ann --interactive=false", "new"),
    ("user revoke-role ann reader", ""),
    ("user revoke-role ann reader", ""),
    ("role revoke-permission reader g h", ""),
    ("role revoke-permission reader g h", ""),
    ("role delete reader", ""),
    ("user delete ann", ""),
    ("user delete ann", ""),
    ("user delete bob", ""),
    ("user delete cid", ""),
    ("user delete dan", ""),
    ("downgrade cancel", ""),
    ("downgrade validate nonsense", ""),
    ("compaction 0", ""),
    ("compaction 99999", ""),
    ("version", ""),
    ("get", ""),
    ("get f --prefix --from-key", ""),
    ("get f --order=NONE", ""),
    ("get f --consistency=x", ""),
    ("put f/1", ""),
    ("del", ""),
    ("lease grant", ""),
    ("lease timetolive xyz", ""),
    ("member remove xyz", ""),
    ("move-leader", ""),
    ("move-leader xyz", ""),
    ("compaction", ""),
    ("watch", ""),
    ("nonsense", ""),
];

/// etcdctl's formats, and none that it knows.
const FORMATS: [&str; 6] = ["simple", "fields", "json", "protobuf", "table", "nonsense"];

/// Commands of several users, from none to root.
const AS_USERS: &[(&str, &str)] = &[
    ("put k/1 x", ""),
    ("user add root:secret", ""),
    ("role add root", ""),
    ("auth enable", ""),
    ("user grant-role root root", ""),
    ("user add ann:pw", ""),
    ("user add bob --no-password", ""),
    ("role add reader", ""),
    ("role grant-permission reader read k/ --prefix", ""),
    ("role grant-permission reader readwrite w", ""),
    ("user grant-role ann reader", ""),
    ("auth enable", ""),
    ("get k/1", ""),
    ("put k/1 x", ""),
    ("get k/1 --user=ann:pw", ""),
    ("get k/1 --user=ann --password=pw", ""),
    ("get k/1 --user=ann:wrong", ""),
    ("get k/1 --user=nobody:pw", ""),
    ("get k/1 --user=bob:pw", ""),
    ("get k --user=ann:pw", ""),
    ("get k/ --prefix --user=ann:pw -w json", ""),
    ("get k/1 --from-key --user=ann:pw", ""),
    ("put k/1 y --user=ann:pw", ""),
    ("put w y --user=ann:pw", ""),
    ("del w --user=ann:pw", ""),
    ("del k/1 --user=ann:pw", ""),
    ("txn --user=ann:pw", "mod(\"k/1\") > \"0\"\n\nput w 1\n\n\n"),
    ("txn --user=ann:pw", "mod(\"k/1\") > \"0\"\n\nput k/1 1\n\n\n"),
    ("txn --user=ann:pw", "mod(\"other\") > \"0\"\n\nput w 1\n\n\n"),
    ("user list --user=ann:pw", ""),
    ("user get ann --user=ann:pw", ""),
    ("role get reader --user=ann:pw", ""),
    ("role add other --user=ann:pw", ""),
    ("user add eve:pw --user=ann:pw", ""),
    ("auth disable --user=ann:pw", ""),
    ("member list --user=ann:pw", ""),
    ("endpoint health --user=ann:pw", ""),
    ("get other --user=root:secret", ""),
    ("user list --user=root:secret", ""),
    ("user get ann --detail --user=root:secret", ""),
    ("role list --user=root:secret", ""),
    ("auth status --user=root:secret", ""),
    ("endpoint status --user=root:secret", ""),
    ("alarm list --user=root:secret", ""),
    ("defrag --user=root:secret", ""),
    ("user delete root --user=root:secret", ""),
    ("role delete root --user=root:secret", ""),
    ("user revoke-role root root --user=root:secret", ""),
    ("user passwd ann --interactive=false --user=root:secret", "new"),
    ("get k/1 --user=ann:pw", ""),
    ("get k/1 --user=ann:new", ""),
    ("user revoke-role ann reader --user=root:secret", ""),
    ("get k/1 --user=ann:new", ""),
    ("role delete reader --user=root:secret", ""),
    ("auth disable --user=root:secret", ""),
    ("get k/1", ""),
    ("get k/1 --user=ann:new", ""),
    ("auth disable", ""),
];

/// Runs every command on both; how many there were.
pub(crate) fn side_by_side(etcd: &mut Target, ours: &mut Target) -> usize {
    let same = |command: &str, stdin: &str, wrong: &mut Vec<String>, etcd: &mut Target, ours: &mut Target| {
        let (theirs, own) = (etcd.show(command, stdin), ours.show(command, stdin));
        if own != theirs {
            wrong.push(format!("`etcdctl {command}`\nof Holdfast: {own:?}\nof etcd: {theirs:?}\n"));
        }
    };
    let (mut wrong, mut count) = (vec![], 0);
    for (command, stdin) in COMMANDS {
        same(command, stdin, &mut wrong, etcd, ours);
        count += 1;
    }
    for format in FORMATS {
        same("lease grant 100", "", &mut wrong, etcd, ours);
        // Details are several messages, one behind the other, of which nobody could say where each ends.
        let fits = |command: &str| format != "protobuf" || !command.ends_with("--detail");
        for (command, stdin) in FORMATTED.iter().filter(|(command, _)| fits(command)) {
            same(&format!("{command} -w {format}"), stdin, &mut wrong, etcd, ours);
            count += 1;
        }
        // What a format that is not known has left.
        same("del f --prefix", "", &mut wrong, etcd, ours);
    }
    for (command, stdin) in AS_USERS {
        same(command, stdin, &mut wrong, etcd, ours);
        count += 1;
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    count
}

/// Whether a word is how long something took: `1.436012ms`.
fn is_time(word: &str) -> bool {
    let number = word.trim_end_matches("ms").trim_end_matches("µs").trim_end_matches('s');
    number.len() < word.len() && number.parse::<f64>().is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
