//! What a repository must be allowed to do, by the names that those who allow it know.

use crate::base::error::{Error, Kind};
use crate::vault::store::address::Address;

/// Something that credentials may or may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// See which objects there are.
    List,
    /// Read an object, or look at it.
    Read,
    /// Create an object.
    Create,
    /// Delete an object.
    Delete,
}

/// Whose names are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    /// The owner of a file system: its errors say enough.
    Directory,
    /// S3.
    S3,
    /// Google Cloud Storage.
    Google,
}

impl Provider {
    pub(super) fn of(address: &Address) -> Self {
        match address {
            Address::Directory(_) => Provider::Directory,
            Address::S3(_) => Provider::S3,
            Address::Gcs(_) => Provider::Google,
        }
    }

    /// The same error; a plain denial says what to allow.
    pub(super) fn name(self, right: Right, error: Error) -> Error {
        if error.kind() != Kind::Denied || error.hint_text().is_some_and(|hint| !hint.is_empty()) {
            return error;
        }
        let name = match (self, right) {
            (Provider::Directory, _) => return error,
            (Provider::S3, Right::List) => "s3:ListBucket",
            (Provider::S3, Right::Read) => "s3:GetObject",
            (Provider::S3, Right::Create) => "s3:PutObject",
            (Provider::S3, Right::Delete) => "s3:DeleteObject",
            (Provider::Google, Right::List) => "storage.objects.list",
            (Provider::Google, Right::Read) => "storage.objects.get",
            (Provider::Google, Right::Create) => "storage.objects.create",
            (Provider::Google, Right::Delete) => "storage.objects.delete",
        };
        let note = match right {
            Right::Delete => "; only `prune` needs it, and a host that only makes backups is safer without",
            _ => ", on the bucket and everything below the repository's folder",
        };
        error.hint(format!("allow {name} to these credentials{note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_denial_is_given_a_right() {
        let denied = || Error::new(Kind::Denied, "x");
        let hint = |error: Error| error.hint_text().unwrap_or_default().to_owned();
        assert!(hint(Provider::S3.name(Right::Create, denied())).contains("s3:PutObject"));
        assert!(hint(Provider::Google.name(Right::Delete, denied())).contains("storage.objects.delete"));
        assert_eq!(hint(Provider::S3.name(Right::List, denied().hint("set the clock"))), "set the clock");
        assert_eq!(hint(Provider::Directory.name(Right::List, denied())), "");
        assert_eq!(hint(Provider::S3.name(Right::List, Error::new(Kind::Failed, "x"))), "");
    }
}
