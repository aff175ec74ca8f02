//! Where the members are and how to be let in: what the operator wrote, and what it means once checked.
//!
//! `Options` is the text of a policy or a command line; `Target` is the same with nothing left to guess. Endpoints are
//! read as etcdctl reads them: without a scheme they are `http`, or `https` when any TLS file is named, and the port is
//! 2379 unless given.
//!
//! Invariants:
//! - A `Target` has 1 to `ENDPOINTS_MAX` endpoints, no two equal, all of one scheme.
//! - TLS files and `https` come together: no file is silently ignored, no plain connection is made where TLS was meant.
//! - A password shows in no message and in no `Debug` output.

use std::fmt;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::tls::{Tls, TlsFiles};

/// The port of etcd's clients.
pub const PORT_DEFAULT: u16 = 2379;
/// Endpoints of one cluster; etcd advises at most seven members.
pub const ENDPOINTS_MAX: usize = 64;
/// Time for a TCP connection, and again for its TLS handshake.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Time for one answer to one question.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
/// Time for HashKV, which reads the member's whole key space.
pub const HASH_DEADLINE_DEFAULT: Duration = Duration::from_secs(300);
/// Silence after which a stream that should be flowing has failed. Streams have no limit on their whole duration.
pub const STALL_DEFAULT: Duration = Duration::from_secs(30);
/// Time for all attempts at a question that the cluster cannot answer at the moment, such as during an election.
pub const RETRY_TOTAL_DEFAULT: Duration = Duration::from_secs(10);

/// How to reach a cluster, as written.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://10.0.0.1:2379`, or without scheme or port.
    pub endpoints: Vec<String>,
    /// CA, certificate and key.
    pub tls: TlsFiles,
    /// Name of a user, when the cluster has authentication enabled.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Time for a TCP connection, and again for its TLS handshake.
    pub connect_timeout: Duration,
    /// Time for one answer to one question.
    pub deadline: Duration,
    /// Time for HashKV.
    pub hash_deadline: Duration,
    /// Silence after which a stream has failed.
    pub stall: Duration,
    /// Time for all attempts at one question.
    pub retry_total: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            endpoints: Vec::new(),
            tls: TlsFiles::default(),
            user: None,
            password: None,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            deadline: DEADLINE_DEFAULT,
            hash_deadline: HASH_DEADLINE_DEFAULT,
            stall: STALL_DEFAULT,
            retry_total: RETRY_TOTAL_DEFAULT,
        }
    }
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text, for the one call that needs it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// How to reach a cluster, checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// In the order given.
    pub endpoints: Vec<Endpoint>,
    /// Present when the endpoints are `https`.
    pub tls: Option<Tls>,
    /// User and password.
    pub user: Option<(String, Secret)>,
}

/// The address of one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Whether the member is reached over TLS.
    pub tls: bool,
    /// A name or an address; IPv6 in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Options {
    /// Checks everything and reads the TLS files; touches no network.
    pub fn target(&self) -> Result<Target> {
        let endpoints = self.checked_endpoints()?;
        let tls = endpoints[0].tls;
        if !tls && !self.tls.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                format!("TLS files are given, but {} is not reached over TLS", endpoints[0]),
            )
            .hint("write the endpoints with https://, or leave ca, cert and key out"));
        }
        let limits = [
            ("connect timeout", self.connect_timeout),
            ("deadline", self.deadline),
            ("hash deadline", self.hash_deadline),
            ("stall", self.stall),
        ];
        if let Some((name, _)) = limits.iter().find(|(_, time)| time.is_zero()) {
            return Err(Error::new(Kind::Usage, format!("a {name} of nothing")).hint("give a time such as 5s"));
        }
        let tls = if tls { Some(self.tls.load()?) } else { None };
        Ok(Target { endpoints, tls, user: self.checked_user()? })
    }

    fn checked_endpoints(&self) -> Result<Vec<Endpoint>> {
        let usage = |message: String, hint: &str| Err(Error::new(Kind::Usage, message).hint(hint));
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(self.endpoints.len());
        for text in &self.endpoints {
            let endpoint = Endpoint::parse(text, !self.tls.is_empty())?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return usage("no endpoint is given".to_owned(), "name the members, for example https://10.0.0.1:2379");
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return usage(format!("more than {ENDPOINTS_MAX} endpoints"), "name the members of one cluster only");
        }
        if let Some(other) = endpoints.iter().find(|endpoint| endpoint.tls != endpoints[0].tls) {
            return usage(
                format!("{} and {other} mix https and http", endpoints[0]),
                "a cluster serves its clients over TLS or not: write all endpoints with the same scheme",
            );
        }
        Ok(endpoints)
    }

    fn checked_user(&self) -> Result<Option<(String, Secret)>> {
        let usage = |message: &str, hint: &str| Err(Error::new(Kind::Usage, message).hint(hint));
        match (&self.user, &self.password) {
            (None, None) => Ok(None),
            (Some(name), Some(_)) if name.is_empty() => usage("the user name is empty", "name an etcd user, or none"),
            (Some(_), Some(password)) if password.reveal().is_empty() => {
                usage("the password is empty", "put the user's password into the password file")
            }
            (Some(name), Some(password)) => Ok(Some((name.clone(), password.clone()))),
            (Some(_), None) => usage("a user is given without a password", "name a file with the password"),
            (None, Some(_)) => usage("a password is given without a user", "name the user it belongs to"),
        }
    }
}

