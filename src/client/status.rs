//! What went wrong, in an operator's words: gRPC statuses and broken connections become `base` errors.
//!
//! A status that a member sent carries etcd's text, which etcd's own clients compare too, so the text decides where the
//! code is ambiguous. A status that the transport made up says "transport error" and hides the reason in its chain of
//! sources: the chain is searched for the words of the few libraries below us. Those words are held by tests here and by
//! tests against real members; where none fits, the innermost cause is shown as it is.
//!
//! Invariants:
//! - Every error that leaves here has a hint.
//! - No message repeats what we sent: no password, no token, no key.

use std::error::Error as StdError;
use std::io;
use tonic::{Code, Status};

use crate::base::error::{Error, Kind};

/// Whether a member said it; otherwise the connection failed before, during or after the question.
pub(super) fn is_answer(status: &Status) -> bool {
    status.source().is_none()
}

/// How members say that a token is no longer good; the last is what 3.5.1 says, with the code `Unknown`, when users or
/// roles change under a request.
const OUTDATED: [&str; 3] = ["invalid auth token", "revision of auth store is old", "revision in header is old"];

/// Whether the member no longer knows our token, and a new one would help.
pub(super) fn wants_new_token(status: &Status) -> bool {
    let text = status.message();
    is_answer(status) && OUTDATED.iter().any(|outdated| text.contains(outdated))
}

/// Whether the revision asked for is compacted.
pub(super) fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("required revision has been compacted")
}

/// Whether the revision asked for does not exist yet.
pub(super) fn is_future(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("required revision is a future revision")
}

/// Whether the member only listens, and says so to whoever asks for more than its status.
pub(super) fn is_from_learner(status: &Status) -> bool {
    status.message().contains(FROM_LEARNER)
}

/// Whether a message was refused because it is larger than our limit.
pub(super) fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("message length too large")
}

/// Whether the cluster works without users.
pub(super) fn is_auth_disabled(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message().contains("authentication is not enabled")
}

/// The reason as an error of the kind it stands for; the caller adds the operation and the endpoint.
pub(super) fn reason(status: &Status) -> Error {
    if is_answer(status) { answer(status) } else { transport(status) }
}

/// The reason why a question failed before anything came back. A peer that hangs up at once often expects TLS where we
/// speak none, or the other way round; it says nothing that could tell.
pub(super) fn first_reason(status: &Status, tls: bool) -> Error {
    let error = reason(status);
    let hung_up = !is_answer(status) && HUNG_UP.iter().any(|(_, reason)| error.to_string() == *reason);
    match (hung_up, tls) {
        (false, _) => error,
        (true, true) => error.hint("if the member serves its clients without TLS, write the endpoint with http://"),
        (true, false) => error.hint("if the member serves its clients over TLS, write the endpoint with https://"),
    }
}

const HINT_USER: &str = "set `user` and `password_file`, or connect with the client certificate of a user";
const HINT_ROOT: &str = "snapshots and hashes need a user with the role root (`etcdctl user grant-role NAME root`), keys one who may read them";
const HINT_LEADER: &str =
    "see `etcdctl endpoint status --cluster`; when the quorum is lost, restore or recover the cluster";
const HINT_LOG: &str = "the member's log says more";

const FROM_LEARNER: &str = "rpc not supported for learner";

