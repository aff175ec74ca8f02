//! Signed points: whose are used, and what becomes of an attacker's, who can write to the repository and holds no key.

use holdfast::base::digest::{Sha256, base64};
use holdfast::vault::admit::PASSED_OVER_MAX;
use holdfast::vault::layout::{Attempt, Location, PointName};
use holdfast::vault::manifest::Manifest;
use holdfast::vault::sealed;
use holdfast::vault::sign::SigningKey;
use serde_json::Value;
use std::fs;

use crate::place::Place;
use crate::support::etcd::Etcd;
use crate::support::run::Outcome;

/// Commands that use a point's data, or rely on it.
const USERS: &[&[&str]] = &[
    &["restore", "--etcd-snapshot", "out/r.db", "--dry-run"],
    &["restore", "--etcd-snapshot", "out/r.db", "--yes"],
    &["export", "latest", "out/e.db"],
    &["keys", "ls"],
    &["keys", "get", "a"],
    &["diff", "latest~1", "latest"],
    &["drill"],
    &["hold", "latest"],
];

/// The private key of a seed, in the PEM that openssl writes.
pub(crate) fn pem(seed: u8) -> String {
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let line = base64(&[&prefix[..], &[seed; 32]].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n")
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::parse("key", &pem(seed)).unwrap()
}

pub(crate) fn public(seed: u8) -> String {
    key(seed).public().to_string()
}

/// A cluster, and policies that say who signs and who is trusted.
struct Signed {
    place: Place,
    etcd: Etcd,
}

impl Signed {
    fn new() -> Signed {
        let signed = Signed { place: Place::new(), etcd: Etcd::start() };
        for seed in [1, 2] {
            signed.place.write(&format!("{seed}.pem"), pem(seed));
        }
        signed.put("a");
        signed
    }

    fn put(&self, key: &str) {
        self.etcd.etcdctl(&["put", key, "1"]).success();
    }

    /// Writes the policy with these lines under `[repository]`, and what follows it.
    fn policy(&self, lines: &str) {
        let (cluster, url) = (self.etcd.policy_table("prod"), self.place.url());
        let text = format!("{cluster}\n[repository]\nurl = {url:?}\nencryption = \"none\"\n{lines}\n");
        self.place.write("policy.toml", text);
    }

    /// A backup after a change, which must exit with `code`; what it told.
    #[track_caller]
    fn backup(&self, kind: &str, code: i32) -> Value {
        self.put("b");
        self.place.with_policy(&["backup", "--kind", kind, "-o", "json"]).exits(code).json()
    }

    /// The newest manifest by name.
    fn newest(&self) -> (String, Manifest) {
        let tree = self.place.tree("repository");
        let path = tree.keys().filter(|path| path.contains("/points/")).max().unwrap().clone();
        let manifest = sealed::open(&path, &self.read(&path)).unwrap();
        (path, manifest)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.place.repository().join(path)).unwrap()
    }

    fn put_file(&self, path: &str, bytes: &[u8]) {
        let path = self.place.repository().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.place.repository().join(path)).unwrap();
    }

    /// The newest point as somebody else would put it there: another attempt, at a revision that nobody reached.
    fn forged(&self, n: u64) -> Manifest {
        let mut manifest = self.newest().1;
        manifest.attempt = Attempt::parse(&format!("f0f0{n:012x}")).unwrap();
        manifest.descriptor.revision += 1_000;
        manifest.proofs.hash_kv.revision += 1_000;
        manifest.segments.last_mut().unwrap().revision += 1_000;
        manifest
    }

    /// The name of another one like it.
    fn forged_name(forged: &Manifest, n: u64) -> PointName {
        PointName { attempt: Attempt::parse(&format!("f0f0{n:012x}")).unwrap(), ..forged.name() }
    }

    /// Every command that uses the newest point must exit with 3, say `words`, and leave everything as it was.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        for command in USERS {
            let before = (self.place.tree("repository"), self.place.tree("out"));
            let outcome = self.place.with_policy(command).exits(3);
            said(&outcome, words);
            assert!(outcome.stderr.contains("\nhint: "), "{outcome}");
            assert_eq!((self.place.tree("repository"), self.place.tree("out")), before, "{outcome}");
        }
    }

    /// The first finding of a verification of `point`, which must fail.
    #[track_caller]
    fn finding(&self, point: &str) -> Value {
        let outcome = self.place.with_policy(&["verify", point, "--level", "3", "-o", "json"]).exits(3);
        outcome.json()["verdicts"][0]["findings"][0].clone()
    }

    /// The row of `list` about a point.
    #[track_caller]
    fn row(&self, point: &str, more: &[&str]) -> Value {
        let listed = self.place.with_policy(&[&["list", "-o", "json"], more].concat()).json();
        let rows = listed["points"].as_array().unwrap();
        rows.iter()
            .find(|row| row["id"].as_str().unwrap().starts_with(point))
            .unwrap_or_else(|| panic!("{listed}"))
            .clone()
    }
}