impl Endpoint {
    /// Reads an address as an operator writes it; `tls` decides when it has no scheme.
    pub fn parse(text: &str, tls: bool) -> Result<Self> {
        const EXAMPLE: &str = "write it as https://10.0.0.1:2379";
        // The text may hold a password before an `@`: it is never repeated.
        if text.contains('@') {
            return Err(Error::new(Kind::Usage, "an endpoint holds a user name")
                .hint("give user and password on their own, not inside the endpoint"));
        }
        let wrong = |why: &str, hint: &str| Error::new(Kind::Usage, format!("endpoint {text:?} {why}")).hint(hint);
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let tls = match scheme.as_deref() {
            None => tls,
            Some("http") => false,
            Some("https") => true,
            Some("unix" | "unixs") => return Err(wrong("is a local socket", "name a TCP address of the member")),
            Some(_) => return Err(wrong("is neither http nor https", EXAMPLE)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(wrong("has a path", "an endpoint is a host and a port, nothing more"));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            None => PORT_DEFAULT,
            // u16's parser would let a plus sign pass.
            Some(port) if port.bytes().all(|c| c.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("has no usable port", EXAMPLE))?
            }
            Some(_) => return Err(wrong("has no usable port", EXAMPLE)),
        };
        if !is_host(host) {
            return Err(wrong(
                "has no usable host",
                "name a host or an address; IPv6 goes into brackets: https://[fd00::1]:2379",
            ));
        }
        Ok(Endpoint { tls, host: host.to_ascii_lowercase(), port })
    }
}

/// A DNS name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(letter) && !host.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoints: &[&str]) -> Options {
        Options { endpoints: endpoints.iter().map(ToString::to_string).collect(), ..Options::default() }
    }

    #[test]
    fn endpoints_read_as_etcdctl_reads_them() {
        let cases = [
            ("127.0.0.1", "http://127.0.0.1:2379"),
            ("localhost:12379", "http://localhost:12379"),
            ("http://h:80/", "http://h:80"),
            ("https://ETCD-0.etcd.svc:2379", "https://etcd-0.etcd.svc:2379"),
            ("HTTPS://[fd00::1]", "https://[fd00::1]:2379"),
            ("[::1]:1", "http://[::1]:1"),
        ];
        for (text, endpoint) in cases {
            assert_eq!(Endpoint::parse(text, false).unwrap().to_string(), endpoint);
        }
        assert_eq!(Endpoint::parse("h", true).unwrap().to_string(), "https://h:2379");
    }

    #[test]
    fn wrong_endpoints_are_told_apart() {
        let cases = [
            ("", "has no usable host"),
            ("http://", "has no usable host"),
            ("http://:2379", "has no usable host"),
            ("::1", "has no usable host"),
            ("fd00::1:2379", "has no usable host"),
            ("h h:1", "has no usable host"),
            ("http://[::1", "has no usable"),
            ("h:", "has no usable port"),
            ("h:0", "has no usable port"),
            ("h:+1", "has no usable port"),
            ("h:65536", "has no usable port"),
            ("h:2379/v3", "has a path"),
            ("http://h?x", "has a path"),
            ("ftp://h", "is neither http nor https"),
            ("unix:///run/etcd.sock", "is a local socket"),
        ];
        for (text, why) in cases {
            let error = Endpoint::parse(text, false).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.hint_text().is_some() && error.kind() == Kind::Usage);
        }
        let error = Endpoint::parse("http://root:hunter2@h", false).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn a_target_is_of_one_scheme_and_names_each_member_once() {
        let target = options(&["a", "http://a:2379", "b"]).target().unwrap();
        assert_eq!(target.endpoints.len(), 2);
        let many: Vec<String> = (0..=ENDPOINTS_MAX).map(|n| format!("h{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (endpoints, why) in [
            (vec![], "no endpoint is given"),
            (many, "more than 64 endpoints"),
            (vec!["https://a", "http://b"], "https://a:2379 and http://b:2379 mix https and http"),
        ] {
            let error = options(&endpoints).target().unwrap_err();
            assert_eq!(error.to_string(), why);
            assert!(error.hint_text().is_some() && error.kind() == Kind::Usage);
        }
    }

    #[test]
    fn tls_files_without_tls_are_refused_and_imply_it_otherwise() {
        let files = TlsFiles { ca: Some("/nowhere/ca.crt".into()), ..TlsFiles::default() };
        let mut options = options(&["http://a"]);
        options.tls = files;
        let error = options.target().unwrap_err();
        assert_eq!(error.to_string(), "TLS files are given, but http://a:2379 is not reached over TLS");
        options.endpoints = vec!["a".to_owned()];
        assert!(options.target().unwrap_err().to_string().contains("/nowhere/ca.crt"));
        options.tls = TlsFiles::default();
        options.endpoints = vec!["https://a".to_owned()];
        assert!(options.target().unwrap().tls.is_some_and(|tls| tls.ca.is_none()));
    }

    #[test]
    fn user_and_password_come_together_and_stay_hidden() {
        let with = |user: Option<&str>, password: Option<&str>| {
            let options = options(&["a"]);
            Options { user: user.map(str::to_owned), password: password.map(Secret::new), ..options }.target()
        };
        assert!(!format!("{:?}", with(Some("root"), Some("hunter2")).unwrap()).contains("hunter2"));
        for (user, password) in [(Some("u"), None), (None, Some("p")), (Some(""), Some("p")), (Some("u"), Some(""))] {
            let error = with(user, password).unwrap_err();
            assert!(error.hint_text().is_some() && error.kind() == Kind::Usage);
        }
        let nothing = Options { stall: Duration::ZERO, ..options(&["a"]) };
        assert_eq!(nothing.target().unwrap_err().to_string(), "a stall of nothing");
    }
}
