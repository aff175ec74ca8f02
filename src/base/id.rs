//! Identifiers: what etcd derives, what Holdfast draws, and how both are printed.

use std::fmt;

use crate::base::digest;
use crate::base::error::{Error, Kind, Result};
use crate::base::rng;

/// A cluster's or a member's identifier, printed as etcd prints it: lower-case hexadecimal without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EtcdId(pub u64);

impl EtcdId {
    /// Reads 1 to 16 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        let id = if digits { u64::from_str_radix(text, 16).ok() } else { None };
        id.map(EtcdId).ok_or_else(|| Error::damaged(format!("{text:?} is not an etcd id")))
    }
}

impl fmt::Display for EtcdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for EtcdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for EtcdId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for EtcdId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        EtcdId::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The id etcd gives a member that is born with a cluster: SHA-1 over its sorted peer URLs and the cluster's token.
pub fn member_id(peer_urls: &[String], token: &str) -> EtcdId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    EtcdId(digest::sha1_prefix(&[urls.concat().as_bytes(), token.as_bytes()]))
}

/// The id etcd gives a cluster: SHA-1 over its members' sorted ids.
pub fn cluster_id(members: &[EtcdId]) -> EtcdId {
    let mut ids: Vec<u64> = members.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    EtcdId(digest::sha1_prefix(&[&bytes]))
}

/// 64 random bits as 16 lower-case hexadecimal digits: an attempt, a repository.
pub fn random() -> Result<String> {
    let mut bytes = [0; 8];
    rng::fill(&mut bytes)?;
    Ok(digest::hex(&bytes))
}

/// Checks a name that becomes one path segment of a repository: 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with `.`
/// or `-`. Anything else could point outside the repository or read as an option.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = (1..=128).contains(&name.len()) && !name.starts_with(['.', '-']) && name.chars().all(allowed);
    if fits {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("{what} {name:?} cannot be used as a name"))
        .hint("use 1 to 128 letters, digits, '.', '_' or '-', not starting with '.' or '-'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_ids_print_as_etcd_prints_them() {
        assert_eq!(EtcdId(0x00ab_cdef).to_string(), "abcdef");
        assert_eq!(EtcdId::parse("8e9e05c52164694d").unwrap(), EtcdId(0x8e9e_05c5_2164_694d));
        for wrong in ["", "g", "+1", "8E", "12345678901234567"] {
            assert!(EtcdId::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_are_derived_as_etcd_derives_them() {
        // etcd's default cluster: one member at localhost:2380 with the default token.
        let member = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(member.to_string(), "8e9e05c52164694d");
        assert_eq!(cluster_id(&[member]).to_string(), "cdf818194e3a8c32");
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for right in ["prod", "a.b_c-1"] {
            check_name("cluster", right).unwrap();
        }
        for wrong in ["", ".", "..", "-x", ".hidden", "a/b", "a\\b", "a b", "é", &"x".repeat(129)] {
            assert_eq!(check_name("cluster", wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
