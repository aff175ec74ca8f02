//! Damage: whatever happens to stored bytes, the commands that read them name the object and the check, exit with 3,
//! publish nothing, overwrite nothing and leave no part of a target.

use holdfast::base::digest::Sha256;
use holdfast::base::rng::Seeded;
use holdfast::vault::layout::{Location, ObjectName};
use holdfast::vault::manifest::{Manifest, ObjectEntry};
use holdfast::vault::sealed;
use std::fs;

use crate::files::fixture;
use crate::place::{Place, loaded};
use crate::support::run::Outcome;

/// No command on a small repository may hold more, whatever it is given.
const MEMORY_BYTES: u64 = 256 << 20;
/// Commands that read data objects.
const READERS: &[&[&str]] = &[
    &["verify", "latest", "--level", "2"],
    &["verify", "latest", "--level", "3"],
    &["restore", "--etcd-snapshot", "out/r.db", "--yes"],
    &["export", "latest", "out/e.db"],
    &["keys", "ls", "--point", "latest"],
    &["diff", "latest", "latest"],
];
/// The two of them that are tried on every small change.
const QUICK: &[&[&str]] =
    &[&["verify", "latest", "--level", "2"], &["restore", "--etcd-snapshot", "out/r.db", "--yes"]];

/// A repository with one point of several objects, made by a backup of a cluster that is gone since.
pub(crate) struct Stored {
    place: Place,
    manifest_path: String,
    manifest: Manifest,
}

impl Stored {
    pub(crate) fn new() -> Stored {
        let (place, etcd) = (Place::new(), loaded());
        place.policy_at(&etcd.address(0));
        place.with_policy(&["backup"]).success();
        let points = place.tree("repository");
        let manifest_path = points.keys().find(|path| path.contains("/points/")).unwrap().clone();
        let bytes = fs::read(place.repository().join(&manifest_path)).unwrap();
        let manifest: Manifest = sealed::open(&manifest_path, &bytes).unwrap();
        assert!(manifest.objects.len() >= 3, "{} objects", manifest.objects.len());
        Stored { place, manifest_path, manifest }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.place.repository().join(path)).unwrap()
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.place.repository().join(path);
        // Stored objects may be read-only; damage does not ask.
        drop(fs::remove_file(&path));
        fs::write(path, bytes).unwrap();
    }

    fn object(&self, n: usize) -> &str {
        &self.manifest.objects[n].name
    }

    /// Runs `change`, then each of `commands`, which must exit with `code` and say all of `words`; then undoes it all.
    pub(crate) fn damaged(&self, change: impl FnOnce(), code: i32, commands: &[&[&str]], words: &[&str]) {
        let repository = self.place.repository();
        let before: Vec<(String, Vec<u8>)> =
            self.place.tree("repository").into_keys().map(|path| (path.clone(), self.read(&path))).collect();
        change();
        let changed = self.place.tree("repository");
        for command in commands {
            let outcome = self.place.with_policy(command).exits(code);
            self.judge(&outcome, words);
            let mut after = self.place.tree("repository");
            // A verifier writes its verdict and nothing else.
            after.retain(|path, _| !path.contains("/verdicts/") || changed.contains_key(path));
            assert!(after == changed, "the repository was changed by {outcome}");
        }
        fs::remove_dir_all(&repository).unwrap();
        for (path, bytes) in before {
            fs::create_dir_all(repository.join(&path).parent().unwrap()).unwrap();
            self.write(&path, &bytes);
        }
    }

    fn judge(&self, outcome: &Outcome, words: &[&str]) {
        let said = outcome.stdout() + &outcome.stderr;
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {outcome}");
        }
        let failed = said.contains("error: ") || said.contains("\"type\":\"error\"");
        let hinted = said.contains("\nhint: ") || said.contains("\"hint\":\"");
        assert!(!failed || hinted, "no hint in {outcome}");
        assert!(outcome.peak_rss_bytes < MEMORY_BYTES, "{} bytes of memory for {outcome}", outcome.peak_rss_bytes);
        self.place.assert_nothing_left();
    }

    /// Replaces the manifest by a changed one with a right checksum.
    fn reseal(&self, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        self.write(&self.manifest_path, &sealed::seal(&manifest).unwrap());
    }

    /// Stores other bytes as object `n`, under a right name, and reseals the manifest with them.
    pub(crate) fn replace_object(&self, n: usize, raw: &[u8], claimed_raw_bytes: u64) {
        let stored = zstd::encode_all(raw, 3).unwrap();
        self.replace_stored(n, &stored, claimed_raw_bytes);
    }

    fn replace_stored(&self, n: usize, stored: &[u8], claimed_raw_bytes: u64) {
        let Location::Data(name) = Location::parse(self.object(n)).unwrap() else { panic!("a data object") };
        let sha256 = Sha256::of(stored);
        let name = Location::Data(ObjectName { digest: sha256, ..name }).to_string();
        self.write(&name, stored);
        self.reseal(|manifest| {
            let old = manifest.objects[n].clone();
            let new =
                ObjectEntry { name, sha256, stored_bytes: stored.len() as u64, raw_bytes: claimed_raw_bytes, ..old };
            manifest.counts.raw_bytes = manifest.counts.raw_bytes - old.raw_bytes + new.raw_bytes;
            manifest.counts.stored_bytes = manifest.counts.stored_bytes - old.stored_bytes + new.stored_bytes;
            manifest.objects[n] = new;
        });
    }

    fn raw(&self, n: usize) -> Vec<u8> {
        zstd::decode_all(&self.read(self.object(n))[..]).unwrap()
    }
}

