//! What programs rely on: the JSON of every command holds exactly what docs/cli.md says, help names examples, completions
//! and manual pages come out, and two backups at once are two points.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::files::fixture;
use crate::place::{Place, loaded};
use crate::signing;
use crate::support::etcd::Etcd;
use crate::support::member::LIMIT;
use crate::support::peers;
use crate::support::ports::Port;
use crate::support::run::{Outcome, holdfast, wait_until};

/// Objects that several types hold, each described once: what they are called where they occur.
const SHARED: &[(&str, &str)] =
    &[("manifest", "manifest"), ("verdict", "verdict"), ("plan", "plan"), ("report", "report")];

/// The fields of each type: whether each is optional, by its path.
type Contract = BTreeMap<String, BTreeMap<String, bool>>;

/// Reads docs/cli.md.
fn contract() -> Contract {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let text = fs::read_to_string(path).unwrap();
    let json = text.split("\n## ").find(|part| part.starts_with("JSON")).expect("a chapter about JSON");
    let mut contract = Contract::new();
    for section in json.split("\n### ").skip(1) {
        let kind = section.lines().next().unwrap().trim_matches('`').to_owned();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let fields = rows.map(|(field, text)| (field.to_owned(), text.starts_with("*optional*"))).collect();
        contract.insert(kind, fields);
    }
    let report = contract["report"].clone();
    contract.insert("export".to_owned(), report);
    contract
}

/// The paths of all leaves.
fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(item, &format!("{path}[]"), found)),
        _ => drop(found.insert(path.to_owned())),
    }
}

/// What was emitted, held against the contract.
struct Seen {
    contract: Contract,
    fields: BTreeMap<String, BTreeSet<String>>,
}

impl Seen {
    /// Takes in an object that must be of type `kind`.
    fn take(&mut self, kind: &str, value: &Value) {
        assert_eq!((value["v"].as_u64(), value["type"].as_str()), (Some(1), Some(kind)), "{value}");
        let mut found = BTreeSet::new();
        leaves(value, "", &mut found);
        for path in found.iter().filter(|path| *path != "v" && *path != "type") {
            self.field(kind, path);
        }
        // Every field that is not optional is there, whatever the values are.
        for (field, optional) in &self.contract[kind] {
            let top = field.split(['.', '[']).next().unwrap();
            assert!(*optional || value.get(top).is_some(), "{kind} has no {field}: {value}");
        }
    }

    fn field(&mut self, kind: &str, path: &str) {
        let here = &self.contract.get(kind).unwrap_or_else(|| panic!("docs/cli.md has no {kind}"));
        if here.contains_key(path) {
            self.fields.entry(kind.to_owned()).or_default().insert(path.to_owned());
            return;
        }
        let (head, rest) = path.split_once('.').unwrap_or((path, ""));
        let shared = SHARED.iter().find(|(name, _)| head == *name || head == format!("{name}s[]"));
        let listed = here.contains_key(head);
        let Some((_, of)) = shared.filter(|_| listed && !rest.is_empty()) else {
            panic!("{kind} holds {path}, which docs/cli.md does not name");
        };
        self.fields.entry(kind.to_owned()).or_default().insert(head.to_owned());
        self.field(of, rest);
    }

    fn json(&mut self, kind: &str, outcome: &Outcome) {
        self.take(kind, &outcome.json());
    }
}

/// A policy that says all, and promises what its schedule cannot keep: everything that `policy check` can say.
fn policy_with_advice(seen: &mut Seen, place: &Place) {
    let tables = "[schedule]\ntimezone = \"Europe/Berlin\"\nfull = \"0 2 * * *\"\n[retention]\nhourly = 24\n\
                  [objectives]\nrpo = \"1m\"\n[hooks]\nping_url = \"https://example.com/secret-token\"\n";
    let cluster = "[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n";
    let repository = format!("[repository]\nurl = {:?}\nencryption = \"none\"\n", place.url());
    let signer = format!("trusted_signers = [{:?}]\n", signing::public(1));
    let repository = repository + &signer;
    let policy = place.write("advice.toml", format!("{cluster}{repository}{tables}"));
    let checked = place.run(&["policy", "check", &policy, "-o", "json"]).run().exits(5);
    seen.json("policy_check", &checked);
    let body = checked.json();
    let warnings: Vec<_> = body["warnings"].as_array().unwrap().iter().map(|w| w["what"].as_str().unwrap()).collect();
    let beginnings =
        ["hourly = 24 can never be met", "no verification is scheduled", "rpo = 1 min 00 s can never be met"];
    assert_eq!(warnings.len(), beginnings.len(), "{warnings:?}");
    assert!(warnings.iter().zip(beginnings).all(|(got, want)| got.starts_with(want)), "{warnings:?}");
    let table = place.run(&["policy", "check", &policy]).run().exits(5);
    assert!(table.stdout().contains("retention       hourly 24, verified at least 1\n"), "{}", table.stdout());
    assert!(table.stdout().contains("full: 0 2 * * *, next 20") && table.stdout().contains("times are Europe/Berlin"));
    assert_eq!(table.stderr.matches("warning: ").count(), 3, "{}", table.stderr);
    let all = format!("{}{}{}", checked.stdout(), table.stdout(), table.stderr);
    assert!(!all.contains("secret-token"), "{all}");
}

