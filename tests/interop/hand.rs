//! A restore point read without Holdfast: the script in docs/formats/repository.md is run as it stands there, with
//! sha256sum, zstd and protoc, and what it shows is held against the manifest and against our own decoder.

use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use holdfast::base::digest::Sha256;
use holdfast::base::id::EtcdId;
use holdfast::snapshot::decode::Records;
use holdfast::snapshot::encode::Encoder;
use holdfast::snapshot::hash::StateDigest;
use holdfast::snapshot::record::{
    Compacted, Descriptor, Extra, FORMAT, KeptRun, KeyValue, Record, Rev, Revision, lease_of, name_of,
};

use crate::site::Site;
use crate::support::etcd::Etcd;
use crate::support::load::{self, LoadOptions};
use crate::support::peers;
use crate::support::run::{Outcome, Run};

/// The script of the document.
fn script() -> String {
    let text = fs::read_to_string(source("docs/formats/repository.md")).unwrap();
    let section = text.split("## Reading a point by hand").nth(1).expect("the section is there");
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("the section has a script").to_owned()
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The part of the script that shows records in words.
fn in_words() -> String {
    let script = script();
    script[script.find("python3 - $T/records").expect("step 4")..].to_owned()
}

/// Runs a script with the tools of the peers; a reader fills in the assignments.
fn run(script: &str, assignments: &[(&str, &str)]) -> Outcome {
    let filled: Vec<_> = script
        .lines()
        .map(|line| {
            let assigned = assignments.iter().find(|(start, _)| line.starts_with(start));
            assigned.map_or(line.to_owned(), |(start, value)| format!("{start}'{value}'"))
        })
        .collect();
    let missing = assignments.iter().find(|(start, _)| !script.lines().any(|line| line.starts_with(start)));
    assert!(missing.is_none(), "the script has no line {missing:?}");
    let tools = peers::tool("protoc").parent().unwrap().to_owned();
    peers::tool("zstd");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", tools.display());
    Run::new("bash").args(&["-eu", "-o", "pipefail", "-c", &filled.join("\n")]).env("PATH", path).run()
}

/// What protoc says about one record: its kind, and its fields by path. Bytes are in protoc's quotes.
#[derive(Debug, Default)]
struct Words {
    kind: String,
    fields: Vec<(String, String)>,
}

impl Words {
    fn get(&self, path: &str) -> &str {
        self.fields.iter().find(|(name, _)| name == path).map_or("", |(_, value)| value)
    }

    fn number(&self, path: &str) -> i64 {
        let text = self.get(path);
        if text.is_empty() { 0 } else { text.parse().unwrap() }
    }
}

/// Reads protobuf's text form.
fn words(text: &str) -> Vec<Words> {
    let (mut all, mut path) = (vec![], vec![]);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            if path.is_empty() {
                all.push(Words { kind: name.to_owned(), fields: vec![] });
            }
            path.push(name);
        } else if line == "}" {
            path.pop();
        } else {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no field"));
            let full: Vec<_> = path[1..].iter().copied().chain([name]).collect();
            all.last_mut().unwrap().fields.push((full.join("."), value.to_owned()));
        }
    }
    all
}

/// Bytes as protoc quotes them.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b'"' | b'\'' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\{other:03o}")),
        }
    }
    text.push('"');
    text
}

