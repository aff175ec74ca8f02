//! The file of credentials that AWS's own tools share: sections named after profiles, `name = value` in them. Pure.
//!
//! Only keys are taken. A profile that wants a program run, a browser opened or a role assumed is refused with what to do
//! instead: a backup at night has nobody to answer.

use std::fmt;

use crate::base::error::{Error, Kind, Result};

/// A profile's keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// The keys of `profile` in `text`; `path` names the file in errors.
pub(super) fn find(text: &str, profile: &str, path: &str) -> Result<Keys> {
    let (mut inside, mut seen) = (false, false);
    let mut keys = Keys::default();
    let mut other = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(section) = line.strip_prefix('[') {
            let name = section.strip_suffix(']').unwrap_or(section).trim();
            inside = name.strip_prefix("profile ").unwrap_or(name).trim() == profile;
            seen |= inside;
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| inside) else { continue };
        let value = value.trim().to_owned();
        match name.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => keys.id = value,
            "aws_secret_access_key" => keys.secret = value,
            "aws_session_token" => keys.token = Some(value),
            name @ ("role_arn" | "source_profile" | "credential_process" | "sso_session" | "sso_start_url") => {
                other = Some(name.to_owned());
            }
            _ => {}
        }
    }
    let wrong = |what: String, hint: &str| Err(Error::new(Kind::Usage, format!("{path} {what}")).hint(hint));
    match (seen, keys.id.is_empty() || keys.secret.is_empty(), other) {
        (false, ..) => wrong(
            format!("has no profile {profile:?}"),
            "name one that it has, as `profile` in [repository] or in AWS_PROFILE",
        ),
        (true, true, Some(other)) => wrong(
            format!("wants {other} for the profile {profile:?}, which is not used here"),
            "give the keys themselves, or run where the provider hands out credentials (web identity, instance role)",
        ),
        (true, true, None) => wrong(
            format!("has no keys in the profile {profile:?}"),
            "a profile has aws_access_key_id and aws_secret_access_key",
        ),
        (true, false, _) => Ok(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n[default]\naws_access_key_id=ONE\naws_secret_access_key = hush=1 \n\n[profile two]\n\
                        aws_access_key_id = TWO\nAWS_SECRET_ACCESS_KEY = x\naws_session_token = t\n[role]\n\
                        role_arn = arn:aws:iam::1:role/x\nsource_profile = default\n[empty]\nregion = x\n";

    #[test]
    fn profiles_are_told_apart() {
        let one = find(FILE, "default", "f").unwrap();
        assert_eq!((one.id.as_str(), one.secret.as_str(), one.token.as_deref()), ("ONE", "hush=1", None));
        let two = find(FILE, "two", "f").unwrap();
        assert_eq!((two.id.as_str(), two.token.as_deref()), ("TWO", Some("t")));
        assert!(!format!("{two:?}").contains('x'));
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        for (profile, says, hint) in [
            ("three", "has no profile \"three\"", "AWS_PROFILE"),
            ("role", "wants source_profile", "the keys themselves"),
            ("empty", "has no keys", "aws_access_key_id"),
        ] {
            let error = find(FILE, profile, "f").unwrap_err();
            assert!(error.chain().contains(says), "{}", error.chain());
            assert!(error.hint_text().unwrap().contains(hint) && !error.chain().contains("hush"));
        }
        for hostile in ["", "[", "]", "=", "[default", "[default]\n=\n= =", "aws_access_key_id = x"] {
            assert!(find(hostile, "default", "f").is_err(), "{hostile:?}");
        }
    }
}
