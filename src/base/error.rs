//! What can go wrong, told by what the reader of the message should do about it.
//!
//! One type serves the whole program. It has few kinds, because a caller can only do few things: correct the call, wait,
//! repair the data, look elsewhere. The text is precise instead: every message names the operation that failed and the
//! thing it failed on, the cause stays attached as `source`, and a hint says what to do next.
//!
//! Invariants:
//! - A message never repeats its cause; `Report` prints the chain once.
//! - No message holds a secret, a token or the value of a key.
//! - The kind alone decides the exit code; nothing else in the program does.

use std::error::Error as StdError;
use std::fmt;

/// What to do about a member whose state or log is damaged.
pub const HINT_MEMBER_DAMAGED: &str =
    "replace this member's directory by one from its cluster, or by one restored from a restore point";

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the reader of an error should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Correct the command, the policy file or the environment.
    Usage,
    /// Do not use the data: it is damaged, forged or does not verify.
    Damaged,
    /// Look elsewhere: nothing suitable was found.
    NotFound,
    /// Something is already there and was left alone.
    Conflict,
    /// The peer refused who we are or what we asked.
    Denied,
    /// Try again later: the network or the peer did not answer.
    Unavailable,
    /// Make room: a disk or a quota is full.
    Full,
    /// The operator stopped the work.
    Interrupted,
    /// The work could not be done for a reason of its own.
    Failed,
}

impl Kind {
    /// The exit code of the process, 0 to 5 as docs/cli.md lists them (`Interrupted`: 128 + SIGINT, as shells expect).
    pub const fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Damaged => 3,
            Kind::NotFound => 4,
            Kind::Interrupted => 130,
            Kind::Conflict | Kind::Denied | Kind::Unavailable | Kind::Full | Kind::Failed => 1,
        }
    }

    /// The name used in JSON output.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Damaged => "damaged",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Denied => "denied",
            Kind::Unavailable => "unavailable",
            Kind::Full => "full",
            Kind::Interrupted => "interrupted",
            Kind::Failed => "failed",
        }
    }
}

/// An operation that failed: what it was, why, and what to do next.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` names the operation and the thing it failed on.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// Outside data that is wrong. Shorthand, because parsers say it often.
    pub fn damaged(message: impl Into<String>) -> Self {
        Error::new(Kind::Damaged, message)
    }

    /// A failed system call on a path or an address, with the kind its code stands for.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let kind = match source.kind() {
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::AlreadyExists => Kind::Conflict,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Kind::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Kind::Full,
            ErrorKind::TimedOut | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Kind::Unavailable,
            _ => Kind::Failed,
        };
        let hint = match kind {
            Kind::Denied if source.kind() == ErrorKind::ReadOnlyFilesystem => Some(
                "that file system is read-only: mount it for writing (the kernel's log may say why it is not), or give \
                      another path",
            ),
            Kind::Full => Some("free some space on that file system, then run the command again"),
            Kind::Denied => Some("run as a user who may do this, or give another path"),
            _ => None,
        };
        let mut error = Error::new(kind, message).source(source);
        error.0.hint = hint.map(str::to_owned);
        error
    }

    /// The same error with what the operator can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error with `hint` unless it has one already.
    #[must_use]
    pub fn or_hint(self, hint: impl Into<String>) -> Self {
        if self.0.hint.is_some() { self } else { self.hint(hint) }
    }

    /// The same error with `hint` when it is about damaged data: what to do then depends on what the data was for. Other
    /// kinds keep the hint that they have.
    #[must_use]
    pub fn damage_hint(self, hint: impl Into<String>) -> Self {
        if self.0.kind == Kind::Damaged { self.hint(hint) } else { self.or_hint(hint) }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error under another kind.
    #[must_use]
    pub fn kind_of(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// A new error that names the larger operation, with this one as its cause; kind and hint are kept.
    #[must_use]
    pub fn during(self, message: impl Into<String>) -> Self {
        let (kind, hint) = (self.0.kind, self.0.hint.clone());
        let mut outer = Error::new(kind, message);
        outer.0.hint = hint;
        outer.source(self)
    }

    /// What the reader should do.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The whole of it in one line, for a warning that others follow: what is wrong, and what to do next.
    pub fn as_warning(&self) -> String {
        match self.hint_text() {
            Some(hint) => format!("{}; {hint}", self.chain()),
            None => self.chain(),
        }
    }

    /// The message and all causes, outermost first, joined with `: `; a cause that repeats its parent is left out.
    pub fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut cause = StdError::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            if !part.is_empty() && !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Adds the operation and the path or address to a failed system call.
pub trait IoContext<T> {
    /// `message` names the operation and the thing it failed on.
    fn during(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn during(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::io(message(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_about_damage_leaves_other_hints_alone() {
        let of = |kind| Error::new(kind, "x").hint("first").damage_hint("second");
        assert_eq!(of(Kind::Damaged).hint_text(), Some("second"));
        assert_eq!(of(Kind::Usage).as_warning(), "x; first");
        assert_eq!(Error::new(Kind::Usage, "x").damage_hint("second").as_warning(), "x; second");
    }

    #[test]
    fn the_chain_prints_each_cause_once() {
        let cause = std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left");
        let error = Error::io("write /b/part", cause).during("back up cluster prod");
        assert_eq!(error.kind(), Kind::Full);
        assert_eq!(error.chain(), "back up cluster prod: write /b/part: no space left");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("free some space")));
    }

    #[test]
    fn kinds_decide_exit_codes() {
        let codes = [Kind::Failed, Kind::Usage, Kind::Damaged, Kind::NotFound].map(Kind::exit_code);
        assert_eq!(codes, [1, 2, 3, 4]);
    }
}
