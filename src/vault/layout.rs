//! Names: every path of a repository is formatted and parsed here and nowhere else.
//!
//! A name read from a store or from a manifest is hostile until it is a `Location`. Parsing is strict in the bluntest way
//! there is: what was understood is formatted again and must give the same text, so a path has exactly one spelling and
//! none leads out of the repository.
//!
//! Numbers are zero-padded, so that the order of names is the order of numbers.

use std::fmt;

use crate::base::clock::{Time, parse_format};
use crate::base::digest::{self, Sha256};
use crate::base::error::{Error, Result};
use crate::base::id;
use crate::base::rng;

/// Paths are at most this long; S3 allows 1,024 bytes with the prefix.
const PATH_BYTES_MAX: usize = 600;
/// How times are written in names: UTC, to the millisecond, sortable, without a colon.
const TIME_FORMAT: &str = "%Y%m%dT%H%M%S%.3fZ";
/// What follows the name of a data object whose bytes are an age file.
const ENCRYPTED_SUFFIX: &str = ".age";
/// Merge levels fit in two digits.
const LEVEL_MAX: u8 = 99;

macro_rules! hex_name {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// A new one, drawn at random.
            pub fn random() -> Result<Self> {
                let mut bytes = [0; $bytes];
                rng::fill(&mut bytes)?;
                Ok($name(bytes))
            }

            /// Reads its lower-case hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self> {
                let mut bytes = [0; $bytes];
                if digest::from_hex(text, &mut bytes) {
                    return Ok($name(bytes));
                }
                Err(Error::damaged(format!("{text:?} is not {}", $what)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&digest::hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                $name::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_name! {
    /// A branch of a cluster's history, 128 random bits: within one, a revision means one thing forever.
    Lineage, 16, "a lineage (32 hexadecimal digits)"
}
hex_name! {
    /// One attempt to make a restore point, 64 random bits; people use its first digits to name the point.
    Attempt, 8, "an attempt (16 hexadecimal digits)"
}

impl Attempt {
    /// The attempt as a number, which seeds whatever is drawn for its point.
    pub fn seed(self) -> u64 {
        u64::from_be_bytes(self.0)
    }
}

/// What a restore point's own records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PointKind {
    /// The whole state.
    Full,
    /// What changed since the point before.
    Incremental,
}

impl PointKind {
    /// As written in names and documents.
    pub const fn name(self) -> &'static str {
        match self {
            PointKind::Full => "full",
            PointKind::Incremental => "incremental",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [PointKind::Full, PointKind::Incremental].into_iter().find(|kind| kind.name() == text)
    }
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a restore point: all that a listing needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PointName {
    /// The cluster it is a point of.
    pub cluster: String,
    /// The branch of history it lies on.
    pub lineage: Lineage,
    /// The revision it holds the state of.
    pub revision: i64,
    /// What its own records are.
    pub kind: PointKind,
    /// Which attempt made it.
    pub attempt: Attempt,
}

impl PointName {
    /// Revision, kind and attempt, as in the names of its manifest and its verdicts.
    pub fn stem(&self) -> String {
        format!("{:020}-{}-{}", self.revision, self.kind, self.attempt)
    }

    fn parse_stem(cluster: &str, lineage: Lineage, stem: &str) -> Option<Self> {
        let mut parts = stem.split('-');
        let (revision, kind, attempt) = (parts.next()?, parts.next()?, parts.next()?);
        let name = PointName {
            cluster: cluster.to_owned(),
            lineage,
            revision: revision.parse().ok()?,
            kind: PointKind::parse(kind)?,
            attempt: Attempt::parse(attempt).ok()?,
        };
        parts.next().is_none().then_some(name)
    }
}

/// The name of a data object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    /// The cluster it belongs to.
    pub cluster: String,
    /// The branch of history its records belong to.
    pub lineage: Lineage,
    /// Lowest main revision in it.
    pub first: i64,
    /// Highest main revision in it.
    pub last: i64,
    /// How often its records were merged: 0 as written by a backup.
    pub level: u8,
    /// SHA-256 of the stored bytes.
    pub digest: Sha256,
    /// Whether the stored bytes are an age file.
    pub encrypted: bool,
}

/// A place in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// What the repository is; the highest number wins.
    Config(u32),
    /// A lineage's document.
    Lineage(String, Lineage),
    /// A collector's claim in a cluster.
    Epoch(String, u32),
    /// A restore point's manifest.
    Point(PointName),
    /// A data object.
    Data(ObjectName),
    /// What a verification of a point (named by its stem) found: cluster, stem, time, level.
    Verdict(String, String, Time, u8),
    /// What was said about holding a point (named by its stem): cluster, stem, number; the highest wins.
    Hold(String, String, u32),
    /// The report of a drill.
    Drill(String, Time),
    /// A list of what is about to be deleted: cluster, epoch, number.
    Condemned(String, u32, u32),
    /// An object that a check of the store creates and deletes.
    Probe(Attempt),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Config(n) => write!(f, "config/{n:08}.json"),
            Location::Lineage(cluster, lineage) => write!(f, "clusters/{cluster}/lineages/{lineage}.json"),
            Location::Epoch(cluster, epoch) => write!(f, "clusters/{cluster}/epochs/{epoch:08}.json"),
            Location::Point(p) => write!(f, "clusters/{}/points/{}/{}.json", p.cluster, p.lineage, p.stem()),
            Location::Data(o) => write!(
                f,
                "clusters/{}/data/{}/{:020}-{:020}-{}-{}.zst{}",
                o.cluster,
                o.lineage,
                o.first,
                o.last,
                o.level,
                o.digest,
                if o.encrypted { ENCRYPTED_SUFFIX } else { "" }
            ),
            Location::Verdict(cluster, stem, time, level) => {
                write!(f, "clusters/{cluster}/verdicts/{stem}/{}-{level}.json", time.format(TIME_FORMAT))
            }
            Location::Hold(cluster, stem, n) => write!(f, "clusters/{cluster}/holds/{stem}/{n:08}.json"),
            Location::Drill(cluster, time) => write!(f, "clusters/{cluster}/drills/{}.json", time.format(TIME_FORMAT)),
            Location::Condemned(cluster, epoch, n) => {
                write!(f, "clusters/{cluster}/condemned/{epoch:08}-{n:08}.json")
            }
            Location::Probe(attempt) => write!(f, "probe/{attempt}"),
        }
    }
}