/// Everything that `prune` and what belongs to it can say: points that are kept, condemned, taken back and deleted.
fn retention(seen: &mut Seen, place: &Place, address: &str, with: &dyn Fn(&[&str]) -> Outcome) {
    let cluster = format!("[cluster]\nname = \"prod\"\nendpoints = [\"http://{address}\"]\n");
    let tables = "[schedule]\nfull = \"0 2 * * *\"\nincremental = \"0 * * * *\"\n[retention]\nlast = 1\n";
    let mut policy = fs::read_to_string(place.path("policy.toml")).unwrap();
    policy.push_str(tables);
    assert!(policy.contains(&cluster) || policy.contains(address));
    place.write("policy.toml", policy);
    seen.json("policy_plan", &place.run(&["policy", "plan", "policy.toml", "-o", "json"]).run().success());
    let hold = with(&["hold", "latest", "--until", "2999-12-31", "--reason", "audit"]).success();
    seen.json("hold", &hold);
    let held = hold.json()["point"].as_str().unwrap().to_owned();
    let released = with(&["release", &held]).success();
    seen.json("release", &released);
    let prune = |args: &[&str]| with(&[&["prune", "--yes", "--grace"], args].concat());
    for args in [&["0s", "--dry-run"][..], &["0s"], &["24h"]] {
        seen.json("prune", &prune(args));
    }
    let condemned = prune(&["24h"]).json()["waiting"]["points"].as_array().unwrap().clone();
    assert!(!condemned.is_empty());
    seen.json("undelete", &with(&["undelete", condemned[0].as_str().unwrap()]).success());
    seen.json("prune", &prune(&["0s"]));
    // A held point whose grace is over stays, and a clock that was wrong is a warning.
    with(&["hold", condemned[0].as_str().unwrap()]).success();
    seen.json("prune", &prune(&["0s"]));
    let stray = place.repository().join("clusters/prod/holds/letter.txt");
    fs::write(&stray, "dear reader").unwrap();
    let warned = prune(&["0s"]).exits(5);
    seen.json("prune", &warned);
    fs::remove_file(stray).unwrap();
    with(&["release", condemned[0].as_str().unwrap()]).success();
    for _ in 0..2 {
        seen.json("prune", &prune(&["0s"]));
    }
}

/// What `dev` says first; what follows is what `backup` says.
fn dev(seen: &mut Seen, place: &Place) {
    let (port, log) = (Port::claim(), place.path("dev.log"));
    let url = format!("http://{}", port.address());
    let args = ["dev", "--dir", "out/dev", "--listen-client-url", &url, "-o", "json"];
    let mut process = place.run(&args).start(&log);
    let mut objects: Vec<Value> = vec![];
    wait_until("dev has made a backup", LIMIT, || {
        let text = fs::read_to_string(&log).unwrap();
        objects = serde_json::Deserializer::from_str(&text).into_iter().map_while(Result::ok).collect();
        objects.len() >= 2
    });
    assert_eq!(process.terminate(LIMIT).code(), Some(0));
    seen.take("dev", &objects[0]);
    seen.take("backup", &objects[1]);
}

