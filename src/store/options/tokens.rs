//! What stands for a user who has shown a password: `--auth-token`.
//!
//! `simple`, nothing, or `jwt` with its options behind it: `jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m`. The
//! names of the options are etcd's, and so is the default of `ttl`.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::base::jwt::{Files, METHODS, Method};
use crate::store::options::given::Given;
use crate::store::options::tuning::Tokens;
use crate::store::options::value;

const FLAG: &str = "auth-token";
/// How long a token is good for when nothing is said. etcd's.
const TTL: Duration = Duration::from_mins(5);
const HINT_KIND: &str =
    "say simple, or jwt,sign-method=METHOD,priv-key=FILE; an empty value lets in users with certificates only";

/// The tokens that need no keys.
pub(super) fn simple(given: &Given) -> Tokens {
    if given.text(FLAG).is_empty() { Tokens::None } else { Tokens::Simple }
}

/// The keys of those that are signed; none where they are of another kind.
pub(super) fn keys(given: &Given, warnings: &mut Vec<String>) -> Result<Option<Files>> {
    let text = given.text(FLAG);
    let (kind, options) = text.split_once(',').map_or((text, None), |(kind, options)| (kind, Some(options)));
    match (kind, options) {
        ("" | "simple", None) => Ok(None),
        ("simple", Some(options)) => {
            warnings.push(format!("of no effect: {options:?} of auth-token, because simple tokens have no options"));
            Ok(None)
        }
        ("jwt", options) => signed(given, options.unwrap_or_default()).map(Some),
        (kind, _) => {
            Err(given.wrong(FLAG, format!("cannot be had: this version makes no tokens of kind {kind:?}"), HINT_KIND))
        }
    }
}

fn signed(given: &Given, options: &str) -> Result<Files> {
    let mut read: [(&str, Option<&str>); 4] =
        [("sign-method", None), ("priv-key", None), ("pub-key", None), ("ttl", None)];
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let wrong = |what: String| {
            given.wrong(
                FLAG,
                what,
                "write jwt,sign-method=METHOD,priv-key=FILE, and pub-key=FILE and ttl=10m where wanted",
            )
        };
        let Some((name, text)) = option.split_once('=') else {
            return Err(wrong(format!("{option:?} is no option of the form name=value")));
        };
        let Some((_, slot)) = read.iter_mut().find(|(known, _)| *known == name) else {
            return Err(wrong(format!("tokens of kind \"jwt\" have no option {name:?}")));
        };
        if slot.replace(text).is_some() {
            return Err(wrong(format!("{name} is given twice")));
        }
    }
    let [(_, method), (_, private), (_, public), (_, ttl)] = read;
    let file = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(PathBuf::from);
    let files = Files {
        method: method_of(given, method)?,
        private: file(private),
        public: file(public),
        ttl: ttl_of(given, ttl)?,
    };
    if files.private.is_none() && (files.public.is_none() || files.method.is_shared()) {
        let key = if files.method.is_shared() { "the secret is missing" } else { "a key is missing" };
        let hint = "give priv-key=FILE; with pub-key=FILE alone tokens are checked, and none are made";
        return Err(given.wrong(FLAG, key, hint));
    }
    Ok(files)
}

fn method_of(given: &Given, name: Option<&str>) -> Result<Method> {
    let all: Vec<String> = METHODS.iter().map(Method::to_string).collect();
    let wrong = |what: String| given.wrong(FLAG, what, format!("give sign-method= and one of {}", all.join(", ")));
    let name = name.ok_or_else(|| wrong("the method of signing is missing".to_owned()))?;
    Method::of(name).ok_or_else(|| wrong(format!("cannot be had: tokens are not signed with {name:?} here")))
}

fn ttl_of(given: &Given, text: Option<&str>) -> Result<Duration> {
    let Some(text) = text else { return Ok(TTL) };
    let ttl = value::duration(text).map_err(|error: Error| error.during("--auth-token: ttl"))?;
    if ttl < Duration::from_secs(1) {
        return Err(given.wrong(FLAG, "ttl is less than a second", "give ttl=10m, or another time"));
    }
    Ok(ttl)
}