impl Location {
    /// Understands a path that came from outside.
    pub fn parse(path: &str) -> Result<Self> {
        let strange = || Error::damaged(format!("{path:?} is not a name of this repository format"));
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::damaged(format!("a name of {} bytes is too long for a repository", path.len())));
        }
        let location = parse_parts(path).ok_or_else(strange)?;
        // One spelling per place: no sign, no missing zero, no upper case, no second slash gets past this.
        if location.to_string() == path { Ok(location) } else { Err(strange()) }
    }

    /// A data object's name, and an error that says so when `path` is anything else.
    pub fn parse_data(path: &str) -> Result<ObjectName> {
        match Location::parse(path)? {
            Location::Data(name) => Ok(name),
            _ => Err(Error::damaged(format!("{path:?} is not the name of a data object"))),
        }
    }
}

fn parse_parts(path: &str) -> Option<Location> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["config", file] => Some(Location::Config(file.strip_suffix(".json")?.parse().ok()?)),
        ["probe", attempt] => Some(Location::Probe(Attempt::parse(attempt).ok()?)),
        ["clusters", cluster, folder, file] => {
            id::check_name("cluster", cluster).ok()?;
            parse_document(cluster, folder, file.strip_suffix(".json")?)
        }
        ["clusters", cluster, folder, subfolder, file] => {
            id::check_name("cluster", cluster).ok()?;
            parse_deep(cluster, folder, subfolder, file)
        }
        _ => None,
    }
}