#[test]
fn a_damaged_object_is_named_with_its_check() {
    let stored = Stored::new();
    let mut rng = Seeded::new(21);
    for n in 0..stored.manifest.objects.len() {
        let (name, whole) = (stored.object(n), stored.read(stored.object(n)));
        let len = whole.len() as u64;
        let seeded: Vec<u64> = (0..4).map(|_| rng.below(len)).collect();
        for at in [0, 1, len - 1].into_iter().chain(seeded) {
            let mut wrong = whole.clone();
            wrong[usize::try_from(at).unwrap()] ^= 1 << (at % 8);
            let commands = if at == 0 { READERS } else { QUICK };
            stored.damaged(|| stored.write(name, &wrong), 3, commands, &[name, "sha256"]);
        }
        for keep in [0, whole.len() / 2, whole.len() - 1] {
            let commands = if keep == 0 { READERS } else { QUICK };
            stored.damaged(|| stored.write(name, &whole[..keep]), 3, commands, &[name, "size"]);
        }
        let longer = [&whole[..], b"x"].concat();
        stored.damaged(|| stored.write(name, &longer), 3, QUICK, &[name, "size"]);
        let gone = || fs::remove_file(stored.place.repository().join(name)).unwrap();
        stored.damaged(gone, 3, READERS, &[name, "exists"]);
    }
    assert_eq!(stored.place.verify_all(), 1, "undone damage is no damage");
}

#[test]
fn objects_that_changed_places_are_found() {
    let stored = Stored::new();
    let (one, two) = (stored.object(0), stored.object(1));
    let swap = || {
        let (a, b) = (stored.read(one), stored.read(two));
        stored.write(one, &b);
        stored.write(two, &a);
    };
    stored.damaged(swap, 3, &[&["verify", "latest", "--level", "2"]], &[one, two]);
    stored.damaged(swap, 3, READERS, &["size"]);
    let rename = || {
        let repository = stored.place.repository();
        fs::rename(repository.join(one), repository.join(one.replace(".zst", ".old"))).unwrap();
    };
    stored.damaged(rename, 3, READERS, &[one, "exists"]);
    // The manifest itself under the name of another point.
    let other = stored.manifest_path.replace("-full-", "-full-00");
    let other = other[..other.len() - 7].to_owned() + ".json";
    let rename = || {
        let bytes = stored.read(&stored.manifest_path);
        fs::remove_file(stored.place.repository().join(&stored.manifest_path)).unwrap();
        stored.write(&other, &bytes);
    };
    let commands: &[&[&str]] = &[&["list", "-o", "json"], &["show", "latest"], READERS[0], READERS[2]];
    stored.damaged(rename, 3, commands, &[&other, "its content belongs to another name"]);
}

