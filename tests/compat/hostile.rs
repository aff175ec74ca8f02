//! Hostile bytes for everything but databases: documents, names, compressed input, policies.
//!
//! Ten thousand seeded mutations of each: never a panic, never memory beyond the limit, always an error or a result that
//! reads back equal; mostly an error. Data objects' frames are tried where they are opened, in `src/vault/pack.rs`.

use holdfast::base::digest::Sha256;
use holdfast::base::error::Kind;
use holdfast::base::file::ReadAt;
use holdfast::base::progress::Progress;
use holdfast::base::rng::Seeded;
use holdfast::base::stop::Stop;
use holdfast::import::plain::{File, Imported, import};
use holdfast::policy;
use holdfast::vault::condemned::CondemnedList;
use holdfast::vault::foreign::{ForeignOptions, Origin, Packing, open};
use holdfast::vault::layout::Location;
use holdfast::vault::lineage::LineageDocument;
use holdfast::vault::manifest::Manifest;
use holdfast::vault::repository::{Config, Repository, RepositoryOptions};
use holdfast::vault::sealed::{self, Document};
use holdfast::vault::verdict::Verdict;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::files::fixture;
use crate::mutations::{MUTATIONS, in_threads};

/// What this whole process may hold, the other tests beside these included.
const MEMORY_KIB: u64 = 256 << 10;
/// Text that parsers trip over.
const NASTY: &[&str] = &[
    "9223372036854775808",
    "-1",
    "18446744073709551616",
    "1e999",
    "null",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\u0000",
    "\\ud800",
    "../",
    "/",
    "..",
    "\u{0}",
    "=",
    "\n",
    "[[",
    "'''",
    "%2e",
    "true",
    ",",
    ":",
    "\u{202e}",
    "00",
    "+1",
    "\r\n",
];

/// Errors and results met.
#[derive(Debug, Default)]
struct Met {
    refused: AtomicU64,
    read: AtomicU64,
}

impl Met {
    fn note(&self, read: bool) {
        if read { &self.read } else { &self.refused }.fetch_add(1, Ordering::Relaxed);
    }

    /// Both outcomes were met, refusals more often; and the memory that took.
    fn judge(&self, what: &str) {
        let (refused, read) = (self.refused.load(Ordering::Relaxed), self.read.load(Ordering::Relaxed));
        assert!(
            read >= 10 && refused > read && refused + read >= MUTATIONS / 2,
            "{what}: {refused} refused, {read} read"
        );
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
        let kib: u64 = peak.strip_suffix(" kB").unwrap().parse().unwrap();
        assert!(kib < MEMORY_KIB, "{what}: {kib} KiB of memory");
    }
}

fn at(rng: &mut Seeded, len: usize) -> usize {
    usize::try_from(rng.below(len.max(1) as u64)).unwrap()
}

/// One to three changes, some blind, some that know what text is made of.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Seeded) {
    for _ in 0..=rng.below(3) {
        if bytes.is_empty() {
            return;
        }
        let (here, there) = (at(rng, bytes.len()), at(rng, bytes.len()));
        match rng.below(9) {
            0 => bytes[here] ^= 1 << rng.below(8),
            1 => bytes[here] = u8::try_from(rng.below(256)).unwrap(),
            2 => bytes.truncate(here),
            3 => drop(bytes.drain(here.min(there)..here.max(there))),
            4 => {
                let copy = bytes[here.min(there)..here.max(there)].to_vec();
                let to = at(rng, bytes.len());
                bytes.splice(to..to, copy);
            }
            5 => bytes.swap(here, there),
            6 => {
                let word = NASTY[at(rng, NASTY.len())].as_bytes();
                bytes.splice(here..here, word.iter().copied());
            }
            7 => {
                let word = NASTY[at(rng, NASTY.len())].as_bytes();
                bytes.splice(here..(here + word.len()).min(bytes.len()), word.iter().copied());
            }
            // Another digit in the place of one.
            _ => {
                if let Some(found) = bytes[here..].iter().position(u8::is_ascii_digit) {
                    bytes[here + found] = b'0' + u8::try_from(rng.below(10)).unwrap();
                }
            }
        }
    }
}

/// The document with a right checksum, as whoever can write to the repository can compute it.
fn reseal(text: &mut [u8]) {
    let Some(opening) = text.windows(13).position(|window| window == b"\"checksum\": \"") else { return };
    let start = opening + 13;
    if text.len() >= start + 64 {
        text[start..start + 64].fill(b'0');
        let digest = Sha256::of(text).to_string();
        text[start..start + 64].copy_from_slice(digest.as_bytes());
    }
}