/// Texts of etcd that say more than their code: part of the text, kind, hint.
const ANSWERS: &[(&str, Kind, &str)] = &[
    ("authentication failed, invalid user ID or password", Kind::Denied, "correct `user` or the password file"),
    ("user name is empty", Kind::Denied, HINT_USER),
    ("user name not found", Kind::Denied, "correct `user`"),
    ("no password user", Kind::Denied, "this user signs in with its client certificate: leave user and password out"),
    ("permission denied", Kind::Denied, HINT_ROOT),
    ("invalid auth token", Kind::Denied, HINT_USER),
    (
        "revision of auth store is old",
        Kind::Unavailable,
        "users or roles were changed meanwhile; run the command again",
    ),
    ("revision in header is old", Kind::Unavailable, "users or roles were changed meanwhile; run the command again"),
    ("no leader", Kind::Unavailable, HINT_LEADER),
    ("leader changed", Kind::Unavailable, "run the command again"),
    ("request timed out", Kind::Unavailable, HINT_LEADER),
    ("too many requests", Kind::Unavailable, "the member is overloaded; try again later"),
    (FROM_LEARNER, Kind::Unavailable, "name a voting member among the endpoints"),
    ("required revision has been compacted", Kind::NotFound, "this history is gone; begin at a newer revision"),
    ("required revision is a future revision", Kind::NotFound, "the cluster has not come to this revision"),
    ("message length too large", Kind::Failed, "the peer is no etcd, or is set up for larger requests than we accept"),
    ("compressed-flag", Kind::Failed, "connect to etcd itself, not through a proxy that compresses"),
    ("Unexpected EOF", Kind::Unavailable, "the connection was cut; run the command again"),
];

fn answer(status: &Status) -> Error {
    let text = status.message();
    if let Some((_, kind, hint)) = ANSWERS.iter().find(|(part, _, _)| text.contains(part)) {
        return Error::new(*kind, format!("the member answered: {text}")).hint(*hint);
    }
    let (kind, hint) = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
            (Kind::Unavailable, "the member is starting, stopping or overloaded; try again")
        }
        Code::Unauthenticated => (Kind::Denied, HINT_USER),
        Code::PermissionDenied => (Kind::Denied, HINT_ROOT),
        Code::NotFound | Code::OutOfRange => (Kind::NotFound, HINT_LOG),
        Code::ResourceExhausted => (Kind::Full, "make room in the member: compact, defragment, raise its quota"),
        Code::DataLoss => {
            (Kind::Damaged, "the member's data is damaged: take it from another member, and replace this one")
        }
        Code::Unimplemented => (Kind::Failed, "is this the client port (2379) of an etcd 3.4 or newer?"),
        _ => (Kind::Failed, HINT_LOG),
    };
    let text = if text.is_empty() { status.code().description() } else { text };
    Error::new(kind, format!("the member answered: {text}")).hint(hint)
}

const HINT_ADDRESS: &str = "check the address and that the member runs: `etcdctl --endpoints ADDRESS endpoint status`";
const HINT_CA: &str = "name the CA that signed it with `ca` (kubeadm: /etc/kubernetes/pki/etcd/ca.crt)";
const HINT_CLOCK: &str = "renew the certificate (kubeadm: `kubeadm certs renew`), or correct this machine's clock";
const HINT_CERT: &str = "name `cert` and `key` signed by the CA that the member trusts for its clients";