/// Every kind of load that `bench` makes: what it says, that it does what it was told to, and that nothing of it stays.
fn loads(seen: &mut Seen, address: &str, run: &dyn Fn(&[&str]) -> Outcome) {
    let kinds: [(&[&str], &str); 8] = [
        (&["put"], "put"),
        (&["put", "--sequential", "--rate", "2000"], "put"),
        (&["range", "--key-space", "200"], "get"),
        (&["range", "--key-space", "200", "--serializable", "--limit", "50"], "list"),
        (&["txn"], "txn"),
        (&["watch", "--watchers", "9", "--watchers-per-stream", "2"], "event"),
        (&["lease"], "grant"),
        (&["kube", "--key-space", "100", "--watchers", "3", "--limit", "10"], "update"),
    ];
    for (kind, first) in kinds {
        let flags = ["--endpoints", address, "--total", "200", "--clients", "8", "--connections", "2"];
        let outcome = run(&[&["bench"], kind, &flags[..]].concat()).success();
        seen.json("bench", &outcome);
        let body = outcome.json();
        let operations = body["operations"].as_array().unwrap();
        let count = |name: &str| {
            let named = operations.iter().find(|operation| operation["name"] == name);
            named.map_or(0, |operation| operation["count"].as_u64().unwrap())
        };
        assert_eq!((body["requests"].as_u64(), &operations[0]["name"]), (Some(200), &first.into()), "{outcome}");
        let bars = body["histogram"].as_array().unwrap();
        assert_eq!(bars.iter().map(|bar| bar["count"].as_u64().unwrap()).sum::<u64>(), count(first), "{outcome}");
        let watched = count("put") + count("create") + count("update") + count("delete");
        match kind[0] {
            "watch" => assert_eq!(count("event"), watched * 9),
            "kube" => assert!(count("event") == watched * 3 && ["get", "list"].iter().all(|name| count(name) > 0)),
            "lease" => assert!(count("keep_alive") > count("revoke") && count("revoke") > 0),
            _ => assert_eq!(operations.len(), 1),
        }
    }
}

#[test]
fn the_json_of_every_command_is_what_the_document_says() {
    let mut seen = Seen { contract: contract(), fields: BTreeMap::new() };
    let etcd = Etcd::start();
    etcd.etcdctl(&["put", "/registry/pods/default/a", "1"]).success();
    let place = Place::new();
    let (policy, address) = (place.policy_at(&etcd.address(0)), etcd.address(0));
    let run = |args: &[&str]| place.run(args).args(&["-o", "json"]).run();
    let with = |args: &[&str]| place.run(args).args(&["-o", "json", "--policy", &policy]).run();
    seen.json("policy_check", &run(&["policy", "check", &policy]).success());
    policy_with_advice(&mut seen, &place);
    seen.json("backup", &with(&["backup"]).success());
    etcd.etcdctl(&["put", "/registry/pods/default/b", "2"]).success();
    etcd.etcdctl(&["put", "/registry/pods/default/a", "3"]).success();
    // A member that does not answer is a warning.
    let two = format!("endpoints = [\"http://{address}\", \"http://127.0.0.1:1\"]");
    place.policy(&format!("[cluster]\nname = \"prod\"\n{two}\n"));
    seen.json("backup", &with(&["backup"]).exits(5));
    seen.json("check", &with(&["check"]).success());
    let file = place.write("auth.db", fixture("etcd-3.5-auth.db"));
    let imported = with(&["import", &file]).success();
    seen.json("import", &imported);
    seen.json("import", &with(&["import", &file]).success());
    let id = imported.json()["imported"][0]["point"].as_str().unwrap().to_owned();
    seen.json("show", &with(&["show", &id]).success());
    seen.json("show", &with(&["show"]).success());
    seen.json("verify", &with(&["verify"]).success());
    seen.json(
        "restore_plan",
        &with(&["restore", "--etcd-snapshot", "out/r.db", "--dry-run", "--bump", "auto"]).success(),
    );
    seen.json("restore", &with(&["restore", "--etcd-snapshot", "out/r.db", "--yes"]).success());
    seen.json("restore_member", &with(&["restore", "--data-dir", "out/m", "--yes"]).success());
    dev(&mut seen, &place);
    seen.json("export", &with(&["export", "latest", "out/e.db"]).success());
    seen.json("snapshot_save", &run(&["snapshot", "save", "out/s.db", "--endpoints", &address]).success());
    seen.json("snapshot_status", &run(&["snapshot", "status", "out/s.db"]).success());
    seen.json("hashkv", &run(&["hashkv", "out/s.db"]).success());
    seen.json("keys_ls", &with(&["keys", "ls"]).success());
    seen.json("keys_by_kind", &with(&["keys", "ls", "--by-kind"]).success());
    seen.json("keys_get", &with(&["keys", "get", "/registry/pods/default/a"]).success());
    seen.json("diff", &with(&["diff", "latest~1", "latest"]).success());
    let etcd_program = peers::program(peers::ETCD_3_5, "etcd");
    let etcd_program = etcd_program.to_str().unwrap();
    seen.json("drill_plan", &with(&["drill", "--dry-run"]).success());
    seen.json("drill", &with(&["drill", "--etcd", etcd_program]).success());
    let second = format!("file://{}", place.text("second"));
    seen.json("copy", &with(&["copy", "--to", &second]).success());
    retention(&mut seen, &place, &address, &with);
    loads(&mut seen, &address, &run);
    assert_eq!(etcd.etcdctl(&["get", "/holdfast-bench/", "--prefix"]).success().stdout(), "");
    assert_eq!(etcd.etcdctl(&["lease", "list"]).success().stdout().trim(), "found 0 leases");
    let failed = with(&["show", "nothing"]).exits(4);
    seen.take("error", &serde_json::from_str(&failed.stderr).unwrap());
    // Damage shows where the document says.
    let tree = place.tree("repository");
    let point = tree.keys().find(|path| path.contains("/points/")).unwrap();
    let object = tree.keys().find(|path| path.contains("/data/")).unwrap();
    fs::write(place.repository().join(point).with_file_name("letter.txt"), "dear reader").unwrap();
    fs::write(place.repository().join(object), "damaged").unwrap();
    seen.json("list", &with(&["list"]).exits(3));
    // Nothing is as young as this objective wants it.
    place.policy(&format!("[objectives]\nrpo = \"1ms\"\n[cluster]\nname = \"prod\"\n{two}\n"));
    seen.json("verify", &with(&["verify"]).exits(3));
    let third = format!("file://{}", place.text("third"));
    seen.json("copy", &with(&["copy", "--all", "--to", &third]).exits(3));
    // The file was imported before; of that, part is gone. (It may be what was damaged above: this repairs it.)
    let shown = with(&["show", &id]).success().json();
    fs::write(place.repository().join(shown["manifest"]["objects"][0]["name"].as_str().unwrap()), "cut").unwrap();
    seen.json("import", &with(&["import", &file]).exits(5));
    for (kind, fields) in &seen.contract {
        for (field, optional) in fields {
            let emitted = seen.fields.get(kind).is_some_and(|fields| fields.contains(field));
            let whole = SHARED.iter().any(|(name, _)| field == name || field == &format!("{name}s[]"));
            let named = seen.fields.contains_key(kind) && whole;
            assert!(emitted || *optional || named || kind == "report", "nothing emitted {field} of {kind}");
        }
    }
}

