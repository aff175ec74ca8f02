//! Encrypted repositories: who reads what, before and after keys change.

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::Path;

use crate::place::Place;
use crate::support::etcd::Etcd;
use crate::support::peers;
use crate::support::run::{Outcome, Run};

/// The value of a key, which nothing in an encrypted repository may show.
const SECRET: &str = "value-nobody-may-see";

/// A place with a cluster behind it, and policies that say how it is encrypted.
struct Vault {
    place: Place,
    etcd: Etcd,
}

impl Vault {
    fn new() -> Vault {
        let vault = Vault { place: Place::new(), etcd: Etcd::start() };
        vault.put("first");
        vault
    }

    fn put(&self, key: &str) {
        self.etcd.etcdctl(&["put", key, &format!("{SECRET} {key}")]).success();
    }

    /// Writes the policy with these lines under `[repository]`.
    fn policy(&self, lines: &str) {
        let (cluster, url) = (self.etcd.policy_table("prod"), self.place.url());
        self.place.write("policy.toml", format!("{cluster}\n[repository]\nurl = {url:?}\n{lines}\n"));
    }

    /// A backup that must exit with `code`; what it told.
    #[track_caller]
    fn backup(&self, code: i32) -> Value {
        self.place.with_policy(&["backup", "-o", "json"]).exits(code).json()
    }

    /// The same, which must be an increment however little the full point before it weighs.
    #[track_caller]
    fn increment(&self) -> Value {
        let point = self.place.with_policy(&["backup", "--kind", "incremental", "-o", "json"]).success().json();
        assert_eq!(point["manifest"]["kind"], "incremental", "{point}");
        point
    }

    /// Restores a point and finds the keys in the file.
    #[track_caller]
    fn restores(&self, point: &str, more: &[&str], keys: usize) {
        let args = ["restore", "--point", point, "--etcd-snapshot", "out/r.db", "--yes"];
        self.place.with_policy(&[&args[..], more].concat()).success();
        let listed = self.place.run(&["keys", "ls", "--file", "out/r.db", "-o", "json"]).run().success().json();
        assert_eq!(listed["keys"].as_array().unwrap().len(), keys, "{listed}");
        fs::remove_file(self.place.path("out/r.db")).unwrap();
    }

    /// The command must be denied with a hint that says `words`, and leave everything as it was.
    #[track_caller]
    fn denied(&self, args: &[&str], words: &str) {
        let before = (self.place.tree("repository"), self.place.tree("out"));
        let outcome = self.place.with_policy(&[args, &["-o", "json"]].concat()).exits(1);
        let said = told(&outcome);
        assert!(said.contains("\"denied\"") && said.contains(words), "{words:?} not in {said}");
        assert!(!said.contains("AGE-SECRET") && !said.contains(SECRET), "{said}");
        assert_eq!((self.place.tree("repository"), self.place.tree("out")), before, "{args:?}");
    }

    /// Data objects of the repository.
    fn objects(&self) -> Vec<String> {
        let tree = self.place.tree("repository");
        tree.into_keys().filter(|name| name.contains("/data/")).collect()
    }
}

fn told(outcome: &Outcome) -> String {
    format!("{outcome}")
}

/// A new pair: the file of the identity, and its recipient.
fn pair(place: &Place, name: &str) -> (String, String) {
    let identity = Identity::generate();
    let file = place.write(name, format!("# {name}\n{}\n", identity.to_string().expose_secret()));
    (file, identity.to_public().to_string())
}

fn recipients(names: &[&str]) -> String {
    format!("encryption = {{ recipients = {names:?} }}")
}

/// What `age -d | zstd -d` says of an object.
fn by_hand(object: &Path, identity: &str) -> Vec<u8> {
    let text = fs::read_to_string(identity).unwrap();
    let key: Identity = text.lines().nth(1).unwrap().parse().unwrap();
    let sealed = fs::read(object).unwrap();
    let mut frame = vec![];
    let opened = age::Decryptor::new(&sealed[..]).unwrap().decrypt(std::iter::once(&key as _));
    opened.unwrap().read_to_end(&mut frame).unwrap();
    let outcome = Run::new(peers::tool("zstd")).args(&["-dc"]).stdin(frame).run().success();
    outcome.stdout_bytes
}

