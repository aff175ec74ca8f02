//! Looking inside: the keys alive at a revision, by prefix, and what Kubernetes calls them.

use std::collections::BTreeMap;

use crate::base::error::Result;
use crate::snapshot::fold::{Fingerprint, Fold, Place};
use crate::snapshot::record::{KeyValue, Record, key_of};

/// Which keys are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This key alone.
    Key(Vec<u8>),
    /// Every key that starts so; empty for all.
    Prefix(Vec<u8>),
}

impl Wanted {
    fn includes(&self, key: &[u8]) -> bool {
        match self {
            Wanted::Key(wanted) => key == &wanted[..],
            Wanted::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// The search, fed batches newest first.
#[derive(Debug)]
pub struct Find {
    wanted: Wanted,
    fold: Fold,
}

impl Find {
    /// Looks for `wanted` as it was at `revision`.
    pub fn new(wanted: Wanted, revision: i64) -> Self {
        Find { wanted, fold: Fold::new(&[revision]) }
    }

    /// Calls `found` with each wanted key alive at the revision, newest change first.
    pub fn batch(&mut self, records: &[Record<'_>], found: &mut dyn FnMut(&KeyValue<'_>) -> Result<()>) -> Result<()> {
        for record in records.iter().rev() {
            let Record::Revision(revision) = record else { continue };
            let key = key_of(revision.stored)?;
            if !self.wanted.includes(key) {
                continue;
            }
            let place = self.fold.place(revision.rev.main, Fingerprint::of(key));
            if place == Place::Newest && !revision.tombstone {
                found(&KeyValue::parse(revision.stored)?)?;
            }
        }
        Ok(())
    }
}

/// What kube-apiserver stores under a key: `pods`, `apiregistration.k8s.io/apiservices`; `None` outside `/registry`.
///
/// Built-in resources lie under their plural name; resources of an API group whose name has a dot (custom resources
/// among them) under group and plural name. Services and their endpoints share a folder.
pub fn kubernetes_kind(key: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(key).ok()?.strip_prefix("/registry/")?;
    let mut parts = path.split('/');
    let first = parts.next().filter(|part| !part.is_empty())?;
    match (first, parts.next()) {
        ("services", Some("endpoints")) => Some("endpoints".to_owned()),
        (group, Some(resource)) if group.contains('.') => Some(format!("{group}/{resource}")),
        _ => Some(first.to_owned()),
    }
}

/// Kinds that are counted each on its own; Kubernetes has hundreds. The rest are counted together.
const KINDS_MAX: usize = 10_000;
/// The longest name of a kind that is counted on its own: a resource's in a domain of the longest name there can be.
const KIND_BYTES_MAX: usize = 320;

/// Objects and bytes by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByKind(BTreeMap<String, Tally>);

/// Objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl ByKind {
    /// Counts a live key.
    pub fn add(&mut self, kv: &KeyValue<'_>) {
        let mut kind = kubernetes_kind(kv.key).unwrap_or_else(|| "(not Kubernetes)".to_owned());
        let unknown = || self.0.len() >= KINDS_MAX && !self.0.contains_key(&kind);
        if kind.len() > KIND_BYTES_MAX || unknown() {
            kind = "(other kinds)".to_owned();
        }
        let tally = self.0.entry(kind).or_default();
        tally.objects += 1;
        tally.bytes += (kv.key.len() + kv.value.len()) as u64;
    }

    /// Kinds by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Tally)> {
        self.0.iter().map(|(kind, tally)| (kind.as_str(), *tally))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_kinds_than_anybody_has_are_counted_together() {
        let mut kinds = ByKind::default();
        for n in 0..KINDS_MAX + 7 {
            let key = format!("/registry/{n:06}/x");
            kinds.add(&KeyValue { key: key.as_bytes(), ..KeyValue::default() });
        }
        kinds.add(&KeyValue { key: b"/registry/000000/y", ..KeyValue::default() });
        assert_eq!(kinds.iter().count(), KINDS_MAX + 1);
        assert_eq!(
            kinds.iter().next().map(|(kind, tally)| (kind.to_owned(), tally.objects)),
            Some(("(other kinds)".to_owned(), 7))
        );
        assert_eq!(kinds.iter().nth(1).map(|(_, tally)| tally.objects), Some(2));
    }

    #[test]
    fn keys_have_the_kinds_kubernetes_gives_them() {
        let cases = [
            ("/registry/pods/default/web", Some("pods")),
            ("/registry/services/specs/default/web", Some("services")),
            ("/registry/services/endpoints/default/web", Some("endpoints")),
            ("/registry/apiregistration.k8s.io/apiservices/v1.", Some("apiregistration.k8s.io/apiservices")),
            ("/registry/masterleases/10.0.0.1", Some("masterleases")),
            ("/registry/", None),
            ("compact_rev_key", None),
        ];
        for (key, kind) in cases {
            assert_eq!(kubernetes_kind(key.as_bytes()).as_deref(), kind, "{key}");
        }
        assert_eq!(kubernetes_kind(b"/registry/\xff"), None);
    }
}
