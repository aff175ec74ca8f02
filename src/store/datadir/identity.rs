//! Who a member is, as a document in its directory.
//!
//! Ids are etcd's at the first birth of a cluster: derived from the peers' addresses and the token, so that every member
//! works out the same ones. What is born later, from a restore point or a survivor, would get the same ids again and could
//! be mistaken for its own past. So each birth also opens a **lineage**, which is derived from its parent, from what it was
//! born of, and from the same flags; and from then on the ids of members are derived from the lineage too. Hosts that are
//! given the same arguments agree on all of it without talking.
//!
//! Invariants:
//! - No byte of the document can change unnoticed: the checksum covers all of it (docs/formats/datadir.md).
//! - A lineage never has the id of one that it descends from.

use serde::{Deserialize, Serialize};

use crate::base::digest::{Sha256, sha1_prefix};
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Kind, Result};
use crate::base::id::{self, EtcdId};

/// Version of the document that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// The oldest reader that understands what this program writes.
const MIN_READER: u32 = 1;
/// No such document is larger.
pub const BYTES_MAX: usize = 1 << 20;
/// Births that a member can look back on.
pub const ANCESTRY_MAX: usize = 4096;

const DOCUMENT: &str = "member";
const OPENING: &str = "{\n  \"checksum\": \"";
const DIGITS: usize = 64;

/// Members with the addresses at which their peers reach them, as `--initial-cluster` has them.
pub type Members = [(String, Vec<String>)];

/// Who a member is. None of it ever changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its cluster.
    pub cluster_id: EtcdId,
    /// Itself.
    pub member_id: EtcdId,
    /// What it was called at its birth.
    pub name: String,
    /// Where its peers reached it then.
    pub peer_urls: Vec<String>,
    /// The branch of history that it belongs to.
    pub lineage: Lineage,
    /// The branches before that, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestry: Vec<Sha256>,
}

/// A branch of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Its id.
    pub id: Sha256,
    /// The branch it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Sha256>,
    /// The last revision that it shares with that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_revision: Option<i64>,
    /// Why there is one.
    pub reason: Reason,
}

/// Why a lineage was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A new cluster.
    Bootstrap,
    /// A restore point or a snapshot file.
    Restore,
    /// One survivor goes on alone.
    ForceNewCluster,
}

/// What a birth descends from.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The lineage it was, when that is known.
    pub parent: Option<Sha256>,
    /// The lineages before that, the oldest first.
    pub ancestry: &'a [Sha256],
    /// What exactly it was born of: the id of a restore point or of a survivor, or the digest of a file.
    pub source: &'a str,
    /// The last revision that is shared.
    pub fork_revision: Option<i64>,
    /// Why.
    pub reason: Reason,
}

impl Identity {
    /// The member `name` of a cluster that begins now, with etcd's ids.
    pub fn first(name: &str, token: &str, members: &Members) -> Result<Identity> {
        let lineage = Lineage {
            id: lineage_of(None, "", token, members),
            parent: None,
            fork_revision: None,
            reason: Reason::Bootstrap,
        };
        Identity::new(name, members, lineage, vec![], |urls| id::member_id(urls, token))
    }

    /// The member `name` of a cluster that is born of another one.
    pub fn born(origin: &Origin<'_>, name: &str, token: &str, members: &Members) -> Result<Identity> {
        let lineage_id = lineage_of(origin.parent, origin.source, token, members);
        let mut ancestry = origin.ancestry.to_vec();
        ancestry.extend(origin.parent);
        if ancestry.contains(&lineage_id) {
            return Err(Error::new(Kind::Usage, format!("a cluster with the token {token:?} was born of this before"))
                .hint(
                    "give another --initial-cluster-token: members of the two must not take each other for their own",
                ));
        }
        if ancestry.len() > ANCESTRY_MAX {
            return Err(Error::new(Kind::Failed, format!("this history was branched more than {ANCESTRY_MAX} times"))
                .hint("export it as an etcd snapshot file, and restore that as a new history"));
        }
        let (fork_revision, reason) = (origin.fork_revision, origin.reason);
        let lineage = Lineage { id: lineage_id, parent: origin.parent, fork_revision, reason };
        Identity::new(name, members, lineage, ancestry, |urls| {
            let mut urls: Vec<&str> = urls.iter().map(String::as_str).collect();
            urls.sort_unstable();
            EtcdId(sha1_prefix(&[urls.concat().as_bytes(), token.as_bytes(), &lineage_id.0]))
        })
    }