#[test]
fn damaged_documents_are_named() {
    let stored = Stored::new();
    let mut rng = Seeded::new(22);
    let tree = stored.place.tree("repository");
    let path_of = |part: &str| tree.keys().find(|path| path.contains(part)).unwrap().clone();
    let listing: &[&str] = &["list", "-o", "json"];
    let id = stored.manifest.attempt.to_string();
    let by_id: &[&str] = &["show", &id];
    let manifest: &[&[&str]] = &[listing, &["show", "latest"], READERS[0], READERS[2], READERS[3], READERS[4]];
    let config: &[&[&str]] = &[listing, by_id, READERS[0], READERS[2]];
    for (path, commands) in
        [(path_of("/points/"), manifest), (path_of("config/"), config), (path_of("/lineages/"), &[listing])]
    {
        let whole = stored.read(&path);
        for at in (0..10).map(|_| rng.below(whole.len() as u64)).chain([0, 25, whole.len() as u64 - 1]) {
            let mut wrong = whole.clone();
            wrong[usize::try_from(at).unwrap()] ^= 0x04;
            stored.damaged(|| stored.write(&path, &wrong), 3, &commands[..1], &[&path]);
        }
        for keep in [0, 100, whole.len() - 1] {
            stored.damaged(|| stored.write(&path, &whole[..keep]), 3, commands, &[&path]);
        }
    }
    // Where there is one branch only, its points are found without its document.
    let lineage = path_of("/lineages/");
    stored.damaged(|| stored.write(&lineage, b"{}"), 0, &[by_id, &["show", "latest"], &["verify", &id]], &[&id]);
    // A manifest that is gone is no point; its data is nobody's.
    let gone = || fs::remove_file(stored.place.repository().join(&stored.manifest_path)).unwrap();
    stored.damaged(gone, 4, &[listing, &["show", "latest"], READERS[2]], &["hint"]);
    // A damaged verdict hides no point.
    stored.place.with_policy(&["verify", "latest", "--level", "1"]).success();
    let verdict = stored.place.tree("repository").into_keys().rfind(|path| path.contains("/verdicts/")).unwrap();
    stored.damaged(|| stored.write(&verdict, b"{}"), 3, &[listing], &[&id, &verdict]);
    stored.damaged(|| stored.write(&verdict, b"{}"), 0, &[by_id, &["verify", "latest", "--level", "2"]], &[]);
}

#[test]
fn the_next_backup_repairs_damaged_objects_of_older_points() {
    let (place, etcd) = (Place::new(), loaded());
    place.policy_at(&etcd.address(0));
    let older = place.with_policy(&["backup", "-o", "json"]).success().json();
    let objects = older["manifest"]["objects"].as_array().unwrap();
    let names: Vec<&str> = objects.iter().map(|object| object["name"].as_str().unwrap()).collect();
    assert!(names.len() >= 3);
    let path = |n: usize| place.repository().join(names[n]);
    let (flipped, cut) = (fs::read(path(0)).unwrap(), fs::read(path(1)).unwrap());
    let mut wrong = flipped.clone();
    wrong[flipped.len() / 2] ^= 1;
    fs::write(path(0), &wrong).unwrap();
    fs::write(path(1), &cut[..cut.len() / 2]).unwrap();
    let before = place.tree("repository");
    let newer = place.with_policy(&["backup", "--kind", "full", "-o", "json"]).exits(5).json();
    let warnings: Vec<&str> = newer["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for name in &names[..2] {
        assert!(warnings.iter().any(|w| w.contains(name) && w.contains("whole again")), "{warnings:?}");
    }
    // The state is the same, so are the objects: the older point is whole again, and nothing was stored twice.
    assert_eq!(newer["manifest"]["objects"], older["manifest"]["objects"]);
    assert_eq!((fs::read(path(0)).unwrap(), fs::read(path(1)).unwrap()), (flipped, cut));
    let after = place.tree("repository");
    let new: Vec<&String> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(matches!(&new[..], [a, b] if a.contains("/points/") && b.contains("/verdicts/")), "{new:?}");
    assert_eq!(place.verify_all(), 2);
    place.with_policy(&["backup"]).success();
}

