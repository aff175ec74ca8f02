//! etcd's files: what Holdfast says about them is what etcd's own tools say, and what it writes etcd's own tools accept.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use holdfast::snapshot::bbolt::shape::Sizes;

use crate::fixtures::{Entry, build, encode, entries, fixture};
use crate::look::Look;
use crate::site::{Site, Solo, etcdutl, on_file};
use crate::support::etcd::{Etcd, Options};
use crate::support::load::{self, LoadOptions};
use crate::support::peers;
use crate::support::run::{Outcome, Run};

/// A fixture and what etcd's own tools and servers said about it when it was made.
struct Known {
    name: &'static str,
    status: [u64; 4],
    hash_kv: u32,
    compact_revision: i64,
    live_keys: u64,
    /// Who may read it; the file's own user, whose password is part of the fixture.
    user: Option<(&'static str, &'static str)>,
}

const KNOWN: [Known; 2] = [
    Known {
        name: "k8s-etcd-3.6.db",
        status: [1_133_217_871, 1677, 1520, 1_441_792],
        hash_kv: 2_801_650_115,
        compact_revision: 900,
        live_keys: 700,
        user: None,
    },
    Known {
        name: "etcd-3.5-auth.db",
        status: [117_753_579, 71, 91, 40960],
        hash_kv: 840_799_827,
        compact_revision: 30,
        live_keys: 41,
        user: Some(("root", "rootpw")),
    },
];

fn path_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/etcd").join(name)
}

/// Hash, revision, entries and size, as a tool prints them in JSON.
fn numbers(status: &Value) -> [u64; 4] {
    ["hash", "revision", "totalKey", "totalSize"].map(|field| status[field].as_u64().unwrap())
}

/// What etcd's own tool says about a file.
fn etcd_status(file: &Path) -> Value {
    etcdutl(&["snapshot", "status", file.to_str().unwrap(), "-w", "json"]).success().json()
}

#[test]
fn status_and_hashes_are_those_of_etcds_own_tools() {
    for known in KNOWN {
        let file = path_of(known.name);
        let (ours, theirs) = (on_file(&["snapshot", "status"], &file), etcd_status(&file));
        assert_eq!(numbers(&theirs), known.status, "{}", known.name);
        assert_eq!(numbers(&ours), known.status, "{}", known.name);
        assert_eq!((&ours["liveKeys"], &ours["sha256"]), (&json!(known.live_keys), &json!("right")));
        let hash = on_file(&["hashkv"], &file);
        let expected = (json!(known.hash_kv), json!(known.status[1]), json!(known.compact_revision));
        assert_eq!((hash["hash"].clone(), hash["hashRevision"].clone(), hash["compactRevision"].clone()), expected);
    }
}

#[test]
fn files_of_every_page_size_are_etcds_files() {
    let dir = tempfile::tempdir().unwrap();
    for known in KNOWN {
        let blocks = encode(&fixture(known.name)).unwrap();
        for page in [1024, 4096, 16384, 65536] {
            let file = dir.path().join(format!("{page}.db"));
            fs::write(&file, build(&blocks, Sizes { page, leaf: page }).unwrap()).unwrap();
            let (ours, theirs) = (on_file(&["snapshot", "status"], &file), etcd_status(&file));
            assert_eq!(numbers(&ours), numbers(&theirs), "{} at page {page}", known.name);
            assert_eq!(numbers(&theirs)[..3], known.status[..3], "{} at page {page}", known.name);
        }
    }
}

#[test]
fn a_file_in_and_out_again_is_the_same_to_etcd() {
    for known in KNOWN {
        let site = Site::with("[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n");
        let file = path_of(known.name);
        let imported = site.holdfast(&["import", file.to_str().unwrap()]).success().json()["imported"][0].clone();
        assert_eq!((&imported["live_keys"], &imported["already_there"]), (&json!(known.live_keys), &json!(false)));
        let id = imported["point"].as_str().unwrap();
        let manifest = site.holdfast(&["show", id]).success().json()["manifest"].clone();
        assert_eq!(manifest["objects"].as_array().unwrap().len(), 1);
        assert_eq!(manifest["proofs"]["hash_at_source"]["verdict"], "not_compared");
        site.holdfast(&["verify", id, "--level", "3"]).success();

        let copy = site.path("copy.db");
        site.holdfast(&["export", id, copy.to_str().unwrap()]).success();
        let before = entries(&fixture(known.name)).unwrap();
        let after = entries(&fs::read(&copy).unwrap()).unwrap();
        assert_eq!(after.len() as u64, known.status[2] + empty_buckets(&after));
        assert!(after == before, "{}: an entry differs", known.name);
        // The size is the page layout's, all else is the content's.
        assert_eq!(numbers(&etcd_status(&copy))[..3], known.status[..3], "{}", known.name);

        let mut options = Etcd::options();
        if let Some((user, password)) = known.user {
            options = options.auth(user, password);
        }
        answers_as_recorded(&known, options.restored_from(&copy));
    }
}