fn parse_document(cluster: &str, folder: &str, stem: &str) -> Option<Location> {
    let cluster = cluster.to_owned();
    match folder {
        "lineages" => Some(Location::Lineage(cluster, Lineage::parse(stem).ok()?)),
        "epochs" => Some(Location::Epoch(cluster, stem.parse().ok()?)),
        "drills" => Some(Location::Drill(cluster, parse_time(stem)?)),
        "condemned" => {
            let (epoch, n) = stem.split_once('-')?;
            Some(Location::Condemned(cluster, epoch.parse().ok()?, n.parse().ok()?))
        }
        _ => None,
    }
}

fn parse_deep(cluster: &str, folder: &str, subfolder: &str, file: &str) -> Option<Location> {
    match folder {
        "points" => {
            let lineage = Lineage::parse(subfolder).ok()?;
            PointName::parse_stem(cluster, lineage, file.strip_suffix(".json")?).map(Location::Point)
        }
        "data" => {
            let plain = file.strip_suffix(ENCRYPTED_SUFFIX);
            let parts: Vec<&str> = plain.unwrap_or(file).strip_suffix(".zst")?.split('-').collect();
            let [first, last, level, digest] = parts[..] else { return None };
            let name = ObjectName {
                cluster: cluster.to_owned(),
                lineage: Lineage::parse(subfolder).ok()?,
                first: first.parse().ok()?,
                last: last.parse().ok()?,
                level: level.parse().ok().filter(|level| *level <= LEVEL_MAX)?,
                digest: Sha256::parse(digest).ok()?,
                encrypted: plain.is_some(),
            };
            Some(Location::Data(name))
        }
        "holds" => {
            check_stem(cluster, subfolder)?;
            let n = file.strip_suffix(".json")?.parse().ok()?;
            Some(Location::Hold(cluster.to_owned(), subfolder.to_owned(), n))
        }
        "verdicts" => {
            check_stem(cluster, subfolder)?;
            let (time, level) = file.strip_suffix(".json")?.rsplit_once('-')?;
            let level = level.parse().ok().filter(|level| *level <= 9)?;
            Some(Location::Verdict(cluster.to_owned(), subfolder.to_owned(), parse_time(time)?, level))
        }
        _ => None,
    }
}

/// Whether a folder is named after a point: its lineage is not part of that and does not matter.
fn check_stem(cluster: &str, folder: &str) -> Option<()> {
    PointName::parse_stem(cluster, Lineage([0; 16]), folder).filter(|name| name.stem() == folder).map(|_| ())
}

fn parse_time(text: &str) -> Option<Time> {
    parse_format(text, TIME_FORMAT)
}

/// Folders, for listing.
pub mod folder {
    /// All descriptions of the repository itself.
    pub const CONFIG: &str = "config";
    /// Everything of every cluster.
    pub const CLUSTERS: &str = "clusters";
    /// Objects of a check of the store.
    pub const PROBE: &str = "probe";

    /// One cluster's lineages.
    pub fn lineages(cluster: &str) -> String {
        format!("clusters/{cluster}/lineages")
    }

    /// One cluster's points.
    pub fn points(cluster: &str) -> String {
        format!("clusters/{cluster}/points")
    }

    /// One cluster's data objects.
    pub fn data(cluster: &str) -> String {
        format!("clusters/{cluster}/data")
    }

    /// One cluster's verdicts.
    pub fn verdicts(cluster: &str) -> String {
        format!("clusters/{cluster}/verdicts")
    }

    /// The verdicts on one point, by its stem.
    pub fn verdicts_on(cluster: &str, stem: &str) -> String {
        format!("clusters/{cluster}/verdicts/{stem}")
    }

    /// What was said about holding one cluster's points.
    pub fn holds(cluster: &str) -> String {
        format!("clusters/{cluster}/holds")
    }

    /// What was said about holding one point, by its stem.
    pub fn holds_on(cluster: &str, stem: &str) -> String {
        format!("clusters/{cluster}/holds/{stem}")
    }

    /// One cluster's condemned lists.
    pub fn condemned(cluster: &str) -> String {
        format!("clusters/{cluster}/condemned")
    }

