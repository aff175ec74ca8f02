//! Values as flags are given them: switches, numbers, durations as Go writes them, URLs.

use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::store::options::table::Shape;

/// How a URL says that a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// With TLS.
    Https,
    /// Plain, over a Unix socket.
    Unix,
    /// With TLS, over a Unix socket.
    Unixs,
}

impl Scheme {
    /// Whether TLS is spoken.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    /// Whether it is a file and no network.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

/// `http://HOST:PORT` or `unix://PATH`, where a member listens or is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Plain or with TLS.
    pub scheme: Scheme,
    /// A name, or an IP address without brackets; may be empty, which is every address. Of a Unix socket, its path.
    pub host: String,
    /// The port; 0 of a Unix socket.
    pub port: u16,
    /// As it was written.
    pub text: String,
}

impl Address {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Address> {
        let wrong = |why: &str| wrong(format!("{text:?} {why}"), "write it as http://IP:PORT or https://IP:PORT");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("is no URL"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(wrong("begins with neither http:// nor https://")),
        };
        if scheme.is_unix() {
            // As in etcd, what stands in the place of a host and a port is part of a path that begins where it is run.
            return match rest {
                "" => Err(wrong("names no file to be the socket")),
                path => Ok(Address { scheme, host: path.to_owned(), port: 0, text: text.to_owned() }),
            };
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err(wrong("has more than a host and a port"));
        }
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        let port = port.parse().map_err(|_| wrong("has no port that is a number up to 65535"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err(wrong("has an IPv6 address without brackets"));
        }
        Ok(Address { scheme, host: bare.unwrap_or(host).to_owned(), port, text: text.to_owned() })
    }

    /// Whether a socket can be bound to it: an address, this host or a file, no other name.
    pub fn is_local(&self) -> bool {
        self.scheme.is_unix()
            || self.host.is_empty()
            || self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok()
    }
}

/// Whether `text` is written as the shape wants it.
pub fn check(shape: Shape, text: &str) -> Result<()> {
    match shape {
        Shape::Switch => switch(text).map(drop),
        Shape::Number => number(text).map(drop),
        Shape::Count => count(text).map(drop),
        Shape::Duration => duration(text).map(drop),
        Shape::Urls => urls(text).map(drop),
        Shape::Text | Shape::List => Ok(()),
    }
}

/// `true` or `false`, in all the forms that Go takes.
pub fn switch(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(wrong(format!("{text:?} is neither true nor false"), "give true or false")),
    }
}

/// A whole number.
pub fn number(text: &str) -> Result<i64> {
    text.parse().map_err(|_| wrong(format!("{text:?} is not a whole number"), "give a number in digits, as in 5000"))
}

/// A whole number from 0 on.
pub fn count(text: &str) -> Result<u64> {
    let n = number(text)?;
    u64::try_from(n).map_err(|_| wrong(format!("{n} is negative"), "give 0 or more"))
}

/// A duration as Go writes it: `1h30m`, `100ms`, `1.5s`, `0`.
pub fn duration(text: &str) -> Result<Duration> {
    let refused =
        || wrong(format!("{text:?} is not a duration"), "give a number and ms, s, m or h, as in 30s or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refused)?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let scale = match &rest[digits..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(refused()),
        };
        let value: f64 = rest[..digits].parse().map_err(|_| refused())?;
        seconds += value * scale;
        rest = &rest[end..];
    }
    let whole = Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty());
    whole.ok_or_else(refused)
}

/// URLs with commas between them.
pub fn urls(text: &str) -> Result<Vec<Address>> {
    words(text).iter().map(|word| Address::parse(word)).collect()
}

/// Words with commas between them.
pub fn words(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn wrong(message: String, hint: &str) -> Error {
    Error::new(Kind::Usage, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("100ms", 100),
            ("5s", 5000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("2h0m0s", 7_200_000),
        ];
        for (text, ms) in cases {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1 s", "1d", "..s", "1s2", "99999999999999999999999h"] {
            assert!(duration(text).unwrap_err().hint_text().is_some(), "{text}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let read =
            |text: &str| Address::parse(text).map(|url| (url.scheme, url.host.clone(), url.port, url.is_local()));
        assert_eq!(read("http://127.0.0.1:2379").unwrap(), (Scheme::Http, "127.0.0.1".to_owned(), 2379, true));
        assert_eq!(read("https://[::1]:1").unwrap(), (Scheme::Https, "::1".to_owned(), 1, true));
        assert_eq!(read("http://:80").unwrap(), (Scheme::Http, String::new(), 80, true));
        assert_eq!(read("http://etcd.example:80").unwrap(), (Scheme::Http, "etcd.example".to_owned(), 80, false));
        assert_eq!(read("unix:///run/etcd.sock").unwrap(), (Scheme::Unix, "/run/etcd.sock".to_owned(), 0, true));
        assert_eq!(read("unixs://a:1").unwrap(), (Scheme::Unixs, "a:1".to_owned(), 0, true));
        assert!(Scheme::Unixs.is_secure() && !Scheme::Unix.is_secure() && !Scheme::Https.is_unix());
        for text in [
            "",
            "127.0.0.1:1",
            "http://a",
            "http://a:",
            "http://a:x",
            "http://a:65536",
            "http://a:1/",
            "http://u@a:1",
            "ftp://a:1",
            "unix://",
            "http://::1:1",
        ] {
            assert_eq!(read(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn switches_and_numbers_are_what_go_takes() {
        assert!(switch("t").unwrap() && !switch("False").unwrap() && switch("yes").is_err() && switch("").is_err());
        assert_eq!((number("-1").unwrap(), number("10").unwrap()), (-1, 10));
        assert!(number("1.5").is_err() && number("ten").is_err());
        assert!(count("7").is_ok_and(|n| n == 7) && count("-1").is_err() && count("x").is_err());
        assert_eq!(words(" a, b,,c "), ["a", "b", "c"]);
    }
}