/// Every command, with its subcommands.
const COMMANDS: &[&[&str]] = &[
    &["serve"],
    &["dev"],
    &["backup"],
    &["list"],
    &["show"],
    &["verify"],
    &["check"],
    &["prune"],
    &["undelete"],
    &["hold"],
    &["release"],
    &["restore"],
    &["export"],
    &["import"],
    &["copy"],
    &["drill"],
    &["snapshot", "save"],
    &["snapshot", "status"],
    &["snapshot", "restore"],
    &["hashkv"],
    &["keys", "ls"],
    &["keys", "get"],
    &["diff"],
    &["policy", "check"],
    &["policy", "plan"],
    &["bench", "put"],
    &["bench", "range"],
    &["bench", "txn"],
    &["bench", "watch"],
    &["bench", "lease"],
    &["bench", "kube"],
    &["completions"],
    &["man"],
];

#[test]
fn help_completions_and_manual_pages_come_out() {
    let document = fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    for command in COMMANDS {
        let help = holdfast(&[command, &["--help"][..]].concat()).success().stdout();
        let name = format!("holdfast {}", command.join(" "));
        assert!(help.contains("Example") && help.matches(&name).count() >= 2, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100 || line.contains("holdfast ")), "{help}");
        assert!(document.contains(&format!("`{}", command.join(" "))), "docs/cli.md has no {name}");
    }
    let all = holdfast(&["--help"]).success().stdout();
    let listed = all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let listed: BTreeSet<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    let known: BTreeSet<&str> = COMMANDS.iter().map(|command| command[0]).chain(["help"]).collect();
    assert_eq!(listed, known);
    for shell in ["bash", "zsh", "fish"] {
        let script = holdfast(&["completions", shell]).success().stdout();
        assert!(script.len() > 5_000 && script.contains("etcd-snapshot"), "{shell}");
    }
    let place = Place::new();
    place.run(&["man", "out/man1"]).run().success();
    let pages = place.tree("out/man1");
    assert!(pages.len() >= COMMANDS.len() && pages.contains_key("holdfast-restore.1"), "{pages:?}");
    assert!(pages.values().all(|(bytes, _)| *bytes > 100));
}