    fn new(
        name: &str,
        members: &Members,
        lineage: Lineage,
        ancestry: Vec<Sha256>,
        id_of: impl Fn(&[String]) -> EtcdId,
    ) -> Result<Identity> {
        let ids: Vec<EtcdId> = members.iter().map(|(_, urls)| id_of(urls)).collect();
        let own = members.iter().position(|(member, _)| member == name).ok_or_else(|| {
            Error::new(Kind::Usage, format!("--initial-cluster does not name this member, {name:?}"))
                .hint(format!("give --initial-cluster '{name}=URL,...', or --name as it stands there"))
        })?;
        if let Some(twice) = ids.iter().enumerate().find(|(i, id)| ids[..*i].contains(id)) {
            return Err(Error::new(
                Kind::Usage,
                format!("{:?} has the addresses of another member", members[twice.0].0),
            )
            .hint("give each member of --initial-cluster its own peer address"));
        }
        Ok(Identity {
            cluster_id: id::cluster_id(&ids),
            member_id: ids[own],
            name: name.to_owned(),
            peer_urls: members[own].1.clone(),
            lineage,
            ancestry,
        })
    }

    /// The document that holds it.
    pub fn to_document(&self) -> Vec<u8> {
        let sealed = Sealed {
            checksum: Sha256([0; 32]),
            document: DOCUMENT.to_owned(),
            format: FORMAT,
            min_reader: MIN_READER,
            body: self,
        };
        let mut text = serde_json::to_string_pretty(&sealed).expect("text and numbers can be written as JSON");
        text.push('\n');
        let checksum = Sha256::of(text.as_bytes()).to_string();
        text.replace_range(OPENING.len()..OPENING.len() + DIGITS, &checksum);
        text.into_bytes()
    }

    /// Reads a document.
    pub fn from_document(bytes: &[u8]) -> Result<Identity> {
        let damaged = |why: &str| Error::damaged(why).hint(HINT_MEMBER_DAMAGED);
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
        let digits = OPENING.len()..OPENING.len() + DIGITS;
        let stated = text.strip_prefix(OPENING).and_then(|_| text.get(digits.clone()));
        let stated = stated.ok_or_else(|| damaged("it does not open with a checksum"))?;
        let mut blank = text.to_owned();
        blank.replace_range(digits.clone(), &"0".repeat(DIGITS));
        if Sha256::of(blank.as_bytes()).to_string() != stated {
            return Err(damaged("its checksum is wrong"));
        }
        let unreadable = |error: serde_json::Error| damaged("it cannot be read").source(error);
        let header: Header = serde_json::from_str(text).map_err(unreadable)?;
        if header.document != DOCUMENT {
            return Err(damaged("it is another kind of document"));
        }
        if header.min_reader > FORMAT {
            let format = header.format;
            return Err(Error::new(Kind::Usage, format!("it has format {format}, which this version does not know"))
                .hint("start this member with the version that wrote its directory, or a later one"));
        }
        let sealed: Sealed<Identity> = serde_json::from_str(text).map_err(unreadable)?;
        Ok(sealed.body)
    }
}

/// The lineage of a birth: parts with their lengths, so that no two lists of parts read alike.
fn lineage_of(parent: Option<Sha256>, source: &str, token: &str, members: &Members) -> Sha256 {
    let mut listed: Vec<String> =
        members.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))).collect();
    listed.sort_unstable();
    let parent = parent.map(|parent| parent.to_string()).unwrap_or_default();
    let mut text = String::from("holdfast member lineage\n");
    for part in [parent.as_str(), source, token].into_iter().chain(listed.iter().map(String::as_str)) {
        text.push_str(&format!("{} {part}\n", part.len()));
    }
    Sha256::of(text.as_bytes())
}

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    checksum: Sha256,
    document: String,
    format: u32,
    min_reader: u32,
    #[serde(flatten)]
    body: T,
}

#[derive(Deserialize)]
struct Header {
    document: String,
    format: u32,
    min_reader: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<(String, Vec<String>)> {
        let member = |i: u8| (format!("m{i}"), vec![format!("http://10.0.0.{i}:2380")]);
        vec![member(1), member(2), member(3)]
    }