#[test]
fn damaged_or_stray_documents_stop_no_backup() {
    let (place, etcd) = (Place::new(), loaded());
    place.policy_at(&etcd.address(0));
    place.with_policy(&["backup"]).success();
    let tree = place.tree("repository");
    let lineage = tree.keys().find(|path| path.contains("/lineages/")).unwrap().clone();
    let whole = fs::read(place.repository().join(&lineage)).unwrap();
    let write = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(place.repository().join(path).parent().unwrap()).unwrap();
        fs::write(place.repository().join(path), bytes).unwrap();
    };
    // Each stands in the way of nothing: the point is made and kept, and a warning names the file and the next step.
    let backup = |file: &str, words: &[&str]| {
        let points = place.points_of(&place.with_policy(&["list", "-o", "json"]));
        let done = place.with_policy(&["backup", "-o", "json"]).exits(5).json();
        let warnings: Vec<&str> = done["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        let warned = |word: &str| warnings.iter().any(|warning| warning.contains(file) && warning.contains(word));
        assert!(words.iter().all(|word| warned(word)), "{file}: {warnings:?}");
        let listed = place.with_policy(&["list", "-o", "json"]).exits(3);
        assert!(listed.json()["damage"][0].as_str().unwrap().contains(file), "{listed}");
        assert_eq!(place.points_of(&listed).len(), points.len() + 1);
        done["manifest"]["lineage"].as_str().unwrap().to_owned()
    };
    let first = lineage[lineage.len() - 37..lineage.len() - 5].to_owned();
    let unsure = ["about to be deleted is unknown", "; "];
    for (file, words) in [
        ("clusters/prod/lineages/.DS_Store", &["move that file out"][..]),
        ("clusters/prod/condemned/notes.txt~", &["move that file out", unsure[0]]),
        (
            "clusters/prod/condemned/00000001-00000001.json",
            &["does not open with a checksum", unsure[0], "holdfast verify"],
        ),
    ] {
        write(file, b"something else");
        assert_eq!(backup(file, words), first, "{file}");
        fs::remove_file(place.repository().join(file)).unwrap();
    }
    // The document of the current branch: a new one begins behind it, and the next backup goes on there.
    write(&lineage, b"{}");
    let behind = backup(&lineage, &["put back a copy", "; "]);
    assert_ne!(behind, first);
    assert_eq!(backup(&lineage, &["put back a copy"]), behind);
    let latest = place.with_policy(&["show", "-o", "json"]).success().json();
    assert_eq!(latest["manifest"]["lineage"], *behind);
    // Without the file, too; and with the copy that was found.
    fs::remove_file(place.repository().join(&lineage)).unwrap();
    for _ in 0..2 {
        let done = place.with_policy(&["backup", "-o", "json"]).success().json();
        assert_eq!(done["manifest"]["lineage"], *behind);
        write(&lineage, &whole);
    }
    assert_eq!(place.verify_all(), 8);
}