/// A field and what protoc must say about it: nothing where it has its default value.
type Field = (&'static str, String);

fn bytes(name: &'static str, bytes: &[u8]) -> Field {
    (name, if bytes.is_empty() { String::new() } else { quoted(bytes) })
}

fn number(name: &'static str, n: i128) -> Field {
    (name, if n == 0 { String::new() } else { n.to_string() })
}

fn flag(name: &'static str, on: bool) -> Field {
    (name, if on { "true".to_owned() } else { String::new() })
}

fn kind(d: &Descriptor<'_>) -> &'static str {
    match d {
        Descriptor { is_live: true, .. } => "live",
        Descriptor { base_revision: 0, .. } => "full",
        _ => "incremental",
    }
}

fn descriptor_fields(d: &Descriptor<'_>) -> Vec<Field> {
    vec![
        number("format", d.format.into()),
        bytes("kind", kind(d).as_bytes()),
        number("cluster_id", d.cluster_id.0.into()),
        number("member_id", d.member_id.0.into()),
        number("revision", d.revision.into()),
        number("compact_revision", d.compact_revision.into()),
        number("raft_term", d.raft_term.into()),
        number("raft_index", d.raft_index.into()),
        bytes("storage_version", d.storage_version.as_bytes()),
        number("page_size", d.page_size.into()),
        number("base_revision", d.base_revision.into()),
        flag("kept_listed", d.kept_listed),
        bytes("lineage", d.lineage.as_ref().map_or(&[], |lineage| &lineage.0)),
        bytes("state_digest", &d.state_digest.map_or(vec![], |digest| digest.to_bytes().to_vec())),
    ]
}

/// What protoc must say about a record of ours: its kind and its fields.
fn expected(record: &Record<'_>) -> (&'static str, Vec<Field>) {
    match record {
        Record::Descriptor(d) => ("descriptor", descriptor_fields(d)),
        Record::Extra(e) => (
            "extra",
            vec![
                bytes("bucket", e.bucket),
                ("key", e.key.map_or(String::new(), quoted)),
                bytes("value", e.value),
                number("sequence", e.sequence.into()),
            ],
        ),
        Record::Compacted(c) => {
            ("compacted", vec![number("revision", c.revision.into()), flag("finished", c.finished)])
        }
        Record::ClusterVersion(version) => ("cluster_version", vec![bytes("version", version.as_bytes())]),
        Record::Member { id, json } => ("member", vec![number("id", id.0.into()), bytes("json", json)]),
        Record::MemberGone(id) => ("member_gone", vec![number("id", id.0.into())]),
        Record::Alarm { stored } | Record::AlarmGone { stored } => {
            // Both fields are numbers below 128 here: tag, number, tag, number.
            assert_eq!((stored.len(), stored[0], stored[2]), (4, 8, 16));
            let kind = if stored[3] == 1 { "NOSPACE" } else { "CORRUPT" };
            let what = if matches!(record, Record::Alarm { .. }) { "alarm" } else { "alarm_gone" };
            (what, vec![number("alarm.memberID", stored[1].into()), ("alarm.alarm", kind.to_owned())])
        }
        Record::AuthConfig { enabled, revision } => (
            "auth_config",
            vec![
                ("enabled", enabled.map_or(String::new(), |on| on.to_string())),
                ("revision", revision.map_or(String::new(), |revision| revision.to_string())),
            ],
        ),
        Record::User { stored } => ("user", vec![bytes("user.name", name_of(stored).unwrap())]),
        Record::UserGone(name) => ("user_gone", vec![bytes("name", name)]),
        Record::Role { stored } => ("role", vec![bytes("role.name", name_of(stored).unwrap())]),
        Record::RoleGone(name) => ("role_gone", vec![bytes("name", name)]),
        Record::Lease { stored } => {
            let (id, ttl_s) = lease_of(stored).unwrap();
            ("lease", vec![number("lease.ID", id.into()), number("lease.TTL", ttl_s.into())])
        }
        Record::LeaseGone(id) => ("lease_gone", vec![number("id", (*id).into())]),
        Record::Moment { revision, unix_ms } => {
            ("moment", vec![number("revision", (*revision).into()), number("unix_ms", (*unix_ms).into())])
        }
        Record::Revision(r) => {
            let kv = KeyValue::parse(r.stored).unwrap();
            let fields = vec![
                number("main", r.rev.main.into()),
                number("sub", r.rev.sub.into()),
                flag("tombstone", r.tombstone),
                bytes("kv.key", kv.key),
                number("kv.create_revision", kv.create_revision.into()),
                number("kv.mod_revision", kv.mod_revision.into()),
                number("kv.version", kv.version.into()),
                bytes("kv.value", kv.value),
                number("kv.lease", kv.lease.into()),
            ];
            ("revision", fields)
        }
        Record::Kept(run) => ("kept", vec![number("main", run.first.main.into()), number("sub", run.first.sub.into())]),
        Record::End(e) => ("end", vec![number("records", e.records.into()), number("crc32c", e.crc32c.into())]),
    }
}

/// Compares protoc's words with our decoder's, record by record.
fn compare(found: &[Words], stream: &[u8]) {
    let ours: Vec<_> = Records::of(stream).map(Result::unwrap).collect();
    assert_eq!(found.len(), ours.len());
    for (words, record) in found.iter().zip(&ours) {
        let (kind, fields) = expected(record);
        assert_eq!(words.kind, kind);
        for (path, value) in fields {
            assert_eq!(words.get(path), value, "{path} of {words:?}");
        }
    }
}

/// The only point of a site, as a path in its repository.
fn manifest_path(site: &Site) -> String {
    let mut found = vec![];
    for lineage in fs::read_dir(site.repository().join("clusters/prod/points")).unwrap() {
        found.extend(fs::read_dir(lineage.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    assert_eq!(found.len(), 1);
    found[0].strip_prefix(site.repository()).unwrap().to_str().unwrap().to_owned()
}

/// A small cluster with some of everything, and one point of it.
fn one_point() -> (Site, Value) {
    let etcd = Etcd::options().auth("root", "secret").args(&["--bcrypt-cost=4"]).start();
    load::write(&etcd, LoadOptions { seed: 4, keys: 20, ..LoadOptions::default() }, 150);
    etcd.etcdctl(&["put", "\u{1}\"quoted\"\\\u{e9}'\t", "a\nb"]).success();
    let site = Site::of(&etcd);
    let backup = site.backup(0);
    assert_eq!(backup.verdict(), "equal");
    (site, backup.manifest)
}

#[test]
fn a_point_is_read_with_the_script_of_the_document() {
    let (site, manifest) = one_point();
    let (repository, path) = (site.repository(), manifest_path(&site));
    let (proto, scratch) = (source("proto"), site.path("read"));
    fs::create_dir(&scratch).unwrap();
    let assignments = [
        ("PROTO=", proto.to_str().unwrap()),
        ("cd ", repository.to_str().unwrap()),
        ("M=", &path),
        ("T=", scratch.to_str().unwrap()),
    ];
    let outcome = run(&script(), &assignments).success();
    let said = outcome.stdout();
    let start = said.find("descriptor {").expect("records in words");
    let head: Vec<_> = said[..start].lines().filter(|line| !line.is_empty()).collect();

    // A listing of one line and its heading, then the manifest's checksum twice.
    let listed = head.iter().position(|line| path.ends_with(line)).expect("the point is listed");
    let [stored, computed, objects @ .., read, claimed] = &head[listed + 1..] else { panic!("{head:?}") };
    assert_eq!(stored, computed);
    let text: Value = serde_json::from_slice(&fs::read(repository.join(&path)).unwrap()).unwrap();
    assert_eq!(text["checksum"], **stored);
    let entries = manifest["objects"].as_array().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| format!("{}: OK", entry["name"].as_str().unwrap())).collect();
    assert_eq!(objects, names);
    assert_eq!(manifest["counts"]["raw_bytes"].to_string(), *read);
    assert_eq!(claimed.trim(), format!("\"raw_bytes\": {read},"));

    let stream = fs::read(scratch.join("records")).unwrap();
    assert_eq!(stream.len().to_string(), *read);
    let found = words(&said[start..]);
    compare(&found, &stream);
    counts_are_the_manifests(&found, &manifest);

    // What the script is for: it notices damage.
    let object = repository.join(entries[0]["name"].as_str().unwrap());
    damage(&object, 100);
    assert_ne!(run(&script(), &assignments).code(), 0);
    damage(&object, 100);
    damage(&repository.join(&path), 200);
    let said = run(&script(), &assignments).stdout();
    let lines: Vec<_> = said.lines().collect();
    let at = lines.iter().position(|line| line == stored).expect("the checksum as stored");
    assert_ne!(lines[at], lines[at + 1]);
}

fn damage(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    // A digit or letter of text stays text.
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn counts_are_the_manifests(found: &[Words], manifest: &Value) {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    found.iter().for_each(|words| *kinds.entry(words.kind.as_str()).or_default() += 1);
    let counts = &manifest["counts"];
    for (kind, name) in [
        ("revision", "revisions"),
        ("lease", "leases"),
        ("user", "users"),
        ("role", "roles"),
        ("member", "members"),
        ("extra", "extras"),
    ] {
        assert!(kinds[kind] > 0, "{kind}");
        assert_eq!(counts[name], kinds[kind], "{kind}");
    }
    assert_eq!(counts["alarms"], 0);
    assert_eq!(counts["records"], found.len() as u64);
    let mut newest: HashMap<&str, bool> = HashMap::new();
    let mut revisions: Vec<_> = found.iter().filter(|words| words.kind == "revision").collect();
    revisions.sort_by_key(|words| (words.number("main"), words.number("sub")));
    let tombstones = revisions.iter().filter(|words| words.get("tombstone") == "true").count();
    assert_eq!(counts["tombstones"], tombstones as u64);
    newest.extend(revisions.iter().map(|words| (words.get("kv.key"), words.get("tombstone").is_empty())));
    assert_eq!(counts["live_keys"], newest.values().filter(|alive| **alive).count() as u64);

    let (descriptor, stored) = (&found[0], &manifest["descriptor"]);
    assert_eq!(stored["revision"], descriptor.number("revision"));
    assert_eq!(stored["compact_revision"], descriptor.number("compact_revision"));
    let cluster: u64 = descriptor.get("cluster_id").parse().unwrap();
    assert_eq!(stored["cluster_id"], EtcdId(cluster).to_string());
    let (end, config) = (found.last().unwrap(), found.iter().find(|words| words.kind == "auth_config").unwrap());
    assert_eq!(end.get("records"), (found.len() - 1).to_string());
    assert_eq!(config.get("enabled"), "true");
}

#[test]
fn protoc_reads_records_of_every_kind_as_we_do() {
    let kv = |key: &[u8]| {
        [&[0x0a, u8::try_from(key.len()).unwrap()], key, b"\x10\x05\x18\x07\x20\x02\x2a\x01\xff\x30\x09"].concat()
    };
    let (alive, gone) = (kv(b"caf\xc3\xa9"), b"\x0a\x04gone".to_vec());
    let descriptor = Descriptor {
        format: FORMAT,
        cluster_id: EtcdId(u64::MAX),
        member_id: EtcdId(1),
        revision: 9,
        compact_revision: 3,
        raft_term: 2,
        raft_index: 1 << 40,
        storage_version: "3.6.0",
        page_size: 4096,
        base_revision: 5,
        kept_listed: true,
        is_live: false,
        lineage: Some(Sha256::of(b"lineage")),
        state_digest: Some(StateDigest::from_bytes([7; 32])),
    };
    let revision =
        |main, sub, tombstone, stored| Record::Revision(Revision { rev: Rev { main, sub }, tombstone, stored });
    let records = [
        Record::Descriptor(descriptor),
        Record::Extra(Extra { bucket: b"future", key: None, value: b"", sequence: 7 }),
        Record::Extra(Extra { bucket: b"future", key: Some(b"\x00"), value: b"\x80\xff", sequence: 0 }),
        Record::Compacted(Compacted { revision: 3, finished: true }),
        Record::ClusterVersion("3.6.0"),
        Record::Member { id: EtcdId(1), json: b"{\"id\":1}" },
        Record::MemberGone(EtcdId(0xdead_beef_dead_beef)),
        Record::Alarm { stored: b"\x08\x05\x10\x01" },
        Record::AlarmGone { stored: b"\x08\x06\x10\x02" },
        Record::AuthConfig { enabled: Some(false), revision: Some(0) },
        Record::User { stored: b"\x0a\x03bob\x12\x01x\x1a\x04role" },
        Record::UserGone(b"eve"),
        Record::Role { stored: b"\x0a\x04role\x12\x05\x08\x02\x12\x01k" },
        Record::RoleGone(b"none"),
        Record::Lease { stored: b"\x08\x07\x10\x3c" },
        Record::LeaseGone(i64::MIN),
        Record::Moment { revision: 9, unix_ms: -1 },
        Record::Kept(KeptRun { first: Rev { main: 2, sub: 1 }, steps: b"\x04\x05\x80\x02" }),
        revision(7, 0, false, &alive),
        revision(7, 1, true, &gone),
        revision(i64::MAX, 0, true, &gone),
    ];
    let mut encoder = Encoder::new();
    assert!(records.iter().all(|record| encoder.put(record).is_none()));
    let stream = encoder.end().0.remove(0).bytes;

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("records"), &stream).unwrap();
    let script = format!("PROTO=\nT=\n{}", in_words());
    let proto = source("proto");
    let assignments = [("PROTO=", proto.to_str().unwrap()), ("T=", dir.path().to_str().unwrap())];
    let found = words(&run(&script, &assignments).success().stdout());
    compare(&found, &stream);
    let mut kinds: Vec<_> = found.iter().map(|words| words.kind.as_str()).collect();
    kinds.dedup();
    assert_eq!(kinds.len(), 19, "{kinds:?}");
    // A few of them spelt out, so that two wrongs cannot agree.
    let one = |kind: &str, path: &str| found.iter().find(|words| words.kind == kind).unwrap().get(path).to_owned();
    assert_eq!(one("descriptor", "cluster_id"), "18446744073709551615");
    assert_eq!(one("revision", "kv.key"), r#""caf\303\251""#);
    assert_eq!(one("revision", "kv.mod_revision"), "7");
    assert_eq!(one("user", "user.roles"), r#""role""#);
    assert_eq!(one("role", "role.keyPermission.permType"), "READWRITE");
    assert_eq!(one("lease_gone", "id"), "-9223372036854775808");
    assert_eq!(one("auth_config", "enabled"), "false");
}