    fn origin(source: &str, parent: Option<Sha256>) -> Origin<'_> {
        Origin { parent, ancestry: &[], source, fork_revision: Some(41), reason: Reason::Restore }
    }

    #[test]
    fn ids_of_a_first_birth_are_those_of_etcd() {
        // What etcd 3.5.1 itself reports for its defaults.
        let one = vec![("default".to_owned(), vec!["http://localhost:2380".to_owned()])];
        let identity = Identity::first("default", "etcd-cluster", &one).unwrap();
        assert_eq!(
            (identity.member_id.to_string(), identity.cluster_id.to_string()),
            ("8e9e05c52164694d".to_owned(), "cdf818194e3a8c32".to_owned())
        );
        assert_eq!((identity.lineage.parent, identity.lineage.reason), (None, Reason::Bootstrap));
    }

    #[test]
    fn hosts_with_the_same_arguments_agree_and_others_do_not() {
        let source = origin("point-1", Some(Sha256::of(b"parent")));
        let mut turned = members();
        turned.reverse();
        let one = Identity::born(&source, "m1", "t", &members()).unwrap();
        let two = Identity::born(&source, "m2", "t", &turned).unwrap();
        assert_eq!((one.cluster_id, &one.lineage), (two.cluster_id, &two.lineage));
        assert_ne!(one.member_id, two.member_id);
        let first = Identity::first("m1", "t", &members()).unwrap();
        for other in [
            Identity::born(&source, "m1", "other", &members()).unwrap(),
            Identity::born(&origin("point-2", Some(Sha256::of(b"parent"))), "m1", "t", &members()).unwrap(),
            Identity::born(&origin("point-1", None), "m1", "t", &members()).unwrap(),
            first,
        ] {
            assert!(
                other.lineage.id != one.lineage.id
                    && other.member_id != one.member_id
                    && other.cluster_id != one.cluster_id
            );
        }
    }

    #[test]
    fn what_is_born_twice_of_the_same_is_refused() {
        let first = Identity::first("m1", "t", &members()).unwrap();
        let again = Identity::born(&origin("p", Some(first.lineage.id)), "m1", "t", &members()).unwrap();
        assert_eq!(again.ancestry, [first.lineage.id]);
        // A later member of that line, born with the very arguments that its ancestor had.
        let ancestry = [again.lineage.id];
        let source = Origin { ancestry: &ancestry, ..origin("p", Some(first.lineage.id)) };
        let error = Identity::born(&source, "m1", "t", &members()).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.hint_text().unwrap().contains("another --initial-cluster-token"));
    }

    #[test]
    fn a_member_must_be_named_and_have_an_address_of_its_own() {
        let error = Identity::first("m9", "t", &members()).unwrap_err();
        assert!(error.chain().contains("does not name this member, \"m9\"") && error.hint_text().is_some());
        let mut twice = members();
        twice[1].1 = twice[0].1.clone();
        let error = Identity::first("m1", "t", &twice).unwrap_err();
        assert!(error.chain().contains("\"m2\" has the addresses of another member"), "{}", error.chain());
    }

    #[test]
    fn a_document_comes_back_and_no_byte_of_it_may_change() {
        let identity = Identity::born(&origin("p", Some(Sha256::of(b"x"))), "m2", "t", &members()).unwrap();
        let document = identity.to_document();
        assert_eq!(Identity::from_document(&document).unwrap(), identity);
        for i in 0..document.len() {
            let mut wrong = document.clone();
            wrong[i] ^= 1;
            assert_eq!(Identity::from_document(&wrong).unwrap_err().kind(), Kind::Damaged, "byte {i}");
        }
        for end in 0..document.len() {
            assert_eq!(Identity::from_document(&document[..end]).unwrap_err().kind(), Kind::Damaged, "cut at {end}");
        }
    }

    #[test]
    fn a_newer_document_is_refused_by_its_number() {
        let identity = Identity::first("m1", "t", &members()).unwrap();
        let newer = String::from_utf8(identity.to_document())
            .unwrap()
            .replace("\"min_reader\": 1", "\"min_reader\": 2")
            .replace("\"format\": 1", "\"format\": 2");
        let mut blank = newer.clone();
        blank.replace_range(OPENING.len()..OPENING.len() + DIGITS, &"0".repeat(DIGITS));
        let sealed =
            newer.replacen(&newer[OPENING.len()..OPENING.len() + DIGITS], &Sha256::of(blank.as_bytes()).to_string(), 1);
        let error = Identity::from_document(sealed.as_bytes()).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Usage, "it has format 2, which this version does not know")
        );
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn the_first_format_is_still_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/datadir/identity-1.json");
        let identity = Identity::from_document(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!((identity.cluster_id.to_string(), identity.name.as_str()), ("d5f60df349a7d2f7".to_owned(), "m2"));
        assert_eq!((identity.ancestry.len(), identity.lineage.fork_revision), (1, Some(41)));
    }
}