fn documents<D: Document + PartialEq + std::fmt::Debug>(original: &[u8], believed: impl Fn(&D) -> bool + Sync) {
    let right: D = sealed::open("document", original).unwrap();
    assert!(believed(&right));
    let met = Met::default();
    in_threads(|seed| {
        let mut rng = Seeded::new(seed);
        let mut wrong = original.to_vec();
        mutate(&mut wrong, &mut rng);
        if wrong == original {
            return;
        }
        let forged = seed % 4 > 0;
        if forged {
            reseal(&mut wrong);
        }
        match sealed::open::<D>("document", &wrong) {
            Ok(document) => {
                assert!(forged || wrong == original, "seed {seed}: the checksum does not tell");
                // Times are written to the millisecond and may be read finer; what was written reads back equal.
                let written = sealed::seal(&document).unwrap();
                let again: D = sealed::open("document", &written).unwrap();
                assert_eq!(sealed::seal(&again).unwrap(), written, "seed {seed}");
                met.note(believed(&document));
            }
            Err(error) => {
                assert!(error.hint_text().is_some(), "seed {seed}: {}", error.chain());
                assert!([Kind::Damaged, Kind::Usage].contains(&error.kind()), "seed {seed}: {}", error.chain());
                met.note(false);
            }
        }
    });
    met.judge(D::NAME);
}