#[test]
fn a_resealed_manifest_reaches_nothing_outside_and_contradicts_itself_in_vain() {
    let stored = Stored::new();
    let outside = stored.place.write("outside.zst", zstd::encode_all(&b"secret"[..], 1).unwrap());
    let right = stored.object(0).to_owned();
    let names = [
        "../outside.zst".to_owned(),
        outside,
        format!("clusters/prod/data/../../../../outside.zst#{}", &right[right.len() - 30..]),
        right.replace("clusters/prod/", "clusters/other/"),
        right.replace("clusters/prod/", "clusters/prod/../other/"),
        right.replace("/data/", "//data/"),
        format!("/{right}"),
        format!("{right}\u{0}"),
        "config/00000001.json".to_owned(),
        String::new(),
    ];
    let commands: &[&[&str]] = &[&["list", "-o", "json"], &["show", "latest"], READERS[0], READERS[2]];
    for name in names {
        let change = || stored.reseal(|manifest| manifest.objects[0].name.clone_from(&name));
        stored.damaged(change, 3, commands, &[&stored.manifest_path, "contradicts itself"]);
    }
    type Change = fn(&mut Manifest);
    let changes: [Change; 8] = [
        |m| m.cluster = "../../prod".to_owned(),
        |m| m.descriptor.revision += 1,
        |m| m.descriptor.compact_revision = i64::MAX,
        |m| m.objects.clear(),
        |m| m.objects.reverse(),
        |m| m.objects[0].stored_bytes = u64::MAX,
        |m| m.objects[0].raw_bytes = u64::MAX,
        |m| m.counts.records += 1,
    ];
    for change in changes {
        stored.damaged(|| stored.reseal(change), 3, &commands[..2], &[&stored.manifest_path, "contradicts itself"]);
    }
}

#[test]
fn a_decompression_bomb_is_found_before_it_fills_memory() {
    let stored = Stored::new();
    let raw_bytes = stored.manifest.objects[1].raw_bytes;
    let zeros = vec![0_u8; 400 << 20];
    let bomb = zstd::encode_all(&zeros[..], 1).unwrap();
    drop(zeros);
    assert!(bomb.len() < 1 << 20);
    // It claims the size of the object it stands for, or the largest there may be.
    for claimed in [raw_bytes, 32 << 20] {
        let change = || stored.replace_stored(1, &bomb, claimed);
        stored.damaged(change, 3, QUICK, &["zst", "content"]);
    }
    // The same without a size in the frame, as a streaming writer leaves it; and not zstd at all; and two frames.
    let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 400 << 20), &mut encoder).unwrap();
    let unsized_bomb = encoder.finish().unwrap();
    let whole = stored.read(stored.object(1));
    for (bytes, check) in [
        (unsized_bomb, ""),
        (b"not zstd at all, but named after its digest".to_vec(), "frame"),
        ([&whole[..], &whole[..]].concat(), "frame"),
        (whole[..whole.len() - 5].to_vec(), ""),
    ] {
        stored.damaged(|| stored.replace_stored(1, &bytes, raw_bytes), 3, QUICK, &["zst", check]);
    }
}

#[test]
fn records_that_are_not_the_manifests_fail_level_3_and_every_restore() {
    let stored = Stored::new();
    let n = stored.manifest.objects.len() - 1;
    let raw = stored.raw(n);
    let bytes = raw.len() as u64;
    let deep: &[&[&str]] = &[&["verify", "latest", "--level", "3"], READERS[2], READERS[3]];
    // One byte of one value: every digest is right, the records are not the cluster's.
    let word = b"containerd://";
    let at = raw.windows(word.len()).rposition(|window| window == word).unwrap();
    let mut doctored = raw.clone();
    doctored[at] ^= 0x20;
    let doctor = || stored.replace_object(n, &doctored, bytes);
    stored.damaged(doctor, 0, &[&["verify", "latest", "--level", "2"]], &["level 2 ok"]);
    stored.damaged(doctor, 3, &deep[..1], &["records"]);
    stored.damaged(doctor, 3, &deep[1..], &["what was restored is not the source", "hint: "]);
    // Records that do not decode.
    for at in [0, 1, 2, raw.len() / 2] {
        let mut wrong = raw.clone();
        wrong[at..(at + 40).min(raw.len())].fill(0xff);
        stored.damaged(|| stored.replace_object(n, &wrong, bytes), 3, deep, &[]);
    }
    stored.damaged(|| stored.replace_object(n, &raw[..raw.len() - 7], bytes - 7), 3, deep, &[]);
    // The proofs of another point.
    let change = || stored.reseal(|m| m.proofs.hash_kv.hash ^= 1);
    stored.damaged(change, 3, deep, &["HashKV"]);
    let change = || stored.reseal(|m| m.samples[0].fact_sha256 = Sha256::default());
    stored.damaged(change, 3, deep, &["sample"]);
    let change = || stored.reseal(|m| m.counts.live_keys -= 1);
    stored.damaged(change, 3, deep, &[]);
}

