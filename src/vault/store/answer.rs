//! What a bucket's answer means: use it, ask again, or tell the operator. Pure.
//!
//! Providers agree on statuses and mostly on the codes in the XML of an error; decisions rest on the status, and on the
//! code only where one status stands for several things. Of an error's text the code and the message are kept and
//! nothing else: S3 repeats the key's id and the string it signed in there.

use std::fmt;

use crate::base::error::{Error, Kind};

/// Characters of a provider's words that are repeated.
const WORDS_MAX: usize = 200;

/// What to do with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand it on: a success, or a fact such as "exists already".
    Use,
    /// Ask again: what happened, in words.
    Again(String),
    /// Ask again, a few times only: the upload arrived altered.
    Altered(String),
    /// Give up.
    Refuse(Refusal),
}

/// A request that is not tried again: an error that survives being carried through `object_store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    pub(super) what: String,
    /// What to do; empty when that depends on what was asked.
    pub(super) hint: String,
}

impl Refusal {
    pub(super) fn new(kind: Kind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal { kind, what: what.into(), hint: hint.into() }
    }

    /// As this program's error.
    pub(super) fn error(&self) -> Error {
        let error = Error::new(self.kind, self.what.clone());
        if self.hint.is_empty() { error } else { error.hint(self.hint.clone()) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Refusal {}

/// Judges the answer that `host` gave to the `query` of a listing.
pub(super) fn judge_listing(host: &str, query: &str, status: u16, body: &[u8]) -> Verdict {
    match judge(host, status, body) {
        Verdict::Use if (200..=299).contains(&status) => judge_page(host, query, body),
        // Nobody asked for an object that may not be there.
        Verdict::Use => {
            let hint = "no bucket answers there: correct url and endpoint in the policy's [repository]";
            Verdict::Refuse(Refusal::new(Kind::Usage, words(host, status, "", body), hint))
        }
        other => other,
    }
}

/// A page of a listing. Whoever reads it takes what is not in it for something that is not stored: so it must be one, and
/// whole, and say how to go on where it says that there is more.
fn judge_page(host: &str, query: &str, body: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(body);
    if !(text.contains("<ListBucketResult") && text.trim_end().ends_with("</ListBucketResult>")) {
        return Verdict::Again(format!("{host} answered a listing with something else"));
    }
    if !text.contains("<IsTruncated>true</IsTruncated>") {
        return Verdict::Use;
    }
    let refuse = |what: &str| {
        let hint = "this provider cannot list a large bucket (ListObjectsV2): see docs/providers.md for those that can";
        Verdict::Refuse(Refusal::new(Kind::Failed, format!("{host} says that its listing goes on, and {what}"), hint))
    };
    let next = text.split_once("<NextContinuationToken>").and_then(|(_, rest)| rest.split_once('<'));
    let next = next.map(|(token, _)| token.replace("&amp;", "&")).filter(|token| !token.is_empty());
    let asked = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "continuation-token");
    match (next, asked) {
        (None, _) => refuse("not how"),
        (Some(next), Some((_, asked))) if next == asked => refuse("leads back to where it was"),
        _ => Verdict::Use,
    }
}

/// Judges the answer that `host` gave.
pub(super) fn judge(host: &str, status: u16, body: &[u8]) -> Verdict {
    let code = element(body, "Code").unwrap_or_default();
    let words = words(host, status, &code, body);
    let refuse = |kind, hint: &str| Verdict::Refuse(Refusal::new(kind, words.clone(), hint));
    match (status, code.as_str()) {
        (404, "NoSuchBucket") => refuse(Kind::Usage, "create the bucket, or correct the repository's URL"),
        (200..=299 | 304 | 404 | 412 | 416, _) => Verdict::Use,
        // Two creates at once: neither is decided yet.
        (409, "ConditionalRequestConflict" | "OperationAborted") => Verdict::Again(words),
        (409, _) => Verdict::Use,
        (507, _) => refuse(Kind::Full, "make room in the bucket's store, then run the command again"),
        (501, _) => refuse(
            Kind::Failed,
            "this provider lacks something that backups need; run `holdfast check` and see docs/providers.md",
        ),
        (408 | 425 | 429 | 500..=599, _) => Verdict::Again(words),
        (
            400,
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch"
            | "IncompleteBody"
            | "RequestTimeout",
        ) => Verdict::Altered(words),
        (_, "RequestTimeTooSkewed") => {
            refuse(Kind::Denied, "set this host's clock right (NTP): requests are signed with the time")
        }
        (_, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken") => {
            refuse(Kind::Denied, "the session's token has ended: renew the credentials, then run the command again")
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
            refuse(Kind::Denied, "check the access key and its secret: the provider does not know this pair")
        }
        (301 | 307 | 308, _) | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            refuse(Kind::Usage, "the bucket lives in another region or at another endpoint: name it in [repository]")
        }
        // Which right is missing is known by who asked: see `right`.
        (401 | 403, _) => refuse(Kind::Denied, ""),
        (_, "InvalidStorageClass") => refuse(Kind::Usage, "correct storage_class in the policy's [repository]"),
        _ => refuse(Kind::Failed, "run `holdfast check` on the repository, and see docs/providers.md"),
    }
}

/// The answer in words: who, the status, the provider's code and message.
fn words(host: &str, status: u16, code: &str, body: &[u8]) -> String {
    let mut words = format!("{host} answered {status}");
    if !code.is_empty() {
        words.push(' ');
        words.push_str(code);
    }
    if let Some(message) = element(body, "Message").filter(|message| !message.is_empty()) {
        words.push_str(&format!(" ({message})"));
    }
    words
}

/// The text of the first `<name>` of an XML error; printable, and short.
fn element(body: &[u8], name: &str) -> Option<String> {
    let head = &body[..body.len().min(4096)];
    let text = String::from_utf8_lossy(head);
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    Some(inner.trim().chars().take(WORDS_MAX).map(printable).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(code: &str) -> Vec<u8> {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>in words</Message><AWSAccessKeyId>AKID</AWSAccessKeyId></Error>").into_bytes()
    }

    #[test]
    fn facts_are_used_and_trouble_is_asked_again() {
        for status in [200, 204, 206, 304, 404, 412, 416] {
            assert_eq!(judge("h", status, b""), Verdict::Use, "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504, 520] {
            assert!(matches!(judge("h", status, b""), Verdict::Again(_)), "{status}");
        }
        assert_eq!(judge("h", 409, &xml("BucketAlreadyExists")), Verdict::Use);
        assert!(matches!(judge("h", 409, &xml("ConditionalRequestConflict")), Verdict::Again(_)));
        assert!(matches!(judge("h", 400, &xml("BadDigest")), Verdict::Altered(_)));
        match judge("h", 503, &xml("SlowDown")) {
            Verdict::Again(words) => assert_eq!(words, "h answered 503 SlowDown (in words)"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals_have_a_kind_and_say_what_to_do_and_no_key() {
        for (status, code, kind, says) in [
            (403, "AccessDenied", Kind::Denied, ""),
            (401, "", Kind::Denied, ""),
            (403, "RequestTimeTooSkewed", Kind::Denied, "clock"),
            (400, "ExpiredToken", Kind::Denied, "renew"),
            (403, "SignatureDoesNotMatch", Kind::Denied, "secret"),
            (301, "PermanentRedirect", Kind::Usage, "region"),
            (400, "AuthorizationHeaderMalformed", Kind::Usage, "region"),
            (404, "NoSuchBucket", Kind::Usage, "bucket"),
            (400, "InvalidStorageClass", Kind::Usage, "storage_class"),
            (501, "NotImplemented", Kind::Failed, "docs/providers.md"),
            (507, "XMinioStorageFull", Kind::Full, "room"),
            (400, "SomethingElse", Kind::Failed, "holdfast check"),
        ] {
            let Verdict::Refuse(refusal) = judge("h", status, &xml(code)) else { panic!("{status} {code}") };
            assert_eq!(refusal.kind, kind, "{status} {code}");
            assert!(refusal.hint.contains(says), "{status} {code}: {}", refusal.hint);
            assert!(!refusal.what.contains("AKID"), "{}", refusal.what);
        }
    }

    #[test]
    fn a_listing_is_used_when_it_is_one_and_can_be_gone_on_with() {
        let page =
            |inner: &str| format!("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\">{inner}</ListBucketResult>\n");
        let more = |token: &str| page(&format!("<IsTruncated>true</IsTruncated>{token}"));
        let judged = |query: &str, status, body: &str| judge_listing("h", query, status, body.as_bytes());
        let next = "<NextContinuationToken>a&amp;b=</NextContinuationToken>";
        for right in [page(""), page("<IsTruncated>false</IsTruncated>"), more(next)] {
            assert_eq!(judged("list-type=2&prefix=x", 200, &right), Verdict::Use, "{right}");
        }
        // A portal, a proxy, half a page: not an empty bucket.
        for wrong in ["", "<html>log in</html>", "<ListBucketResult><Contents>", "<Error></Error>"] {
            assert!(matches!(judged("list-type=2", 200, wrong), Verdict::Again(_)), "{wrong}");
        }
        let refused = |query: &str, status, body: &str| match judged(query, status, body) {
            Verdict::Refuse(refusal) => refusal,
            other => panic!("{other:?}"),
        };
        // A server that knows only the first version of listings gives a page of a thousand and no way to the next.
        assert!(refused("list-type=2", 200, &more("<NextMarker>k</NextMarker>")).what.contains("not how"));
        let again = refused("list-type=2&continuation-token=a%26b%3D", 200, &more(next));
        assert!(again.what.contains("leads back") && again.hint.contains("ListObjectsV2"), "{again}");
        let nobody = refused("list-type=2", 404, "<html>404</html>");
        assert!(nobody.kind == Kind::Usage && nobody.hint.contains("endpoint"), "{nobody}");
        assert!(matches!(judged("list-type=2", 503, ""), Verdict::Again(_)));
    }

    #[test]
    fn hostile_words_stay_short_and_printable() {
        let long = format!("<Code>{}</Code><Message>a\u{1b}[2J\nb</Message>", "x".repeat(10_000));
        let Verdict::Refuse(refusal) = judge("h", 400, long.as_bytes()) else { panic!("refused") };
        assert!(refusal.what.len() < 2 * WORDS_MAX && !refusal.what.contains('\u{1b}'), "{}", refusal.what);
        for body in [&b"<Code>"[..], b"</Code><Code>", b"\xff\xfe<Code>\xff</Code>", b""] {
            assert!(matches!(judge("h", 503, body), Verdict::Again(_)));
        }
    }
}
