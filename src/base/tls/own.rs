//! Certificates that a server makes for itself when it is told to: connections are private, and nobody vouches for the
//! server but the file that clients may be given to trust.
//!
//! They are made once. The next start finds them, so that clients which were given the certificate still trust it; whoever
//! wants new ones removes the folder.
//!
//! Invariants:
//! - A pair is there whole or made anew: of a start that was cut off between its two files nothing is kept.
//! - Nobody but the owner may read the key.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::authority::self_signed;
use crate::base::clock::Time;
use crate::base::durable::NewFile;
use crate::base::error::{Error, IoContext, Result};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// As etcd counts them.
const YEAR: Duration = Duration::from_hours(365 * 24);

/// Where they are, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFiles {
    /// The folder of the two files.
    pub folder: PathBuf,
    /// Names and IP addresses in the certificate.
    pub hosts: Vec<String>,
    /// For how many years it is valid.
    pub years: u32,
}

impl OwnFiles {
    /// The certificate.
    pub fn cert(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    /// Its private key.
    pub fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    /// Makes both unless they are there; whether it did.
    pub fn make(&self, now: Time) -> Result<bool> {
        let (cert, key) = (self.cert(), self.key());
        if cert.exists() && key.exists() {
            return Ok(false);
        }
        let folder = || format!("create {}", self.folder.display());
        let hint =
            |error: Error| error.or_hint("let the user who runs this write there, or give --cert-file and --key-file");
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.folder).during(folder).map_err(hint)?;
        let made = self_signed(&self.hosts, now, YEAR * self.years)?;
        // Both first: a crash in between leaves no pair of which one is older.
        for path in [&cert, &key].into_iter().filter(|path| path.exists()) {
            std::fs::remove_file(path).during(|| format!("remove {}", path.display())).map_err(hint)?;
        }
        for (path, pem) in [(&key, &made.key), (&cert, &made.cert)] {
            let mut file = NewFile::create(path, FILE_MODE).map_err(hint)?;
            file.append(pem.as_bytes())?;
            file.commit()?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;
    use crate::base::tls::{ServerFiles, ServerTls};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn they_are_made_once_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned(), "::1".to_owned()];
        let own = OwnFiles { folder: dir.path().join("fixtures/client"), hosts, years: 2 };
        let now = parse_rfc3339("2026-05-15T02:00:00Z").unwrap();
        assert!(own.make(now).unwrap());
        let read = || [own.cert(), own.key()].map(|path| std::fs::read_to_string(path).unwrap());
        let first = read();
        assert!(!own.make(now).unwrap() && read() == first);
        assert_eq!(std::fs::metadata(own.key()).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(own.cert()).unwrap();
        assert!(own.make(now).unwrap());
        let second = read();
        assert!(second[0] != first[0] && second[1] != first[1]);
        ServerTls::load(ServerFiles { cert: Some(own.cert()), key: Some(own.key()), ..ServerFiles::default() })
            .unwrap();
    }

    #[test]
    fn a_host_that_no_certificate_can_hold_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let own = OwnFiles { folder: dir.path().to_owned(), hosts: vec!["\u{e4}".to_owned()], years: 1 };
        let now = parse_rfc3339("2026-05-15T02:00:00Z").unwrap();
        assert!(own.make(now).unwrap_err().hint_text().is_some());
        assert!(!own.cert().exists() && !own.key().exists());
    }
}