#[track_caller]
fn said(outcome: &Outcome, words: &[&str]) {
    let all = outcome.stdout() + &outcome.stderr;
    for word in words {
        assert!(all.contains(word), "{word:?} is not in {outcome}");
    }
}

fn id(point: &Value) -> String {
    point["point"].as_str().unwrap().to_owned()
}

/// A document with the checksum that belongs to it.
fn resealed(text: &str) -> String {
    let stated = text.lines().nth(1).unwrap()[15..79].to_owned();
    let zeroed = text.replacen(&stated, &"0".repeat(64), 1);
    zeroed.replacen(&"0".repeat(64), &Sha256::of(zeroed.as_bytes()).to_string(), 1)
}

const SIGNING: &str = "signing_key = \"1.pem\"";

#[test]
fn a_signed_point_is_used_by_those_who_trust_its_signer() {
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy(SIGNING);
    let full = signed.backup("auto", 0);
    let increment = signed.backup("incremental", 0);
    assert_eq!(increment["manifest"]["kind"], "incremental");
    let (path, _) = signed.newest();
    let (_, signer) = sealed::open_signed::<Manifest>(&path, &signed.read(&path)).unwrap();
    assert_eq!(signer, Some(key(1).public()));
    assert_eq!(place.verify_all(), 2);
    let row = signed.row(&id(&full), &[]);
    assert_eq!((&row["signature"], &row["refused"]), (&"trusted".into(), &false.into()));
    assert_eq!(row["signer"], public(1));
    said(&place.with_policy(&["show"]).success(), &[&format!("by {}, which is trusted", public(1))]);
    said(&place.run(&["policy", "check", "policy.toml"]).run().success(), &[&format!("by {}", public(1))]);

    // On another host: the public key and nothing else.
    signed.policy(&format!("trusted_signers = [{:?}]", public(1)));
    place.with_policy(&["restore", "--etcd-snapshot", "out/r.db", "--yes"]).success();
    said(&place.run(&["policy", "check", "policy.toml"]).run().success(), &["this host makes no points"]);
    for args in [&["backup"][..], &["import", "out/r.db"]] {
        let before = place.tree("repository");
        said(&place.with_policy(args).exits(2), &["would not be believed", "signing_key"]);
        assert_eq!(place.tree("repository"), before);
    }
    // Without a policy, and with whom one trusts named at the moment.
    let (url, file) = (
        place.url(),
        place.write("1.pub", format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", public(1))),
    );
    let direct = |args: &[&str]| place.run(args).args(&["--repository", &url, "--cluster", "prod"]).run();
    said(&direct(&["export", "latest", "out/e.db"]).exits(3), &["not trusted", &format!("--trust-key {}", public(1))]);
    for named in [public(1), file] {
        direct(&["export", "latest", "out/e.db", "--trust-key", &named]).success();
        fs::remove_file(place.path("out/e.db")).unwrap();
    }
    // Somebody takes it all the same: plan and report say what it is.
    let args = ["restore", "--etcd-snapshot", "out/x.db", "--yes", "--allow-unsigned"];
    let words = format!("signed by {}, which is not trusted", public(1));
    let report = direct(&[&args[..], &["-o", "json"]].concat()).success().json();
    assert_eq!(report["report"]["doubt"], words);
    assert!(report["plan"]["risks"].as_array().unwrap().contains(&format!("the point is {words}").into()), "{report}");
    fs::remove_file(place.path("out/x.db")).unwrap();
    assert_eq!(direct(&args).success().stdout().matches(&words).count(), 2);
}

#[test]
fn a_point_of_an_attacker_is_used_by_no_command_and_stops_no_backup() {
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy(SIGNING);
    signed.backup("full", 0);
    let mut ours = id(&signed.backup("incremental", 0));
    for (n, seed, signature) in [(1, None, "unsigned"), (2, Some(2), "unknown_signer")] {
        let forged = signed.forged(n);
        let path = Location::Point(forged.name()).to_string();
        let bytes = match seed {
            None => sealed::seal(&forged).unwrap(),
            Some(seed) => sealed::seal_signed(&forged, &key(seed)).unwrap(),
        };
        signed.put_file(&path, &bytes);
        let attempt = forged.attempt.to_string();
        let why = seed.map_or("is not signed".to_owned(), |seed| format!("--trust-key {}", public(seed)));
        signed.refused(&[&attempt, &why, "--allow-unsigned", &format!("the newest point that can be used is {ours}")]);
        let finding = signed.finding(&attempt);
        assert_eq!((finding["check"].as_str(), finding["object"].as_str()), (Some("signature"), Some(&path[..])));
        // Listings mark it.
        let row = signed.row(&attempt, &[]);
        assert_eq!((row["signature"].as_str(), row["refused"].as_bool()), (Some(signature), Some(true)));
        let mark = signature.replace('_', " ").to_uppercase();
        said(&place.with_policy(&["list"]).success(), &[&mark]);
        let shown = place.with_policy(&["show", &attempt, "-o", "json"]).success().json();
        assert_eq!(
            (shown["signature"].as_str(), shown["signer"].as_str()),
            (Some(signature), seed.map(public).as_deref())
        );
        // A point of ours is what it was, and the next one stands on it.
        place.with_policy(&["keys", "ls", "--point", &ours]).success();
        let next = signed.backup("incremental", 5);
        assert_eq!(next["manifest"]["kind"], "incremental", "{next}");
        assert!(next["warnings"][0].as_str().unwrap().contains(&attempt), "{next}");
        assert_eq!(next["manifest"]["lineage"], row["lineage"]);
        // It stays where it is until somebody takes it away.
        assert_eq!(signed.read(&path), bytes);
        signed.remove(&path);
        ours = id(&signed.backup("incremental", 0));
        place.with_policy(&["keys", "ls", "--point", &id(&next)]).success();
    }
    // What is allowed is used, and told.
    let forged = signed.newest().1;
    let forged = Manifest { attempt: Attempt::parse("abcd000000000001").unwrap(), ..forged };
    signed.put_file(&Location::Point(forged.name()).to_string(), &sealed::seal(&forged).unwrap());
    let args = ["export", "abcd000000000001", "out/e.db", "--allow-unsigned"];
    said(&place.with_policy(&args).success(), &["unsigned: nothing tells who made it"]);
    said(
        &place.with_policy(&["keys", "ls", "--point", "abcd", "--allow-unsigned"]).success(),
        &["abcd000000000001 is unsigned"],
    );
    place.with_policy(&["verify", "abcd", "--allow-unsigned"]).success();
    let args = ["drill", "--point", "abcd", "--allow-unsigned", "--dry-run"];
    said(&place.with_policy(&args).success(), &["that the point is yours: it is unsigned"]);
}

#[test]
fn a_signature_is_for_one_content_and_one_name() {
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy(SIGNING);
    signed.backup("full", 0);
    signed.backup("incremental", 0);
    let (path, manifest) = signed.newest();
    let text = String::from_utf8(signed.read(&path)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let attempt = manifest.attempt.to_string();
    let other = attempt.chars().rev().collect::<String>();
    let evil = {
        let mut manifest = signed.forged(7);
        manifest.objects[0].name = "../../../etc/shadow".to_owned();
        manifest
    };
    let evil_path = Location::Point(evil.name()).to_string();
    let mut elsewhere = manifest.clone();
    elsewhere.cluster = "other".into();
    // Where it is put, what is there, and what is said; allowed or not, it is damage.
    let cases = [
        // Other content under a signature of ours, with the checksum that belongs to it.
        (path.clone(), resealed(&text.replace("\"finished\": \"20", "\"finished\": \"19")), "signature does not match"),
        (path.clone(), resealed(&text.replace(&format!("{}\n", lines[5]), "")), "signer and its signature"),
        (path.clone(), resealed(&text.replace(&format!("{}\n", lines[6]), "")), "signer and its signature"),
        // A point of ours under another name, and in another cluster.
        (path.replace(&attempt, &other), text.clone(), "another name"),
        // Names that lead out, signed by the attacker.
        (evil_path, String::from_utf8(sealed::seal_signed(&evil, &key(2)).unwrap()).unwrap(), "contradicts itself"),
    ];
    for (at, content, words) in cases {
        assert_ne!((&at, &content), (&path, &text), "{words}");
        let before = place.repository().join(&at).exists().then(|| signed.read(&at));
        signed.put_file(&at, content.as_bytes());
        let point = at.rsplit('-').next().unwrap().trim_end_matches(".json").to_owned();
        for more in [&[][..], &["--allow-unsigned"]] {
            for command in [&["show", &point][..], &["export", &point, "out/e.db"], &["keys", "ls", "--point", &point]]
            {
                said(&place.with_policy(&[command, more].concat()).exits(3), &[words]);
            }
        }
        assert_eq!(signed.finding(&point)["check"], "manifest");
        assert!(signed.row(&point, &[])["damage"].as_str().unwrap().contains(words));
        place.with_policy(&["list"]).exits(3);
        place.assert_nothing_left();
        match before {
            Some(bytes) => signed.put_file(&at, &bytes),
            None => signed.remove(&at),
        }
    }
    place.with_policy(&["verify", &attempt, "--level", "1"]).success();
    // An old point that is put back is one of ours: a signature tells who, and not when. Its time does.
    let (lineages, at) = ("clusters/prod/lineages", path.replace("/prod/", "/other/"));
    for name in fs::read_dir(place.repository().join(lineages)).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        signed.put_file(&format!("clusters/other/lineages/{name}"), &signed.read(&format!("{lineages}/{name}")));
    }
    signed.put_file(&at, text.as_bytes());
    let url = place.url();
    let other = ["--repository", &url, "--cluster", "other", "--trust-key", &public(1)];
    said(&place.run(&["show"]).args(&other).run().exits(3), &["another name"]);
    let newer = id(&signed.backup("incremental", 0));
    let newest = signed.newest().0;
    let bytes = signed.read(&newest);
    signed.remove(&newest);
    said(&place.with_policy(&["show"]).success(), &[&attempt]);
    signed.put_file(&newest, &bytes);
    said(&place.with_policy(&["show"]).success(), &[&newer]);
}

#[test]
fn forged_points_push_none_of_ours_out_of_retention() {
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy(&format!("{SIGNING}\n[retention]\nlast = 2"));
    let ours: Vec<String> = (0..3).map(|_| id(&signed.backup("full", 0))).collect();
    for n in 1..=3 {
        let forged = signed.forged(n);
        signed.put_file(&Location::Point(forged.name()).to_string(), &sealed::seal(&forged).unwrap());
    }
    let prune = |more: &[&str], code: i32| {
        let args = [&["prune", "--yes", "--grace", "0s", "-o", "json"], more].concat();
        place.with_policy(&args).exits(code).json()
    };
    for round in 0..2 {
        let pruned = prune(&[], 5);
        assert!(pruned["warnings"][0].as_str().unwrap().starts_with("3 points, the newest of them f0f0"), "{pruned}");
        let deleted = pruned["deleted"]["points"].as_array().unwrap().len();
        assert_eq!(deleted, round, "{pruned}");
        let kept = pruned["points"].as_array().unwrap().iter().filter(|row| row["keep"] == true);
        let foreign = kept.filter(|row| row["reasons"][0].as_str().unwrap().contains("signed by nobody trusted"));
        assert_eq!(foreign.count(), 3, "{pruned}");
    }
    let left = place.points();
    assert_eq!(left.iter().filter(|id| ours.contains(id)).collect::<Vec<_>>(), [&ours[1], &ours[2]]);
    assert_eq!(left.len(), 5);
    // Ours are whole, whatever became of others.
    for point in &ours[1..] {
        place.with_policy(&["verify", point, "--level", "3"]).success();
    }
    for _ in 0..2 {
        prune(&["--allow-unsigned"], 0);
    }
    let left = place.points();
    assert!(ours[1..].iter().all(|point| left.contains(point)) && left.len() == 4, "{left:?}");
}

#[test]
fn signing_is_turned_on_and_keys_are_changed_without_losing_a_point() {
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy("");
    let unsigned = [id(&signed.backup("full", 0)), id(&signed.backup("incremental", 0))];
    assert_eq!(signed.row(&unsigned[1], &[])["refused"], false);
    signed.policy(SIGNING);
    let first = signed.backup("auto", 5);
    assert_eq!(
        (&first["manifest"]["kind"], first["warnings"].as_array().unwrap().len()),
        (&"full".into(), 1),
        "{first}"
    );
    let warning = first["warnings"][0].as_str().unwrap();
    assert!(warning.contains(&unsigned[1]) && warning.contains("and 1 before it"), "{warning}");
    let second = signed.backup("incremental", 0);
    assert_eq!(second["manifest"]["kind"], "incremental");
    assert_eq!(signed.finding(&unsigned[0])["check"], "signature");
    place.with_policy(&["keys", "ls", "--point", &unsigned[0], "--allow-unsigned"]).success();
    // Another key: trusted first, used then.
    signed.policy(&format!("signing_key = \"2.pem\"\ntrusted_signers = [{:?}]", public(1)));
    let third = signed.backup("incremental", 0);
    assert_eq!(
        (&third["manifest"]["kind"], &third["manifest"]["lineage"]),
        (&"incremental".into(), &first["manifest"]["lineage"])
    );
    assert_eq!(
        (signed.row(&id(&third), &[])["signer"].clone(), signed.row(&id(&second), &[])["signer"].clone()),
        (public(2).into(), public(1).into())
    );
    // What a list remembers of a signature is judged by whom one trusts now.
    let cache = place.text("cache");
    let cached = |point: &Value| signed.row(&id(point), &["--cache", &cache])["signature"].clone();
    assert_eq!([cached(&second), cached(&third)], ["trusted", "trusted"]);
    assert!(!place.tree("cache").is_empty());
    signed.policy("signing_key = \"2.pem\"");
    assert_eq!([cached(&second), cached(&third)], ["unknown_signer", "trusted"]);
    signed.policy(&format!("trusted_signers = [{:?}]", public(1)));
    assert_eq!([cached(&second), cached(&third)], ["trusted", "unknown_signer"]);
    assert_eq!(signed.row(&unsigned[0], &["--cache", &cache])["signature"], "unsigned");
    // A copy carries what is trusted, to the byte; its reader needs the public key alone.
    signed.policy(&format!("signing_key = \"2.pem\"\ntrusted_signers = [{:?}]", public(1)));
    let to = format!("file://{}", place.text("second"));
    let copied = place.with_policy(&["copy", "--to", &to, "-o", "json"]).exits(3).json();
    let outcomes: Vec<&str> =
        copied["points"].as_array().unwrap().iter().map(|p| p["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["damaged", "damaged", "copied", "copied", "copied"]);
    assert_eq!(copied["points"][0]["findings"][0]["check"], "signature");
    let (source, target) = (place.tree("repository"), place.tree("second"));
    let points: Vec<_> = target.iter().filter(|(path, _)| path.contains("/points/")).collect();
    assert!(points.len() == 3 && points.iter().all(|(path, file)| source[*path] == **file), "{points:?}");
    let read = ["export", "latest", "out/e.db", "--repository", &to, "--cluster", "prod", "--trust-key", &public(2)];
    place.run(&read).run().success();
}

#[test]
fn documents_that_nobody_signs_select_no_point() {
    use holdfast::vault::lineage::LineageDocument;
    use holdfast::vault::verdict::Verdict;
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy(SIGNING);
    let first = id(&signed.backup("full", 0));
    // A branch behind ours, with a point and a good verdict on it: everything that an attacker can say.
    let tree = place.tree("repository");
    let path = tree.keys().find(|path| path.contains("/lineages/")).unwrap();
    let ours: LineageDocument = sealed::open(path, &signed.read(path)).unwrap();
    let mut forged = signed.forged(9);
    let lineage = ours.lineage.to_string();
    let other = lineage.chars().rev().collect::<String>();
    let rename = |text: &str| text.replace(&lineage, &other);
    forged.lineage = serde_json::from_value(other.clone().into()).unwrap();
    forged.objects.iter_mut().for_each(|entry| entry.name = rename(&entry.name));
    let branch = LineageDocument { lineage: forged.lineage, parent: Some(ours.lineage), ..ours };
    signed.put_file(&rename(path), &sealed::seal(&branch).unwrap());
    let at = Location::Point(forged.name());
    signed.put_file(&at.to_string(), &sealed::seal(&forged).unwrap());
    let path = tree.keys().find(|path| path.contains("/verdicts/")).unwrap();
    let mut verdict: Verdict = sealed::open(path, &signed.read(path)).unwrap();
    (verdict.point, verdict.level) = (forged.name().stem(), 3);
    let good = Location::Verdict("prod".into(), forged.name().stem(), verdict.time, 3).to_string();
    signed.put_file(&good, &sealed::seal(&verdict).unwrap());
    assert_eq!(place.with_policy(&["list", "-o", "json"]).json()["points"][1]["verified"], true);
    place.with_policy(&["restore", "--etcd-snapshot", "out/r.db", "--yes"]).exits(3);
    let outcome = place.with_policy(&["export", "latest", "out/e.db"]).exits(3);
    said(&outcome, &[&forged.attempt.to_string(), &format!("the newest point that can be used is {first}")]);
    // A backup goes on, whole: nothing of it is anybody else's.
    let next = signed.backup("auto", 5);
    assert_eq!(next["manifest"]["kind"], "full", "{next}");
    place.with_policy(&["verify", &id(&next), "--level", "3"]).success();
}

#[test]
fn nothing_that_lies_among_points_stops_a_backup() {
    let signed = Signed::new();
    signed.policy(SIGNING);
    let first = signed.backup("full", 0);
    // It says that only a newer version can read it.
    let forged = signed.forged(1);
    let path = Location::Point(forged.name()).to_string();
    let text = String::from_utf8(sealed::seal(&forged).unwrap()).unwrap();
    signed.put_file(&path, resealed(&text.replace("\"min_reader\": 1", "\"min_reader\": 99")).as_bytes());
    let next = signed.backup("incremental", 5);
    assert_eq!(next["manifest"]["kind"], "incremental", "{next}");
    let warnings = next["warnings"].as_array().unwrap();
    let names = |warning: &Value| warning.as_str().unwrap().contains(&forged.attempt.to_string());
    assert!(warnings.len() == 1 && names(&warnings[0]), "{next}");
    // More of what is no manifest at all than a backup looks at.
    for n in 2..=150 {
        signed.put_file(&Location::Point(Signed::forged_name(&forged, n)).to_string(), b"x");
    }
    let next = signed.backup("auto", 5);
    let warnings = next["warnings"].as_array().unwrap().len();
    assert_eq!((&next["manifest"]["kind"], warnings), (&"full".into(), PASSED_OVER_MAX), "{next}");
    assert_eq!(next["manifest"]["lineage"], first["manifest"]["lineage"]);
    signed.place.with_policy(&["verify", &id(&next), "--level", "3"]).success();
}

#[test]
fn a_forged_verdict_is_not_the_last_word() {
    use holdfast::base::clock::parse_rfc3339;
    use holdfast::vault::verdict::{Outcome, Verdict};
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy(SIGNING);
    let point = id(&signed.backup("full", 0));
    let tree = place.tree("repository");
    let path = |folder: &str| tree.keys().find(|path| path.contains(folder)).unwrap();
    let mut verdict: Verdict = sealed::open("v", &signed.read(path("/verdicts/"))).unwrap();
    let far = parse_rfc3339("2999-01-01T00:00:00Z").unwrap();
    (verdict.level, verdict.time, verdict.result) = (3, far, Outcome::Ok);
    let at = Location::Verdict("prod".into(), verdict.point.clone(), far, 3).to_string();
    signed.put_file(&at, &sealed::seal(&verdict).unwrap());
    assert_eq!(signed.row(&point, &[])["verified_level"], 3);
    // What we find ourselves after it counts, wherever verdicts are read.
    let object = path("/data/");
    let mut bytes = signed.read(object);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    signed.put_file(object, &bytes);
    place.with_policy(&["verify", &point, "--level", "2"]).exits(3);
    let row = signed.row(&point, &[]);
    assert_eq!((&row["verified"], &row["verified_level"]), (&false.into(), &2.into()), "{row}");
    said(&place.with_policy(&["show", &point]).success(), &["FAILED level 2"]);
    let next = signed.backup("auto", 5);
    let reason = next["warnings"][0].as_str().unwrap();
    assert!(reason.contains("fails verification at level 2"), "{next}");
}

#[test]
fn a_forged_manifest_gives_a_terminal_no_orders() {
    let signed = Signed::new();
    let place = &signed.place;
    signed.policy(SIGNING);
    signed.backup("full", 0);
    let mut forged = signed.forged(1);
    forged.tool.version = format!("1\x1b[1A\x1b[2K\rsigned  by {}, which is trusted\u{9b}8m", public(1));
    forged.source.endpoint = "\x1b]0;title\x07".into();
    signed.put_file(&Location::Point(forged.name()).to_string(), &sealed::seal(&forged).unwrap());
    let shown = place.with_policy(&["show"]).success();
    let orders = |text: &str| text.contains(|c: char| c.is_control() && c != '\n');
    assert!(!orders(&shown.stdout()) && !orders(&shown.stderr), "{shown}");
    said(&shown, &["signed         no", "nobody who is trusted has signed this point"]);
}