    /// One cluster's collectors' claims.
    pub fn epochs(cluster: &str) -> String {
        format!("clusters/{cluster}/epochs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;

    fn examples() -> Vec<String> {
        let lineage = "00112233445566778899aabbccddeeff";
        let stem = "00000000000000000042-full-0123456789abcdef";
        vec![
            "config/00000001.json".into(),
            format!("clusters/prod/lineages/{lineage}.json"),
            "clusters/prod/epochs/00000007.json".into(),
            format!("clusters/prod/points/{lineage}/{stem}.json"),
            format!("clusters/a.b_c-1/points/{lineage}/{}.json", stem.replace("full", "incremental")),
            format!(
                "clusters/prod/data/{lineage}/00000000000000000001-09223372036854775807-0-{}.zst",
                Sha256::of(b"some bytes")
            ),
            format!(
                "clusters/prod/data/{lineage}/00000000000000000001-00000000000000000009-0-{}.zst.age",
                Sha256::of(b"some bytes")
            ),
            format!("clusters/prod/verdicts/{stem}/20260515T020000.123Z-3.json"),
            "clusters/prod/drills/20260515T020000.000Z.json".into(),
            format!("clusters/prod/holds/{stem}/00000001.json"),
            "clusters/prod/condemned/00000007-00000001.json".into(),
            "probe/0123456789abcdef".into(),
        ]
    }

    #[test]
    fn every_kind_of_name_reads_back() {
        for path in examples() {
            assert_eq!(Location::parse(&path).unwrap().to_string(), path);
        }
        let time = parse_rfc3339("2026-05-15T02:00:00.123Z").unwrap();
        match Location::parse(&examples()[7]).unwrap() {
            Location::Verdict(_, _, at, 3) => assert_eq!(at, time),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        let hostile = [
            "",
            "/",
            "config/1.json",
            "config/+0000001.json",
            "config/00000001.json/",
            "/config/00000001.json",
            "config//00000001.json",
            "config/../config/00000001.json",
            "config/00000001.json#1",
            "clusters/../points",
            "clusters/../epochs/00000007.json",
            "clusters/.hidden/epochs/00000007.json",
            "clusters/prod/epochs/-0000007.json",
            "clusters/prod/holds/42-full-0123456789abcdef/00000001.json",
            "clusters/prod/holds/00000000000000000042-full-0123456789abcdef/1.json",
            "clusters/prod/epochs/99999999999.json",
            "clusters/prod/lineages/00112233445566778899AABBCCDDEEFF.json",
            "clusters/prod/points/00112233445566778899aabbccddeeff/42-full-0123456789abcdef.json",
            "clusters/prod/points/00112233445566778899aabbccddeeff/-0000000000000000042-full-0123456789abcdef.json",
            "clusters/prod/points/00112233445566778899aabbccddeeff/00000000000000000042-huge-0123456789abcdef.json",
            "clusters/prod/verdicts/../20260515T020000.123Z-3.json",
            "clusters/prod/drills/20261332T020000.000Z.json",
            "clusters/prod/condemned/00000007.json",
            "probe/..",
        ];
        for path in hostile {
            assert!(Location::parse(path).is_err(), "{path}");
        }
        // Every example with any one character replaced is another name or none, never the same one.
        for path in examples() {
            let right = Location::parse(&path).unwrap();
            for i in 0..path.len() {
                for wrong in ["/", "A", ".", "-", "0", "\0"] {
                    let mut changed = path.clone();
                    changed.replace_range(i..=i, wrong);
                    assert!(changed == path || Location::parse(&changed).ok().as_ref() != Some(&right), "{changed}");
                }
            }
        }
        assert!(Location::parse(&format!("clusters/{}/epochs/00000007.json", "x".repeat(600))).is_err());
    }

    #[test]
    fn object_names_keep_to_their_digits() {
        let data = &examples()[5];
        assert!(Location::parse_data(data).is_ok());
        for (from, to) in
            [("-0-", "-00-"), ("-0-", "-100-"), (".zst", ".zst.gz"), (".zst", ".age"), ("0000001-", "0000001-1-")]
        {
            assert!(Location::parse_data(&data.replacen(from, to, 1)).is_err(), "{from} {to}");
        }
        assert!(Location::parse_data("config/00000001.json").is_err());
    }
}
