//! HTTP/1.1 as much of it as buckets and their clients speak: messages read whole and written whole.
//!
//! Strict where a test depends on it: a body that is shorter than announced is an error, never a shorter body.

use std::io::{self, BufRead, Read, Write};

/// The longest head, and the longest body.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: u64 = 64 << 20;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The path, decoded.
    pub fn path(&self) -> String {
        decode(self.target.split('?').next().unwrap_or_default())
    }

    /// A parameter of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(key, _)| decode(key) == name).map(|(_, value)| decode(&value.replace('+', " "))).next()
    }
}

impl Response {
    /// An answer without a body.
    pub fn new(status: u16) -> Response {
        Response { status, headers: vec![], body: vec![] }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The same with a header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same with a body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.body = body.into();
        self
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Percent-decoding.
pub fn decode(text: &str) -> String {
    let (bytes, mut out, mut i) = (text.as_bytes(), vec![], 0);
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The next request; none when the client has closed.
pub fn read_request(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let Some((first, headers)) = read_head(from)? else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let body = read_body(from, &headers, false)?;
    Ok(Some(Request { method, target, headers, body }))
}

/// The answer to a request of `method`.
pub fn read_response(from: &mut impl BufRead, method: &str) -> io::Result<Response> {
    let (first, headers) = read_head(from)?.ok_or_else(|| broken("closed before the answer"))?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| broken("no status"))?;
    let bodyless = method == "HEAD" || status == 204 || status == 304;
    let body = if bodyless { vec![] } else { read_body(from, &headers, true)? };
    Ok(Response { status, headers, body })
}

type Head = (String, Vec<(String, String)>);

fn read_head(from: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut lines = vec![];
    let mut left = HEAD_BYTES_MAX;
    loop {
        let mut line = vec![];
        let n = from.by_ref().take(left as u64).read_until(b'\n', &mut line)?;
        left -= n;
        if n == 0 && lines.is_empty() && left > 0 {
            return Ok(None);
        }
        if !line.ends_with(b"\n") {
            return Err(broken("the head is cut or too long"));
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut lines = lines.into_iter();
    let first = lines.next().ok_or_else(|| broken("an empty head"))?;
    let header = |line: String| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    Ok(Some((first, lines.filter_map(header).collect())))
}

fn read_body(from: &mut impl BufRead, headers: &[(String, String)], to_end: bool) -> io::Result<Vec<u8>> {
    if find(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return read_chunks(from);
    }
    let mut body = vec![];
    let Some(length) = find(headers, "content-length") else {
        // An answer without a length ends with its connection; a request without one has no body.
        if to_end {
            from.take(BODY_BYTES_MAX).read_to_end(&mut body)?;
        }
        return Ok(body);
    };
    let length: u64 = length.parse().map_err(|_| broken("a strange length"))?;
    if length > BODY_BYTES_MAX {
        return Err(broken("a body that is too long"));
    }
    from.take(length).read_to_end(&mut body)?;
    if body.len() as u64 == length { Ok(body) } else { Err(broken("the body is cut")) }
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = vec![];
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(|_| broken("a strange chunk"))?;
        let before = body.len() as u64;
        from.take(size).read_to_end(&mut body)?;
        let mut end = String::new();
        from.read_line(&mut end)?;
        if body.len() as u64 != before + size || body.len() as u64 > BODY_BYTES_MAX {
            return Err(broken("a cut chunk"));
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Writes a request.
pub fn write_request(to: &mut impl Write, request: &Request) -> io::Result<()> {
    let first = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    let length = (!request.body.is_empty() || request.header("content-length").is_some()).then_some(request.body.len());
    write_message(to, &first, &request.headers, length, &request.body)
}

/// Writes the answer to a request of `method`, of which `keep` bytes of the body are sent.
pub fn write_response(to: &mut impl Write, response: &Response, method: &str, keep: usize) -> io::Result<()> {
    let first = format!("HTTP/1.1 {} Status\r\n", response.status);
    if method == "HEAD" || response.status == 204 || response.status == 304 {
        // What a HEAD says of the length is the object's.
        let length = response.header("content-length").and_then(|value| value.parse().ok());
        let length = if method == "HEAD" { Some(length.unwrap_or(response.body.len())) } else { None };
        return write_message(to, &first, &response.headers, length, &[]);
    }
    let body = &response.body[..keep.min(response.body.len())];
    write_message(to, &first, &response.headers, Some(response.body.len()), body)
}

fn write_message(
    to: &mut impl Write,
    first: &str,
    headers: &[(String, String)],
    length: Option<usize>,
    body: &[u8],
) -> io::Result<()> {
    let mut bytes = first.as_bytes().to_vec();
    let framing = ["content-length", "transfer-encoding", "connection"];
    for (name, value) in headers.iter().filter(|(name, _)| !framing.contains(&name.as_str())) {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if let Some(length) = length {
        bytes.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    to.write_all(&bytes)?;
    to.flush()
}