#[test]
fn signed_manifests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/signed/manifest.json");
    let original = std::fs::read(path).unwrap();
    let right = sealed::open_signed::<Manifest>("document", &original).unwrap();
    let refused = std::sync::atomic::AtomicU64::new(0);
    in_threads(|seed| {
        let mut wrong = original.clone();
        mutate(&mut wrong, &mut Seeded::new(seed));
        // What an attacker does who holds no key.
        reseal(&mut wrong);
        match sealed::open_signed::<Manifest>("document", &wrong) {
            Ok((_, None)) => {}
            Ok(signed) => assert!(signed == right, "seed {seed}: another content under the same signature"),
            Err(error) => {
                assert!(error.hint_text().is_some(), "seed {seed}: {}", error.chain());
                let by_signature = error.chain().contains("signature does not match");
                refused.fetch_add(u64::from(by_signature), std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    let refused = refused.into_inner();
    assert!(refused > 1_000, "{refused} refused by their signatures alone");
}

/// Every kind of document, as a repository holds them: path, bytes.
fn stored() -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("etcd.db");
    std::fs::File::create(&snapshot).unwrap().write_all(&fixture("etcd-3.5-auth.db")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let url = format!("file://{}/repository", dir.path().display());
    let options = RepositoryOptions { url, ..RepositoryOptions::default() };
    runtime.block_on(async {
        let repository = Repository::create_or_open(&options).await.unwrap();
        let now = repository.clock().now();
        let file = ReadAt::of(std::fs::File::open(&snapshot).unwrap(), &snapshot).unwrap();
        let file = File { file, name: "etcd.db".into(), modified: now };
        let point = import(&repository, "prod", file, &Progress::new(), &Stop::new()).await.unwrap();
        let Imported::Point { manifest, .. } = point else { panic!("the repository was empty") };
        let objects = manifest.objects.iter().map(|entry| entry.name.clone()).collect();
        let points = vec![Location::Point(manifest.name()).to_string()];
        CondemnedList { epoch: 1, n: 1, created: now, objects, points }.create(&repository, "prod").await.unwrap();
    });
    let mut found = vec![];
    collect(&dir.path().join("repository"), &dir.path().join("repository"), &mut found);
    found
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((name, std::fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn documents_of_every_kind() {
    let mut kinds = [0; 5];
    for (path, bytes) in stored() {
        match Location::parse(&path).unwrap() {
            Location::Point(name) => {
                documents::<Manifest>(&bytes, |manifest| match manifest.validate(&name) {
                    Ok(()) => true,
                    Err(error) => {
                        assert!(error.kind() == Kind::Damaged && error.hint_text().is_some(), "{}", error.chain());
                        false
                    }
                });
                kinds[0] += 1;
            }
            Location::Config(_) => {
                documents::<Config>(&bytes, |_| true);
                kinds[1] += 1;
            }
            Location::Lineage(..) => {
                documents::<LineageDocument>(&bytes, |_| true);
                kinds[2] += 1;
            }
            Location::Verdict(..) => {
                documents::<Verdict>(&bytes, |_| true);
                kinds[3] += 1;
            }
            Location::Condemned(..) => {
                documents::<CondemnedList>(&bytes, |_| true);
                kinds[4] += 1;
            }
            Location::Data(_) | Location::Probe(_) => {}
            other => panic!("{other} has no mutations"),
        }
    }
    assert_eq!(kinds, [1; 5], "every kind of document once");
}

#[test]
fn names_in_a_repository() {
    let names: Vec<String> = stored().into_iter().map(|(path, _)| path).collect();
    assert!(names.len() >= 6, "{names:?}");
    let met = Met::default();
    in_threads(|seed| {
        let mut rng = Seeded::new(seed);
        let original = &names[at(&mut rng, names.len())];
        let mut wrong = original.clone().into_bytes();
        mutate(&mut wrong, &mut rng);
        let Ok(wrong) = String::from_utf8(wrong) else { return };
        let parsed = Location::parse(&wrong);
        if let Ok(location) = &parsed {
            // One spelling for each place, and none of them leads outside.
            assert_eq!(location.to_string(), wrong, "seed {seed}");
            assert!(wrong.split('/').all(|part| !part.is_empty() && !part.starts_with('.')), "seed {seed}: {wrong:?}");
        }
        met.note(parsed.is_ok());
    });
    met.judge("names");
}

fn compressed(packed: &[u8], content: &[u8], packing: Packing) {
    let dir = tempfile::tempdir().unwrap();
    let options = ForeignOptions { scratch: dir.path().to_owned(), unpacked_bytes_max: 1 << 20, stop: Stop::new() };
    let met = Met::default();
    in_threads(|seed| {
        let mut rng = Seeded::new(seed);
        let mut wrong = packed.to_vec();
        mutate(&mut wrong, &mut rng);
        let origin = Origin::Stream(Box::new(std::io::Cursor::new(wrong.clone())), "standard input".into());
        match open(origin, &options) {
            Ok(mut foreign) => {
                let mut bytes = vec![];
                foreign.file.read_to_end(&mut bytes).unwrap();
                // Without its magic it is a plain file, taken as it is.
                let expected = if foreign.packing == Packing::Plain { &wrong[..] } else { content };
                assert!(bytes == expected, "seed {seed}: something else came out of {packing:?}");
                if foreign.packing == packing {
                    met.note(true);
                }
            }
            Err(error) => {
                assert!(error.hint_text().is_some(), "seed {seed}: {}", error.chain());
                assert!([Kind::Damaged, Kind::Usage].contains(&error.kind()), "seed {seed}: {}", error.chain());
                met.note(false);
            }
        }
    });
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch has no name");
    met.judge(&format!("{packing:?}"));
}

/// Text that compresses, as databases do.
fn content() -> Vec<u8> {
    (0..600_u32).flat_map(|n| format!("/registry/pods/{} ", n * n % 977).into_bytes()).collect()
}

#[test]
fn gzip_input() {
    let mut encoder =
        flate2::GzBuilder::new().filename("etcd.db").comment("nightly").write(vec![], flate2::Compression::fast());
    encoder.write_all(&content()).unwrap();
    compressed(&encoder.finish().unwrap(), &content(), Packing::Gzip);
}

#[test]
fn zstd_input() {
    let mut encoder = zstd::stream::Encoder::new(vec![], 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(&content()).unwrap();
    // A frame that readers pass over gives mutations a place that changes nothing.
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 40, 0, 0, 0][..], &[9; 40]].concat();
    compressed(&[encoder.finish().unwrap(), skippable].concat(), &content(), Packing::Zstd);
}

#[test]
fn policy_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let policies: Vec<String> =
        ["local-dev.toml", "prod-mtls.toml"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap()).to_vec();
    for original in &policies {
        policy::parse(original, "policy.toml").unwrap();
    }
    let met = Met::default();
    in_threads(|seed| {
        let mut rng = Seeded::new(seed);
        // Comments are most of what is shipped, and mutations of them say nothing.
        let original = &policies[at(&mut rng, policies.len())];
        let lines: Vec<&str> = original.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        let mut wrong = lines.join("\n").into_bytes();
        mutate(&mut wrong, &mut rng);
        let Ok(wrong) = String::from_utf8(wrong) else { return };
        match policy::parse(&wrong, "policy.toml") {
            Ok(read) => {
                assert_eq!(policy::parse(&wrong, "another.toml").unwrap(), read, "seed {seed}");
                assert!(!read.cluster.endpoints.is_empty() && !read.cluster.name.contains('/'), "seed {seed}");
                met.note(true);
            }
            Err(error) => {
                assert!(error.hint_text().is_some(), "seed {seed}: {}", error.chain());
                assert_eq!(error.kind(), Kind::Usage, "seed {seed}: {}", error.chain());
                met.note(false);
            }
        }
    });
    met.judge("policies");
}
