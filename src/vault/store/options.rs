//! How a bucket is reached: what the policy says and what the environment holds, handed down as values.
//!
//! Nothing here is printed: `Environment` holds secrets and its `Debug` shows names only.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::units::MIB;
use crate::policy::Bucket;

/// No byte for this long, either way: the connection is given up and the request made again.
pub const STALL: Duration = Duration::from_secs(30);
/// How long a request is tried again after it first failed.
pub const PATIENCE: Duration = Duration::from_mins(5);
/// The first wait between tries; later ones double.
pub(super) const WAIT_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between tries.
pub(super) const WAIT_LONGEST: Duration = Duration::from_secs(10);
/// The longest wait is at most this part of the patience, so that giving up always comes after many tries.
pub(super) const WAIT_PART: u32 = 30;
/// Tries of an upload that the bucket calls altered on the way: a broken network card is not waited for.
pub(super) const ALTERED_TRIES_MAX: u32 = 4;
/// How long a connection may take to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// How long a metadata service of the machine is asked for credentials: where there is none, nobody answers.
pub(super) const METADATA_PATIENCE: Duration = Duration::from_secs(4);
/// Bytes of an answer whose size nobody stated: a page of a listing has at most 1,000 names of 1,024 bytes, escaped.
pub(super) const ANSWER_BYTES_MAX: u64 = 8 * MIB;

/// How a bucket is reached. A directory needs none of it.
#[derive(Clone, Debug, Default)]
pub struct BucketOptions {
    /// What the policy says. Where it names no silence it is `STALL`, where no patience `PATIENCE`.
    pub said: Bucket,
    /// The variables that providers' own tools read.
    pub environment: Environment,
}

/// The part of the process's environment that says who we are.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// These variables.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Environment(variables.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A file named by one of them.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_environment_are_never_shown() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = Environment::new([variable("AWS_SECRET_ACCESS_KEY", "hush"), variable("AWS_REGION", "")]);
        let options = BucketOptions { environment, ..BucketOptions::default() };
        let shown = format!("{options:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hush"), "{shown}");
        assert_eq!(options.environment.get("AWS_REGION"), None, "an empty variable is one that is not set");
    }
}