/// Words of the libraries below, most telling first: part of the text, kind, what it means, hint.
const CAUSES: &[(&str, Kind, &str, &str)] = &[
    ("UnknownIssuer", Kind::Denied, "its certificate is signed by an authority that is not trusted here", HINT_CA),
    ("BadSignature", Kind::Denied, "its certificate does not carry its authority's signature", HINT_CA),
    (
        "CaUsedAsEndEntity",
        Kind::Denied,
        "it shows a CA certificate as its own",
        "give the member a certificate of its own",
    ),
    ("certificate expired", Kind::Denied, "its certificate has expired", HINT_CLOCK),
    ("certificate not valid yet", Kind::Denied, "its certificate is not valid yet", HINT_CLOCK),
    (
        "certificate not valid for name",
        Kind::Denied,
        "its certificate is for other names than this one",
        "use a name or an address from the certificate: `openssl x509 -noout -ext subjectAltName -in FILE`",
    ),
    ("invalid peer certificate", Kind::Denied, "its certificate cannot be accepted", HINT_CA),
    ("CertificateRequired", Kind::Denied, "it lets nobody in without a client certificate", HINT_CERT),
    ("alert: CertificateExpired", Kind::Denied, "it says that our client certificate has expired", HINT_CLOCK),
    ("alert: BadCertificate", Kind::Denied, "it refused our client certificate, or the lack of one", HINT_CERT),
    ("alert: UnknownCA", Kind::Denied, "it does not trust our client certificate's authority", HINT_CERT),
    ("fatal alert", Kind::Denied, "it broke off the TLS handshake", HINT_CERT),
    ("InvalidContentType", Kind::Usage, "it does not speak TLS on this port", "write the endpoint with http://"),
    ("ALPN", Kind::Usage, "it speaks TLS, but not HTTP/2", "name the client port of an etcd member"),
    (
        "HTTP/2 was not negotiated",
        Kind::Usage,
        "it speaks TLS, but not HTTP/2",
        "name the client port of an etcd member",
    ),
    (
        "frame with invalid size",
        Kind::Usage,
        "it does not speak HTTP/2 in plain text on this port",
        "write the endpoint with https://, and name the client port of an etcd member",
    ),
    (
        "failed to lookup address",
        Kind::Unavailable,
        "its name is not known",
        "correct the host name, or use its address",
    ),
    ("dns error", Kind::Unavailable, "its name is not known", "correct the host name, or use its address"),
    ("KeepAliveTimedOut", Kind::Unavailable, "the connection is dead: pings were not answered", HINT_ADDRESS),
    ("keep-alive timed out", Kind::Unavailable, "the connection is dead: pings were not answered", HINT_ADDRESS),
    ("deadline has elapsed", Kind::Unavailable, "no connection in time", HINT_ADDRESS),
    ("ENHANCE_YOUR_CALM", Kind::Unavailable, "it closed the connection because of too many pings", "try again"),
    ("stream error received", Kind::Unavailable, "it reset the stream", "run the command again"),
    ("connection closed before", Kind::Unavailable, "it closed the connection", HINT_ADDRESS),
];

/// Kinds of failed system calls, most telling first.
const CALLS: &[(io::ErrorKind, &str)] = &[
    (io::ErrorKind::ConnectionRefused, "nothing listens there (connection refused)"),
    (io::ErrorKind::HostUnreachable, "the host cannot be reached"),
    (io::ErrorKind::NetworkUnreachable, "the network cannot be reached"),
    (io::ErrorKind::TimedOut, "no connection in time"),
];

/// The same, for a peer that ended the connection.
const HUNG_UP: &[(io::ErrorKind, &str)] = &[
    (io::ErrorKind::ConnectionReset, "the connection was reset"),
    (io::ErrorKind::ConnectionAborted, "the connection was reset"),
    (io::ErrorKind::BrokenPipe, "the connection was closed"),
    (io::ErrorKind::UnexpectedEof, "the connection was closed"),
];

fn transport(status: &Status) -> Error {
    let mut innermost = status.message().to_owned();
    let mut texts = String::new();
    let mut call = None;
    let mut cause = status.source();
    while let Some(error) = cause {
        innermost = error.to_string();
        texts.push_str(&innermost);
        texts.push('\n');
        call = error.downcast_ref::<io::Error>().map(io::Error::kind).or(call);
        cause = error.source();
    }
    // The HTTP/2 library keeps the system call's error to itself and shows its text.
    call = call.or(texts.contains("connection reset").then_some(io::ErrorKind::ConnectionReset));
    call = call.or(texts.contains("connection closed").then_some(io::ErrorKind::UnexpectedEof));
    call = call.or(texts.contains("broken pipe").then_some(io::ErrorKind::BrokenPipe));
    if let Some((_, kind, reason, hint)) = CAUSES.iter().find(|(part, ..)| texts.contains(part)) {
        return Error::new(*kind, *reason).source(Cause(innermost)).hint(*hint);
    }
    if let Some((_, reason)) = CALLS.iter().chain(HUNG_UP).find(|(kind, _)| call == Some(*kind)) {
        return Error::new(Kind::Unavailable, *reason).hint(HINT_ADDRESS);
    }
    Error::new(Kind::Unavailable, "the connection failed").source(Cause(innermost)).hint(HINT_ADDRESS)
}