#[test]
fn hostile_etcd_files_are_refused_or_read_right() {
    let place = Place::new();
    let url = place.url();
    let right = fixture("etcd-3.5-auth.db");
    let file = place.write("right.db", &right);
    let facts = place.run(&["hashkv", &file, "-o", "json"]).run().success().stdout();
    let mut rng = Seeded::new(23);
    let mut refused = 0;
    for n in 0..24_u64 {
        let mut wrong = right.clone();
        let page = 4096;
        match n % 4 {
            // Page headers: id, flags, count, overflow.
            0 => {
                let at = usize::try_from(rng.below(wrong.len() as u64 / page)).unwrap() * 4096;
                wrong[at + 8..at + 16].fill(0xff);
            }
            // Elements of a page: positions and sizes.
            1 => {
                let at = usize::try_from(2 + rng.below(wrong.len() as u64 / page - 2)).unwrap() * 4096;
                wrong[at + 16..at + 48].fill(0x7f);
            }
            // Both meta pages point elsewhere.
            2 => {
                for meta in [0, 4096] {
                    wrong[meta + 16 + 16..meta + 16 + 24].copy_from_slice(&rng.below(1 << 40).to_le_bytes());
                }
            }
            // A page in the place of another.
            _ => {
                let pages = wrong.len() as u64 / page;
                let (from, to) = (rng.below(pages), 2 + rng.below(pages - 2));
                let (from, to) = (usize::try_from(from).unwrap() * 4096, usize::try_from(to).unwrap() * 4096);
                wrong.copy_within(from..from + 4096, to);
            }
        }
        let file = place.write("wrong.db", &wrong);
        let before = place.tree("");
        let hash = place.run(&["hashkv", &file, "-o", "json"]).run();
        assert!(hash.code() == 3 || hash.code() == 0, "{hash}");
        // A page that no tree uses may say anything; a page that one uses shows in the hash or is refused.
        if hash.code() == 0 && hash.stdout() == facts {
            continue;
        }
        let restore = place.run(&["restore", "--file", &file, "--etcd-snapshot", "out/r.db", "--yes"]).run();
        let import = place.run(&["import", &file, "--repository", &url, "--cluster", "prod"]).run();
        for outcome in [&hash, &restore, &import] {
            assert_eq!(outcome.code(), hash.code(), "{outcome}");
            let hinted = outcome.stderr.contains("\nhint: ") || outcome.stderr.contains("\"hint\":\"");
            assert!(outcome.code() == 0 || hinted, "no hint in {outcome}");
            assert!(outcome.peak_rss_bytes < MEMORY_BYTES, "{outcome}");
        }
        if hash.code() == 3 {
            refused += 1;
            let mut after = place.tree("");
            after.retain(|path, _| !path.starts_with("repository/"));
            assert_eq!(after, before);
            assert!(!place.tree("repository").keys().any(|path| path.contains("/points/")));
        } else {
            drop(fs::remove_file(place.path("out/r.db")));
            drop(fs::remove_dir_all(place.repository()));
        }
        drop(fs::remove_dir_all(place.repository()));
    }
    assert!(refused >= 6, "{refused} of 24 were refused");
}