fn empty_buckets(entries: &[Entry]) -> u64 {
    entries.iter().filter(|entry| entry.2.is_none()).count() as u64
}

/// etcd 3.5.1 reads the file of 3.6 whole: to it `storageVersion` and what else 3.6 keeps in `meta` are entries that it
/// does not look at.
fn answers_as_recorded(known: &Known, options: Options) {
    let etcd = options.start();
    let look = Look::at(&etcd, 0);
    let hash = look.hash_kv(0);
    assert_eq!((hash.hash, hash.compact), (known.hash_kv, known.compact_revision), "{}", known.name);
    let (revision, kvs) = look.range(0).unwrap();
    assert_eq!((revision.cast_unsigned(), kvs.len() as u64), (known.status[1], known.live_keys));
    if known.name == "k8s-etcd-3.6.db" {
        let listed = String::from_utf8(fixture("k8s-etcd-3.6.keys.tsv")).unwrap();
        let listed: Vec<_> = listed.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
        let line = |kv: &holdfast::api::mvccpb::KeyValue| {
            let digest = holdfast::base::digest::Sha256::of(&kv.value);
            let numbers = format!("{}\t{}\t{}\t{}", kv.mod_revision, kv.create_revision, kv.version, kv.lease);
            format!("{numbers}\t{}\t{digest}\t{}", kv.value.len(), String::from_utf8_lossy(&kv.key))
        };
        assert_eq!(kvs.iter().map(line).collect::<Vec<_>>(), listed);
    } else {
        let recorded: Value = serde_json::from_slice(&fixture("etcd-3.5-auth.range.json")).unwrap();
        let answered = etcd.etcdctl_json(&["get", "", "--prefix"]);
        assert_eq!(answered["kvs"], recorded["kvs"]);
        let state = look.state();
        assert!(state.auth.0);
        let users: Vec<_> = state.users.iter().map(|(name, roles)| (name.as_str(), roles.len())).collect();
        assert_eq!(users, [("alice", 1), ("bob", 1), ("root", 1)]);
        assert_eq!(state.leases.len(), 1);
        assert_eq!(state.leases[0].2.len(), 3);
    }
}

/// The file `name` as gzip and zstd tools pack it.
fn packed(site: &Site, name: &str) -> [PathBuf; 2] {
    let [gz, zst] = ["packed.db.gz", "packed.db.zst"].map(|name| site.path(name));
    let mut encoder = GzEncoder::new(fs::File::create(&gz).unwrap(), Compression::fast());
    encoder.write_all(&fixture(name)).unwrap();
    encoder.finish().unwrap();
    let (source, target) = (path_of(name), zst.to_str().unwrap().to_owned());
    Run::new(peers::tool("zstd")).args(&["-q", "-o", &target]).args(&[source]).run().success();
    [gz, zst]
}

#[test]
fn packed_files_and_standard_input_are_taken_as_they_come() {
    for known in KNOWN {
        let site = Site::with("[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n");
        let forms = packed(&site, known.name);
        let piped = |args: &[&str], bytes: Vec<u8>| -> Outcome {
            Run::holdfast().args(args).args(&["-o", "json"]).env("HOLDFAST_SCRATCH", site.path("")).stdin(bytes).run()
        };
        let mut inputs: Vec<(String, Vec<u8>)> = vec![("-".to_owned(), fixture(known.name))];
        for form in &forms {
            inputs.push((form.to_str().unwrap().to_owned(), vec![]));
            inputs.push(("-".to_owned(), fs::read(form).unwrap()));
        }
        let repository = format!("file://{}", site.repository().display());
        for (n, (name, bytes)) in inputs.into_iter().enumerate() {
            let status = piped(&["snapshot", "status", &name], bytes.clone()).success().json();
            assert_eq!((numbers(&status), &status["sha256"]), (known.status, &json!("right")), "{name}");
            let hash = piped(&["hashkv", &name], bytes.clone()).success().json();
            assert_eq!(hash["hash"], known.hash_kv, "{name}");

            let into = ["import", &name, "--repository", &repository, "--cluster", "prod"];
            let imported = piped(&into, bytes.clone()).success().json()["imported"][0].clone();
            // One content, one point, however it was packed.
            assert_eq!(imported["already_there"], json!(n > 0), "{name}");
            assert_eq!(imported["revision"], known.status[1]);

            let target = site.path(&format!("restored-{n}.db"));
            let restore = ["restore", "--file", &name, "--etcd-snapshot", target.to_str().unwrap(), "--yes"];
            let report = piped(&restore, bytes).success().json()["report"].clone();
            assert_eq!((&report["hash_kv"], &report["revision"]), (&json!(known.hash_kv), &json!(known.status[1])));
            assert_eq!(numbers(&etcd_status(&target))[..3], known.status[..3], "{name}");
            assert!(entries(&fs::read(&target).unwrap()).unwrap() == entries(&fixture(known.name)).unwrap());
        }
    }
}