#[test]
fn a_host_with_recipients_alone_writes_what_only_the_identity_reads() {
    let vault = Vault::new();
    let (identity, recipient) = pair(&vault.place, "age.key");
    let (stranger, _) = pair(&vault.place, "other.key");
    vault.policy(&recipients(&[&recipient]));
    let full = vault.backup(0);
    assert_eq!(full["manifest"]["recipients"], Value::from(vec![recipient.clone()]));
    vault.put("second");
    assert_eq!(vault.increment()["new_objects"], 1);
    // Nothing new: the same records again, in an object of another name.
    vault.increment();
    let objects = vault.objects();
    assert_eq!(objects.len(), 3);
    assert!(objects.iter().all(|name| name.ends_with(".zst.age")), "{objects:?}");
    let first = full["manifest"]["objects"][0]["name"].as_str().unwrap();
    let raw = by_hand(&vault.place.repository().join(first), &identity);
    assert_eq!(full["manifest"]["objects"][0]["raw_bytes"], raw.len());
    assert!(raw.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));

    // Without the identity.
    for args in [&["list"][..], &["show"], &["verify", "--level", "1"], &["verify", "--level", "2"], &["check"]] {
        vault.place.with_policy(args).success();
    }
    let readers: [&[&str]; 7] = [
        &["verify", "--level", "3"],
        &["restore", "--etcd-snapshot", "out/r.db", "--dry-run"],
        &["restore", "--etcd-snapshot", "out/r.db", "--yes"],
        &["export", "latest", "out/e.db"],
        &["keys", "ls"],
        &["keys", "get", "first"],
        &["diff", "latest~1", "latest"],
    ];
    for args in readers {
        vault.denied(args, "--identity FILE");
        vault.denied(&[args, &["--identity", &stranger]].concat(), "opens it");
    }
    // As deep as the policy says, so that one unit serves every host.
    let schedule = "[schedule]\nverify = { level = 2, cron = \"30 3 * * *\" }";
    vault.policy(&format!("{}\n{schedule}", recipients(&[&recipient])));
    let verified = vault.place.with_policy(&["verify", "latest", "-o", "json"]).success().json();
    assert_eq!(verified["level"], 2);
    vault.policy(&recipients(&[&recipient]));
    vault.denied(&["verify", "latest"], "--identity FILE");
    // With it.
    vault.restores("latest", &["--identity", &identity], 2);
    vault.restores(full["point"].as_str().unwrap(), &["--identity", &identity], 1);
    vault.place.with_policy(&["verify", "--level", "3", "--identity", &identity]).success();
    vault.place.with_policy(&["diff", "latest~1", "latest", "--identity", &identity]).success();
    vault.policy(&format!("{}\nidentity = \"age.key\"", recipients(&[&recipient])));
    assert_eq!(vault.place.verify_all(), 3);
    vault.restores("latest", &[], 2);
}

#[test]
fn flipped_bytes_show_with_and_without_the_identity() {
    let vault = Vault::new();
    let (identity, recipient) = pair(&vault.place, "age.key");
    vault.policy(&recipients(&[&recipient]));
    vault.backup(0);
    let object = vault.place.repository().join(&vault.objects()[0]);
    let whole = fs::read(&object).unwrap();
    for at in [0, 60, whole.len() / 2, whole.len() - 1] {
        let mut wrong = whole.clone();
        wrong[at] ^= 1;
        vault.place.write(object.to_str().unwrap(), &wrong);
        for more in [&[][..], &["--identity", &identity]] {
            let args = [&["verify", "--level", "2", "-o", "json"][..], more].concat();
            let verdicts = vault.place.with_policy(&args).exits(3).json();
            assert_eq!(verdicts["verdicts"][0]["findings"][0]["check"], "sha256");
        }
        let args = ["restore", "--etcd-snapshot", "out/r.db", "--yes", "--identity", &identity];
        vault.place.with_policy(&args).exits(3);
        vault.place.assert_nothing_left();
    }
    vault.place.write(object.to_str().unwrap(), &whole);
    vault.restores("latest", &["--identity", &identity], 1);
    // What stands there damaged is not what a next point stands on.
    vault.put("second");
    assert_eq!(vault.backup(5)["manifest"]["kind"], "full", "the newest verdict on the point before was failed");
}

#[test]
fn a_passphrase_reads_what_it_wrote_and_is_changed_without_touching_data() {
    let vault = Vault::new();
    vault.place.write("passphrase", "correct horse\n");
    vault.policy("encryption = { passphrase_file = \"passphrase\" }");
    vault.backup(0);
    vault.put("second");
    vault.increment();
    vault.restores("latest", &[], 2);
    assert_eq!(vault.place.verify_all(), 2);
    let config = |n: u32| fs::read_to_string(vault.place.repository().join(format!("config/{n:08}.json"))).unwrap();
    assert!(config(1).contains("BEGIN AGE ENCRYPTED FILE") && !config(1).contains("horse"));

    let place = &vault.place;
    let keyless = ["keys", "ls", "--repository", &place.url(), "--cluster", "prod"].map(str::to_owned);
    let outcome = place.run(&keyless.each_ref().map(String::as_str)).run().exits(1);
    assert!(outcome.stderr.contains("--passphrase-file FILE"), "{outcome}");
    vault.place.write("passphrase", "wrong\n");
    for args in [&["backup"][..], &["verify"], &["export", "latest", "out/e.db"]] {
        vault.denied(args, "does not open");
    }
    vault.place.write("passphrase", "battery staple\ncorrect horse\n");
    let objects = vault.objects();
    vault.put("third");
    // The identity is the same, and so is the chain.
    vault.increment();
    assert_eq!(vault.objects().len(), objects.len() + 1);
    assert!(config(2).contains("BEGIN AGE ENCRYPTED FILE"));
    vault.place.write("passphrase", "battery staple\n");
    vault.restores("latest", &[], 3);
    vault.backup(0);
    assert_eq!(fs::read_dir(vault.place.repository().join("config")).unwrap().count(), 2);
}