/// The last link of a chain of causes; the links between only repeat each other.
#[derive(Debug)]
struct Cause(String);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_etcd_says_has_a_kind_and_a_hint() {
        let cases = [
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password", Kind::Denied),
            (Code::InvalidArgument, "etcdserver: user name is empty", Kind::Denied),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Kind::Unavailable),
            (Code::Unknown, "auth: revision in header is old", Kind::Unavailable),
            (Code::Unknown, "auth: permission denied", Kind::Denied),
            (Code::PermissionDenied, "etcdserver: permission denied", Kind::Denied),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Kind::Denied),
            (Code::Unavailable, "etcdserver: no leader", Kind::Unavailable),
            (Code::Unavailable, "etcdserver: leader changed", Kind::Unavailable),
            (Code::Unknown, "etcdserver: too many requests", Kind::Unavailable),
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner", Kind::Unavailable),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Kind::NotFound),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Kind::Full),
            (Code::DataLoss, "etcdserver: corrupt cluster", Kind::Damaged),
            (Code::Unimplemented, "unknown service etcdserverpb.Maintenance", Kind::Failed),
            (Code::DeadlineExceeded, "context deadline exceeded", Kind::Unavailable),
            (Code::Internal, "", Kind::Failed),
        ];
        for (code, text, kind) in cases {
            let error = reason(&Status::new(code, text));
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.hint_text().is_some() && error.to_string().contains(text), "{text}");
        }
    }

    #[test]
    fn questions_about_a_status_need_the_right_words() {
        assert!(wants_new_token(&Status::new(Code::Unauthenticated, "etcdserver: invalid auth token")));
        assert!(!wants_new_token(&Status::new(Code::Unauthenticated, "go away")));
        assert!(is_compacted(&Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")));
        assert!(is_future(&Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")));
        assert!(!is_compacted(&Status::new(Code::OutOfRange, "etcdserver: too large lease TTL")));
        assert!(is_auth_disabled(&Status::new(Code::FailedPrecondition, "etcdserver: authentication is not enabled")));
    }

    #[test]
    fn a_broken_connection_tells_its_innermost_cause() {
        let cases = [
            ("invalid peer certificate: UnknownIssuer", Kind::Denied, "not trusted here"),
            (
                "invalid peer certificate: certificate expired: verification time 1 is after 0",
                Kind::Denied,
                "has expired",
            ),
            ("received fatal alert: CertificateRequired", Kind::Denied, "without a client certificate"),
            ("received corrupt message of type InvalidContentType", Kind::Usage, "does not speak TLS"),
            ("failed to lookup address information: Name or service not known", Kind::Unavailable, "not known"),
            ("something new", Kind::Unavailable, "the connection failed"),
        ];
        for (text, kind, words) in cases {
            let mut status = Status::unknown("transport error");
            status.set_source(Arc::new(io::Error::new(io::ErrorKind::InvalidData, text)));
            let error = reason(&status);
            assert!(!is_answer(&status) && error.kind() == kind && error.hint_text().is_some(), "{text}");
            assert!(error.to_string().contains(words) && error.chain().ends_with(text), "{}", error.chain());
        }
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!(reason(&status).chain(), "nothing listens there (connection refused)");
        assert_eq!(first_reason(&status, true).hint_text(), Some(HINT_ADDRESS));
        status.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert!(first_reason(&status, true).hint_text().unwrap().ends_with("with http://"));
        assert!(first_reason(&status, false).hint_text().unwrap().ends_with("with https://"));
    }
}
