//! What a repository is: its `config` documents, and how a change of recipients becomes a new one.
//!
//! `config/<n>.json` is created once per number, and the highest number wins. What it says of encryption is for people
//! and for readers who hold a passphrase. A writer does not believe it: it seals for whom its own operator names, and
//! writes the next config where that is somebody else than before.

use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::base::clock::Time;
use crate::base::digest::from_hex;
use crate::base::error::{Error, Kind, Result};
use crate::vault::encryption::{Identities, Passphrases, Recipients, Wanted};
use crate::vault::layout::{Location, folder};
use crate::vault::manifest::Tool;
use crate::vault::sealed::{self, Document};
use crate::vault::store::Store;

/// Configs that a reader looks through for wrapped identities, newest first.
const CONFIGS_MAX: usize = 64;
const HINT_STRANGER: &str = "Holdfast does not write that: see who wrote the file, and move it out of the repository";

/// The highest number of a config.
const CONFIG_NUMBER_MAX: u32 = 1_000_000;

/// What a repository is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Which of the repository's descriptions this is.
    pub n: u32,
    /// The repository's own id, 16 hexadecimal digits; never changes.
    pub repository: String,
    /// When this description was written.
    #[serde(with = "sealed::rfc3339")]
    pub created: Time,
    /// Who wrote it.
    pub tool: Tool,
    /// How data objects are encrypted from here on.
    pub encryption: Encryption,
}

impl Document for Config {
    const NAME: &'static str = "config";
}

/// How data objects are encrypted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Encryption {
    /// Not.
    Plain(Plain),
    /// By age.
    Age(Age),
    /// In a way that this version does not know.
    Unknown(serde_json::Value),
}

/// The word for no encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plain {
    /// `none`.
    None,
}

/// For whom data objects are sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Age {
    /// Sorted.
    pub recipients: Vec<String>,
    /// The identity of the only recipient, in an armored age file that a passphrase opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped_identity: Option<String>,
}

impl Config {
    /// Refuses what whoever can write to the repository could use: the id becomes a folder's name on hosts that list.
    pub(super) fn check(&self, n: u32) -> Result<()> {
        let path = Location::Config(n);
        let wrong = |why: String| Err(Error::damaged(format!("{path} {why}")).hint(HINT_STRANGER));
        if self.n != n {
            return wrong(format!("says that it is number {}", self.n));
        }
        let mut id = [0; 8];
        if !from_hex(&self.repository, &mut id) {
            return wrong("holds no repository's id".to_owned());
        }
        Ok(())
    }

    /// The number of the config that a writer puts after this one, as long as a reader takes that one.
    pub(super) fn next(&self) -> Result<u32> {
        if self.n >= CONFIG_NUMBER_MAX {
            return Err(Error::damaged(format!("{} is the last config there can be", Location::Config(self.n)))
                .hint(HINT_STRANGER));
        }
        Ok(self.n + 1)
    }
}

impl Encryption {
    /// None at all.
    pub const NONE: Encryption = Encryption::Plain(Plain::None);

    fn wrapped(&self) -> Option<&str> {
        match self {
            Encryption::Age(age) => age.wrapped_identity.as_deref(),
            Encryption::Plain(_) | Encryption::Unknown(_) => None,
        }
    }
}

/// What a writer does about the newest config.
pub(super) enum Settled {
    /// It says what is wanted: seal for these, or for nobody. With a passphrase, the identity it opened.
    Ready(Option<Recipients>, Option<Identities>),
    /// Another one is to be written.
    Write(Encryption),
}

/// Compares what the newest config says with what is wanted. Slow where a passphrase is involved.
pub(super) fn settle(now: &Encryption, wanted: Option<&Wanted>, url: &str) -> Result<Settled> {
    match (wanted, now) {
        (None | Some(Wanted::Plain), Encryption::Plain(_)) => Ok(Settled::Ready(None, None)),
        (None, _) => Err(Error::new(Kind::Usage, format!("{url} is encrypted, and nothing says for whom to encrypt"))
            .hint("give the policy that names the recipients, with --policy")),
        (Some(Wanted::Plain), _) => {
            Err(Error::new(Kind::Usage, format!("{url} is encrypted, and the policy says encryption = \"none\"")).hint(
                "give the repository's recipients in [repository], or another url for data that is not encrypted",
            ))
        }
        (Some(Wanted::For(recipients)), now) => {
            let age = Age { recipients: recipients.names().to_vec(), wrapped_identity: None };
            let wanted = Encryption::Age(age);
            if *now == wanted {
                return Ok(Settled::Ready(Some(recipients.clone()), None));
            }
            Ok(Settled::Write(wanted))
        }
        (Some(Wanted::Passphrase(passphrases)), now) => settle_passphrase(now.wrapped(), passphrases, url),
    }
}