#[test]
fn a_command_line_that_is_not_understood_is_answered_in_json_when_json_was_asked_for() {
    for (args, message, hint) in [
        (&["frobnicate", "-o", "json"][..], "unrecognized subcommand 'frobnicate'", "--help"),
        (&["list", "--output", "json", "--polic", "p.toml"], "unexpected argument '--polic' found", "'--policy'"),
        (&["backup", "--output=json"], "arguments were not provided: --policy <FILE>", "--help"),
        (&["-o=json", "completions", "tcsh"], "invalid value 'tcsh' for '<SHELL>'", "'zsh'"),
        (&["-ojson", "verify", "--level", "4"], "invalid value '4' for '--level <LEVEL>': 4 is not in 1..=3", "--help"),
        (&["-o", "json"], "requires a subcommand", "--help"),
    ] {
        let outcome = holdfast(args).exits(2);
        assert!(outcome.stdout_bytes.is_empty(), "{outcome}");
        let error: Value = serde_json::from_str(&outcome.stderr).unwrap_or_else(|error| panic!("{error}: {outcome}"));
        assert_eq!((&error["v"], &error["type"], &error["kind"]), (&1.into(), &"error".into(), &"usage".into()));
        assert_eq!(error["exit_code"], 2);
        assert!(error["message"].as_str().unwrap().contains(message), "{outcome}");
        assert!(error["hint"].as_str().unwrap().contains(hint), "{outcome}");
    }
    // Words for whoever did not ask for JSON, or asked for something else; help is a result.
    for args in [&["frobnicate"][..], &["-o", "yaml", "list"], &["list", "-o", "table", "--polic"]] {
        assert!(holdfast(args).exits(2).stderr.starts_with("error: "));
    }
    assert!(holdfast(&["import", "--frobnicate", "--", "-ojson"]).exits(2).stderr.starts_with("error: "));
    assert!(holdfast(&["-o", "json", "--help"]).success().stdout().contains("Commands:"));
}

#[test]
fn two_backups_at_once_are_two_points() {
    let (place, etcd) = (Place::new(), loaded());
    let policy = place.policy_at(&etcd.address(0));
    std::thread::scope(|threads| {
        let backups: Vec<_> =
            (0..2).map(|_| threads.spawn(|| place.run(&["backup", "--policy", &policy]).run())).collect();
        backups.into_iter().for_each(|backup| drop(backup.join().unwrap().success()));
    });
    assert_eq!(place.verify_all(), 2);
    // The same state is stored once.
    let objects = place.tree("repository").keys().filter(|path| path.contains("/data/")).count();
    let shown = place.with_policy(&["show", "-o", "json"]).success().json();
    assert_eq!(shown["manifest"]["objects"].as_array().unwrap().len(), objects);
}

#[test]
fn of_two_commands_that_write_one_file_the_later_one_loses() {
    let place = Place::new();
    let source = place.write("k8s.db", fixture("k8s-etcd-3.6.db"));
    let alone = place.run(&["restore", "--file", &source, "--etcd-snapshot", "out/alone.db", "--yes"]);
    alone.run().success();
    // A file of the user's own, with the name that such files used to have.
    let own = place.write("out/r.db.part", "my notes");
    let args = ["restore", "--file", &source, "--etcd-snapshot", "out/r.db", "--yes"];
    let outcomes = std::thread::scope(|threads| {
        let both: Vec<_> = (0..2).map(|_| threads.spawn(|| place.run(&args).run())).collect();
        both.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    let mut codes: Vec<i32> = outcomes.iter().map(Outcome::code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 1], "{} {}", outcomes[0], outcomes[1]);
    let loser = outcomes.iter().find(|outcome| outcome.code() == 1).unwrap();
    assert!(loser.stderr.contains("out/r.db is already there\nhint: nothing was changed"), "{loser}");
    let written = place.tree("out");
    assert_eq!(written["r.db"], written["alone.db"]);
    assert_eq!((fs::read(own).unwrap(), written.len()), (b"my notes".to_vec(), 3));
}
