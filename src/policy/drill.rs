//! The table [drill]: with which etcd a restore is rehearsed.

use std::path::PathBuf;

use crate::base::error::Result;
use crate::policy::raw::Table;

/// The programs of a rehearsal. Without etcd, a drill ends at the restored file, and says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drill {
    /// etcd, of the version that a recovery would use.
    pub etcd: Option<PathBuf>,
    /// etcdutl, or etcdctl before 3.5; otherwise the etcdutl beside etcd.
    pub etcdutl: Option<PathBuf>,
}

impl Drill {
    /// The table, when it is there.
    pub(super) fn read(root: &mut Table<'_>) -> Result<Self> {
        let Some(mut table) = root.optional("drill", &["etcd", "etcdutl"])? else { return Ok(Drill::default()) };
        let (etcd, etcdutl) = (table.path("etcd")?, table.path("etcdutl")?);
        match (etcd, etcdutl) {
            (None, Some(etcdutl)) => {
                Err(etcdutl.wrong("etcdutl is set without etcd").hint("add etcd: the program that a drill boots"))
            }
            (etcd, etcdutl) => {
                Ok(Drill { etcd: etcd.map(|field| field.value), etcdutl: etcdutl.map(|field| field.value) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::raw::Document;

    fn read(text: &str) -> Result<Drill> {
        Drill::read(&mut Document::parse(text, "p.toml")?.root(&["drill"])?)
    }

    #[test]
    fn etcdutl_comes_with_etcd_and_neither_need_be_there() {
        assert_eq!(read("").unwrap(), Drill::default());
        let both = read("[drill]\netcd = \"bin/etcd\"\netcdutl = \"bin/etcdutl\"").unwrap();
        assert_eq!((both.etcd, both.etcdutl), (Some("bin/etcd".into()), Some("bin/etcdutl".into())));
        let error = read("[drill]\netcdutl = \"bin/etcdutl\"").unwrap_err();
        assert!(error.to_string().starts_with("p.toml:2: ") && error.hint_text().is_some(), "{error}");
    }
}