#[test]
fn a_copy_is_opened_by_the_same_passphrase_as_often_as_it_is_made() {
    let vault = Vault::new();
    vault.place.write("passphrase", "correct horse\n");
    vault.policy("encryption = { passphrase_file = \"passphrase\" }");
    vault.backup(0);
    let second = format!("file://{}", vault.place.text("second"));
    for copied in [1, 0] {
        let answer = vault.place.with_policy(&["copy", "--to", &second, "-o", "json"]).success().json();
        assert_eq!(answer["objects"], copied, "{answer}");
    }
    let configs = fs::read_dir(Path::new(&vault.place.text("second")).join("config")).unwrap().count();
    assert_eq!(configs, 2, "one of a new repository, one that tells how the copied data is encrypted");
    let restore = ["restore", "--repository", &second, "--cluster", "prod", "--passphrase-file", "passphrase"];
    let into = ["--point", "latest", "--etcd-snapshot", "out/copy.db", "--yes"];
    vault.place.run(&[&restore[..], &into].concat()).run().success();
}

#[test]
fn new_recipients_begin_with_a_full_point_and_old_points_stay_with_old_identities() {
    let vault = Vault::new();
    vault.policy("encryption = \"none\"");
    let plain = vault.backup(0);
    let (old, old_recipient) = pair(&vault.place, "old.key");
    let (new, new_recipient) = pair(&vault.place, "new.key");
    let mut points = vec![];
    for (n, recipient) in [(2, &old_recipient), (3, &new_recipient)] {
        vault.policy(&recipients(&[recipient]));
        vault.put(recipient);
        let point = vault.backup(0);
        assert_eq!((&point["manifest"]["kind"], &point["new_objects"]), (&"full".into(), &1.into()), "{point}");
        assert!(point["kind_reason"].as_str().unwrap().contains("encrypted for others"));
        assert!(vault.place.repository().join(format!("config/{n:08}.json")).exists());
        points.push(point["point"].as_str().unwrap().to_owned());
    }
    vault.put("last");
    vault.increment();
    vault.restores(plain["point"].as_str().unwrap(), &[], 1);
    vault.restores(&points[0], &["--identity", &old], 2);
    vault.restores("latest", &["--identity", &new], 4);
    let export = |point: &str, identity: &str| {
        vault.denied(&["export", point, "out/e.db", "--identity", identity], &new_recipient);
    };
    export(&points[0], &new);
    let both = vault.place.write("both.key", [fs::read(&old).unwrap(), fs::read(&new).unwrap()].concat());
    vault.place.with_policy(&["verify", "--level", "3", "--identity", &both]).success();
    // Nobody goes back to data in the clear by a slip.
    vault.policy("encryption = \"none\"");
    let outcome = vault.place.with_policy(&["backup"]).exits(2);
    assert!(told(&outcome).contains("is encrypted"), "{outcome}");
}

#[test]
fn recipients_that_an_attacker_writes_into_the_repository_are_not_sealed_for() {
    use holdfast::vault::repository::{Config, Encryption};
    use holdfast::vault::sealed;
    let vault = Vault::new();
    let (identity, recipient) = pair(&vault.place, "age.key");
    let (_, attacker) = pair(&vault.place, "attacker.key");
    vault.policy(&recipients(&[&recipient]));
    vault.backup(0);
    let config = vault.place.repository().join("config/00000001.json");
    for (n, encryption) in [(2, Value::from("none")), (4, serde_json::json!({ "recipients": [attacker] }))] {
        let mut forged: Config = sealed::open("config", &fs::read(&config).unwrap()).unwrap();
        forged.n = n;
        forged.encryption = serde_json::from_value::<Encryption>(encryption).unwrap();
        fs::write(config.with_file_name(format!("{n:08}.json")), sealed::seal(&forged).unwrap()).unwrap();
        vault.put(&n.to_string());
        // An increment: the data was for the same all along.
        let point = vault.increment();
        assert_eq!(point["manifest"]["recipients"], Value::from(vec![recipient.clone()]));
        vault.restores("latest", &["--identity", &identity], 1 + n as usize / 2);
    }
}
