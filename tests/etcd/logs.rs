//! docs/logs.md says what is logged in etcd's words. Here both do what is logged, and their lines are held against the
//! document and against each other.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Map, Value};

use crate::support::etcd::Etcd;
use crate::support::member::Member;
use crate::support::run::Outcome;

/// What a slow disk or a full one would have to be there for, or TLS.
const UNPROVOKED: [&str; 2] = ["slow fdatasync", "serving client traffic securely"];
/// What etcd 3.5.1 says of calls that are really slow alone: it has no flag for it yet.
const LATER: [&str; 1] = ["request stats"];
const KEY: &str = "a-key-that-nobody-may-read";
const VALUE: &str = "a-value-that-nobody-may-read";

/// A row of the document.
#[derive(Debug)]
struct Phrase {
    message: String,
    level: String,
    fields: BTreeSet<String>,
}

fn phrases() -> Vec<Phrase> {
    let document = include_str!("../../docs/logs.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [message, level, fields, ..] = cells[..] else { panic!("{row}") };
        Phrase {
            message: quoted(message).remove(0),
            level: level.to_owned(),
            fields: quoted(fields).into_iter().collect(),
        }
    })
    .collect()
}

/// Lines of JSON, without those that something else wrote.
fn lines(log: &str) -> Vec<Map<String, Value>> {
    log.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(lines: &'a [Map<String, Value>], message: &str) -> Vec<&'a Map<String, Value>> {
    lines.iter().filter(|line| line["msg"] == message).collect()
}

fn fields(line: &Map<String, Value>) -> BTreeSet<String> {
    let common = ["level", "ts", "logger", "caller", "msg"];
    line.keys().filter(|key| !common.contains(&key.as_str())).cloned().collect()
}

/// What a line says beside what every line has.
fn fields_of(line: &Map<String, Value>) -> Vec<(&String, &Value)> {
    line.iter().filter(|(key, _)| fields(line).contains(*key)).collect()
}

/// Everything that is logged.
fn provoke(etcdctl: impl Fn(&[&str]) -> Outcome, snapshot: &str) {
    for n in 0..3 {
        etcdctl(&["put", KEY, &format!("{VALUE}{n}")]).success();
    }
    etcdctl(&["get", KEY]).success();
    etcdctl(&["del", KEY]).success();
    etcdctl(&["compaction", "--physical", "3"]).success();
    etcdctl(&["defrag"]).success();
    etcdctl(&["snapshot", "save", snapshot]).success();
}

const SLOW: [&str; 3] = [
    "--experimental-warning-apply-duration=1ns",
    "--experimental-initial-corrupt-check=true",
    "--listen-metrics-urls=http://127.0.0.1:0",
];

#[test]
fn what_both_log_is_what_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let more = ["--quota-backend-bytes=1000000", "--experimental-warning-unary-request-duration=1ns"];
    let mut etcd = Etcd::options().args(&SLOW).start();
    // It looks for corruption where there is something already.
    etcd.stop(0);
    etcd.restart(0);
    provoke(|args| etcd.etcdctl(args), &snapshot("etcd"));
    etcd.stop(0);
    let theirs = lines(&fs::read_to_string(etcd.data_dir(0).with_extension("log")).unwrap());

    let mut member = Member::start(&[&SLOW[..], &more].concat());
    provoke(|args| member.etcdctl(args), &snapshot("ours"));
    while member.etcdctl(&["put", "large", &"x".repeat(100_000)]).code() == 0 {}
    member.etcdctl(&["alarm", "disarm"]).success();
    assert_eq!(member.stop(), 0);
    let log = member.log();
    assert!(!log.contains(KEY) && !log.contains(VALUE), "{log}");
    let ours = lines(&log);
    assert!(ours.iter().all(|line| ["level", "ts", "caller", "msg"].iter().all(|key| line[*key].is_string())));

    for Phrase { message, level, fields: documented } in phrases() {
        let told = of(&ours, &message);
        assert_eq!(told.is_empty(), UNPROVOKED.contains(&message.as_str()), "{message}\n{log}");
        for line in told {
            let fields: BTreeSet<_> =
                fields(line).into_iter().filter(|field| field != "untold" && field != "error").collect();
            assert_eq!((&fields, line["level"].as_str().unwrap()), (&documented, level.as_str()), "{line:?}");
        }
        let told = of(&theirs, &message);
        for line in &told {
            assert!(documented.is_subset(&fields(line)), "{message}: etcd has {line:?}");
            assert_eq!(line["level"], level.as_str(), "{line:?}");
        }
        let alarms_or_tls = UNPROVOKED.contains(&message.as_str()) || message.starts_with("alarm ");
        assert!(!told.is_empty() || alarms_or_tls || LATER.contains(&message.as_str()), "etcd never said {message:?}");
    }
    assert_eq!(of(&ours, "defragmenting").len(), 1);
    for message in ["received signal; shutting down", "serving metrics"] {
        let fields = [&ours, &theirs].map(|lines| fields_of(of(lines, message)[0]));
        assert_eq!(fields[0], fields[1], "{message}");
    }
    for lines in [&ours, &theirs] {
        let insecurely = of(lines, "serving client traffic insecurely; this is strongly discouraged!");
        let addresses: Vec<_> = insecurely.iter().map(|line| line["address"].as_str().unwrap()).collect();
        assert!(addresses.iter().all(|address| address.parse::<std::net::SocketAddr>().is_ok()), "{addresses:?}");
    }
    let slow = of(&ours, "apply request took too long");
    let put = slow.iter().find(|line| line["prefix"] == "").unwrap();
    assert_eq!(put["request"], format!("put:<key_size:{} value_size:{} >", KEY.len(), VALUE.len() + 1));
}

/// What could not be provoked above is at least in etcd's program.
#[test]
fn phrases_and_fields_are_those_of_etcd() {
    let program = fs::read(crate::support::peers::program(crate::support::peers::ETCD_3_5, "etcd")).unwrap();
    let program = String::from_utf8_lossy(&program);
    let has = |text: &str| program.contains(text);
    assert!(!has("phrases that nobody ever wrote into etcd"));
    for Phrase { message, fields, .. } in phrases() {
        let missing: Vec<_> = fields.iter().chain([&message]).filter(|text| !has(text)).collect();
        assert!(missing.is_empty(), "{missing:?} of {message:?}");
    }
}

#[test]
fn people_are_told_the_same_in_lines_of_their_own() {
    let mut member = Member::start(&["--log-format=console", "--warning-apply-duration=1ns"]);
    member.etcdctl(&["put", KEY, VALUE]).success();
    assert_eq!(member.stop(), 0);
    let log = member.log();
    let slow = log.lines().find(|line| line.contains("request=\"put:<key_size:")).unwrap_or_else(|| panic!("{log}"));
    for part in ["WARN", "expected-duration=\"1ns\"", "apply request took too long"] {
        assert!(slow.contains(part), "{slow}");
    }
    assert!(log.contains("closed etcd server") && !log.contains(KEY), "{log}");
    // Unless it is said otherwise, what is quick is not told.
    let mut member = Member::start(&["--warning-apply-duration=1h", "--warning-unary-request-duration=1h"]);
    member.etcdctl(&["put", KEY, VALUE]).success();
    assert_eq!(member.stop(), 0);
    assert!(!member.log().contains("took too long") && !member.log().contains("request stats"), "{}", member.log());
}