#[test]
fn a_saved_snapshot_is_the_one_that_etcdctl_saves() {
    let etcd = Etcd::start();
    load::write(&etcd, LoadOptions { seed: 5, ..LoadOptions::default() }, 300);
    let (site, look) = (Site::of(&etcd), Look::at(&etcd, 0));
    let (ours, theirs) = (site.path("ours.db"), site.path("theirs.db"));
    let before = look.settled();
    let endpoint = etcd.endpoint(0);
    let save = ["snapshot", "save", ours.to_str().unwrap(), "--endpoints", &endpoint, "-o", "json"];
    let saved = Run::holdfast().args(&save).run().success().json();
    assert_eq!(look.position(), before);
    etcd.etcdctl(&["snapshot", "save", theirs.to_str().unwrap()]).success();

    let (ours_bytes, theirs_bytes) = (fs::read(&ours).unwrap(), fs::read(&theirs).unwrap());
    assert_eq!(saved["bytes"], ours_bytes.len() - 32);
    assert!(entries(&ours_bytes).unwrap() == entries(&theirs_bytes).unwrap());
    assert_eq!(etcd_status(&ours), etcd_status(&theirs));
    assert_eq!(numbers(&on_file(&["snapshot", "status"], &theirs)), numbers(&etcd_status(&theirs)));

    // It becomes a cluster, and the plan knows the ids it will have.
    let restored = Etcd::options().restored_from(&ours).start();
    assert_eq!(Look::at(&restored, 0).state(), look.state());
    let (members, token) = (restored.initial_cluster(), restored.token().to_owned());
    let target = site.path("unwritten.db");
    let dry = ["restore", "--file", ours.to_str().unwrap(), "--etcd-snapshot", target.to_str().unwrap(), "--dry-run"];
    let named = ["--initial-cluster", &members, "--initial-cluster-token", &token, "-o", "json"];
    let plan = Run::holdfast().args(&dry).args(&named).run().success().json()["plan"].clone();
    let position = Look::at(&restored, 0).position();
    assert_eq!(plan["cluster_id"], format!("{:x}", position.cluster_id));
    assert_eq!(plan["members"][0]["id"], format!("{:x}", position.member_id));
    assert!(!target.exists());
}

#[test]
fn the_printed_commands_make_the_planned_members() {
    let site = Site::with("[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n");
    let mut members: Vec<_> = ["m1", "m2"].into_iter().map(Solo::claim).collect();
    let pairs: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
    let (source, target) = (path_of("k8s-etcd-3.6.db"), site.path("it's new.db"));
    let restore = ["restore", "--file", source.to_str().unwrap(), "--etcd-snapshot", target.to_str().unwrap(), "--yes"];
    let named = ["--initial-cluster", &pairs.join(","), "-o", "json"];
    let answer = Run::holdfast().args(&restore).args(&named).run().success().json();
    let plan = &answer["plan"];
    let commands: Vec<_> = plan["commands"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(commands.len(), 2);
    let tools = peers::program(peers::ETCD_3_5, "etcdutl").parent().unwrap().to_owned();
    for (command, member) in commands.iter().zip(&mut members) {
        let path = format!("{}:/usr/bin:/bin", tools.display());
        Run::new("sh").args(&["-c", command]).dir(site.path("")).env("PATH", path).run().success();
        member.start(&site.path(&format!("{}.etcd", member.name)), &[]);
    }
    for (i, member) in members.iter().enumerate() {
        let look = Look::at_endpoint(&member.endpoint());
        let id = look.wait_for(false);
        assert_eq!(plan["members"][i]["id"], format!("{id:x}"));
        let position = look.position();
        assert_eq!(plan["cluster_id"], format!("{:x}", position.cluster_id));
        assert_eq!((position.revision, position.compact_revision), (1677, 900));
        assert_eq!(look.hash_kv(0).hash, 2_801_650_115);
    }
}