fn settle_passphrase(wrapped: Option<&str>, passphrases: &Passphrases, url: &str) -> Result<Settled> {
    let write = |identities: &Identities, wrapped| {
        let recipients = identities.recipients().names().to_vec();
        Settled::Write(Encryption::Age(Age { recipients, wrapped_identity: Some(wrapped) }))
    };
    let Some(wrapped) = wrapped else {
        let (made, wrapped) = passphrases.create()?;
        return Ok(write(&made, wrapped));
    };
    match passphrases.unwrap(wrapped)? {
        Some((identities, 0)) => Ok(Settled::Ready(Some(identities.recipients()), Some(identities))),
        // An earlier passphrase opens it: the same identity, wrapped by the present one.
        Some((identities, _)) => Ok(write(&identities, passphrases.wrap(&identities)?)),
        None => Err(wrong_passphrase(passphrases, url)),
    }
}

fn wrong_passphrase(passphrases: &Passphrases, url: &str) -> Error {
    Error::new(Kind::Denied, format!("the passphrase in {} does not open the identity of {url}", passphrases.name()))
        .hint("check the file; to change the passphrase, write the new one on its first line and the old one below")
}

/// Every identity of the repository that a passphrase opens. Slow on purpose.
pub(super) fn unwrap_all(configs: &[Config], passphrases: &Passphrases, url: &str) -> Result<Option<Identities>> {
    let wrapped: Vec<_> = configs.iter().filter_map(|config| config.encryption.wrapped()).collect();
    let mut all: Option<Identities> = None;
    for text in &wrapped {
        if let Some((identities, _)) = passphrases.unwrap(text)? {
            let known = all.as_ref().is_some_and(|all| {
                identities.recipients().names().iter().all(|name| all.recipients().names().contains(name))
            });
            if !known {
                all = Some(identities.and(all.as_ref()));
            }
        }
    }
    if all.is_none() && !wrapped.is_empty() {
        return Err(wrong_passphrase(passphrases, url));
    }
    Ok(all)
}

/// The configs there are, newest first, and no more than are ever looked at.
pub(super) async fn numbers(store: &Store, strange: impl Fn() -> Error) -> Result<Vec<u32>> {
    let mut numbers = vec![];
    let mut listed = store.list(folder::CONFIG);
    while let Some(object) = listed.next().await {
        match Location::parse(&object?.path) {
            Ok(Location::Config(n)) if n > CONFIG_NUMBER_MAX => {
                return Err(Error::damaged(format!("{} is the last config there can be", Location::Config(n))).hint(
                    "nobody changes keys that often: see who wrote that file, and move it out of the repository",
                ));
            }
            Ok(Location::Config(n)) => numbers.push(n),
            _ => return Err(strange()),
        }
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.truncate(CONFIGS_MAX);
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipients(passphrases: &Passphrases) -> Recipients {
        passphrases.create().unwrap().0.recipients()
    }

    fn decided(now: &Encryption, wanted: Option<&Wanted>) -> Result<Option<Encryption>> {
        Ok(match settle(now, wanted, "file:///r")? {
            Settled::Ready(..) => None,
            Settled::Write(encryption) => Some(encryption),
        })
    }

    #[test]
    fn what_differs_from_the_newest_config_is_written_and_nothing_goes_back_to_plain() {
        let secret = Passphrases::parse("file", "one").unwrap();
        let (a, b) = (Wanted::For(recipients(&secret)), Wanted::For(recipients(&secret)));
        assert_eq!(decided(&Encryption::NONE, None).unwrap(), None);
        assert_eq!(decided(&Encryption::NONE, Some(&Wanted::Plain)).unwrap(), None);
        let for_a = decided(&Encryption::NONE, Some(&a)).unwrap().unwrap();
        assert_eq!(decided(&for_a, Some(&a)).unwrap(), None);
        assert!(decided(&for_a, Some(&b)).unwrap().is_some());
        for wanted in [None, Some(&Wanted::Plain)] {
            let error = decided(&for_a, wanted).unwrap_err();
            assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Usage, true));
        }
    }

    #[test]
    fn a_new_passphrase_wraps_the_same_identity_and_a_wrong_one_changes_nothing() {
        let wanted = |text: &str| Wanted::Passphrase(Passphrases::parse("file", text).unwrap());
        let first = decided(&Encryption::NONE, Some(&wanted("one"))).unwrap().unwrap();
        assert_eq!(decided(&first, Some(&wanted("one"))).unwrap(), None);
        let second = decided(&first, Some(&wanted("two\none"))).unwrap().unwrap();
        assert_eq!(decided(&second, Some(&wanted("two"))).unwrap(), None);
        let (Encryption::Age(first), Encryption::Age(second)) = (&first, &second) else { panic!("age") };
        assert_eq!(first.recipients, second.recipients);
        let now = Encryption::Age(second.clone());
        assert_eq!(decided(&now, Some(&wanted("three"))).unwrap_err().kind(), Kind::Denied);
    }
}
