//! Tests of the harness's own bucket and of the weather before it: each refusal refuses, each fault strikes and is
//! counted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast::base::digest::Sha256;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::support::bucket::{Bucket, Dialect, Flaw};
use super::support::http::{Request, Response, read_response, write_request};
use super::support::weather::{Proxy, Weather};

/// Sends one request, signed in words; none when the connection ended without an answer.
fn ask(address: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Response> {
    let fixed = [("host", "test"), ("authorization", "AWS4-HMAC-SHA256 x")];
    let headers = fixed.iter().chain(headers).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = Request { method: method.to_owned(), target: target.to_owned(), headers, body: body.to_vec() };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut connection = BufReader::new(stream);
    write_request(connection.get_mut(), &request).ok()?;
    read_response(&mut connection, method).ok()
}

fn status(address: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
    ask(address, method, target, headers, body).unwrap().status
}

#[test]
fn a_second_create_and_a_stale_generation_are_refused() {
    let bucket = Bucket::start(Dialect::Google, "b");
    let at = bucket.address();
    let create = [("x-goog-if-generation-match", "0")];
    assert_eq!(status(&at, "PUT", "/b/x", &create, b"one"), 200);
    assert_eq!(status(&at, "PUT", "/b/x", &create, b"two"), 412);
    assert_eq!(status(&at, "PUT", "/b/x", &[("x-goog-if-generation-match", "77")], b"two"), 412);
    assert_eq!(status(&at, "PUT", "/b/x", &[("x-goog-if-generation-match", "zero")], b"two"), 400);
    let read = ask(&at, "GET", "/b/x", &[], b"").unwrap();
    let generation = read.header("x-goog-generation").unwrap().to_owned();
    assert_eq!(read.body, b"one");
    assert_eq!(status(&at, "PUT", "/b/x", &[("x-goog-if-generation-match", &generation)], b"two"), 200);
    assert_eq!(status(&at, "GET", &format!("/b/x?generation={generation}"), &[], b""), 404, "a stale generation");
    let bucket = Bucket::start(Dialect::S3, "b");
    let at = bucket.address();
    assert_eq!(status(&at, "PUT", "/b/x", &[("if-none-match", "*")], b"one"), 200);
    assert_eq!(status(&at, "PUT", "/b/x", &[("if-none-match", "*")], b"one"), 412);
    assert_eq!(bucket.objects()["x"], b"one");
    bucket.set(&[Flaw::IgnoresConditions]);
    assert_eq!(status(&at, "PUT", "/b/x", &[("if-none-match", "*")], b"two"), 200, "the flaw is there when it is set");
}

#[test]
fn what_does_not_match_its_checksum_is_refused_and_not_stored() {
    let google = Bucket::start(Dialect::Google, "b");
    let s3 = Bucket::start(Dialect::S3, "b");
    let sha256 = BASE64.encode(Sha256::of(b"other").0);
    let signed = Sha256::of(b"other").to_string();
    for (bucket, name, value) in [
        (&google, "x-goog-hash", "crc32c=AAAAAA=="),
        (&google, "x-goog-hash", "md5=AAAAAAAAAAAAAAAAAAAAAA=="),
        (&google, "x-goog-hash", "sha9=x"),
        (&google, "content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
        (&s3, "x-amz-checksum-sha256", &sha256),
        (&s3, "x-amz-content-sha256", &signed),
    ] {
        let response = ask(&bucket.address(), "PUT", "/b/x", &[(name, value)], b"one").unwrap();
        assert_eq!(response.status, 400, "{name}");
        assert!(String::from_utf8_lossy(&response.body).contains("<Code>"), "{name}");
        assert!(bucket.objects().is_empty(), "{name}");
    }
    let right = BASE64.encode(Sha256::of(b"one").0);
    assert_eq!(status(&s3.address(), "PUT", "/b/x", &[("x-amz-checksum-sha256", &right)], b"one"), 200);
}

#[test]
fn a_truncated_body_stores_nothing() {
    let bucket = Bucket::start(Dialect::Google, "b");
    let mut stream = TcpStream::connect(bucket.address()).unwrap();
    stream.write_all(b"PUT /b/x HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = vec![];
    drop(std::io::Read::read_to_end(&mut stream, &mut answer));
    assert!(answer.is_empty() && bucket.objects().is_empty());
    assert_eq!(status(&bucket.address(), "PUT", "/b/x", &[("content-length", "0")], b""), 200);
    assert_eq!(status(&bucket.address(), "PUT", "/b/y", &[], b""), 411, "a body whose length nobody stated");
}

#[test]
fn listings_have_prefixes_folders_and_pages() {
    let bucket = Bucket::start(Dialect::Google, "b");
    for name in ["a/1", "a/2", "a/b/3", "a/b/4", "a/c/5", "ab/6"] {
        bucket.put(name, b"x");
    }
    bucket.page(2);
    let all = |query: &str| {
        let (mut seen, mut token) = (vec![], String::new());
        loop {
            let target = format!("/b?list-type=2&{query}{token}");
            let page = String::from_utf8(ask(&bucket.address(), "GET", &target, &[], b"").unwrap().body).unwrap();
            let texts = |open: &str, close: &str| {
                let parts = page.split(open).skip(1).map(|part| part.split(close).next().unwrap().to_owned());
                parts.collect::<Vec<String>>()
            };
            let entries = [texts("<Key>", "</Key>"), texts("<Prefix>", "</Prefix>")].concat();
            assert!(entries.len() <= 2, "{page}");
            seen.extend(entries);
            match texts("<NextContinuationToken>", "</").first() {
                Some(next) => token = format!("&continuation-token={}", next.replace('/', "%2F")),
                None => return seen,
            }
        }
    };
    assert_eq!(all("prefix=a%2F"), ["a/1", "a/2", "a/b/3", "a/b/4", "a/c/5"]);
    assert_eq!(all("prefix=a%2F&delimiter=%2F"), ["a/1", "a/2", "a/b/", "a/c/"]);
    assert_eq!(all("prefix=z"), Vec::<String>::new());
    assert_eq!(status(&bucket.address(), "GET", "/b?prefix=a", &[], b""), 400, "version 1 is not spoken");
    assert_eq!(status(&bucket.address(), "GET", "/other?list-type=2", &[], b""), 404);
    assert_eq!(status(&bucket.address(), "DELETE", "/b/none", &[], b""), 404);
    assert_eq!(status(&bucket.address(), "POST", "/b/x", &[("content-length", "0")], b""), 405);
    for (denied, method, target) in
        [("LIST", "GET", "/b?list-type=2"), ("GET", "HEAD", "/b/a/1"), ("DELETE", "DELETE", "/b/a/1")]
    {
        bucket.set(&[Flaw::Denies(denied)]);
        assert_eq!(status(&bucket.address(), method, target, &[], b""), 403);
    }
}

#[test]
fn each_fault_of_the_weather_strikes_and_is_counted() {
    let bucket = Bucket::start(Dialect::Google, "b");
    let proxy = Proxy::before(bucket.address());
    let at = proxy.address();
    let put = |name: &str| ask(&at, "PUT", &format!("/b/{name}"), &[], b"content of an object");
    assert_eq!(put("fair").unwrap().status, 200);
    assert_eq!((proxy.requests(), proxy.count("PUT"), proxy.sent()), (1, 1, 20));
    let all = |set: fn(&mut Weather)| {
        let mut weather = Weather { seed: 3, ..Weather::default() };
        set(&mut weather);
        proxy.set(weather);
    };
    all(|w| w.errors = 1000);
    assert!(matches!(put("error").unwrap().status, 500 | 502 | 503));
    all(|w| w.throttling = 1000);
    assert!(matches!(put("throttled").unwrap().status, 429 | 503));
    all(|w| w.resets = 1000);
    assert!(put("reset").is_none());
    assert_eq!(bucket.objects().len(), 1, "none of these reached the bucket");
    all(|w| w.lost_replies = 1000);
    assert!(put("lost").is_none() && bucket.objects().contains_key("lost"), "done, and not said");
    assert_eq!(proxy.count("lost reply"), 1);
    all(|w| w.corrupt_up = 1000);
    put("corrupt").unwrap();
    assert_ne!(bucket.objects()["corrupt"], b"content of an object");
    all(|w| w.corrupt_down = 1000);
    assert_ne!(ask(&at, "GET", "/b/fair", &[], b"").unwrap().body, b"content of an object");
    assert_eq!(proxy.count("corrupt down"), 1);
    all(|w| w.cut = 1000);
    assert!(ask(&at, "GET", "/b/fair", &[], b"").is_none(), "half an answer is none");
    all(|w| w.silent = 1000);
    assert!(put("silent").is_none());
    all(|w| w.denied_from = Some(1));
    assert_eq!((put("first").unwrap().status, put("second").unwrap().status), (200, 403));
    all(|w| w.down = true);
    assert!(put("down").is_none());
    assert_eq!(proxy.count("down"), 1);
    // The same seed, the same storm.
    let storm = || {
        proxy.set(Weather { errors: 300, lost_replies: 300, seed: 9, ..Weather::default() });
        (0..20).map(|_| put("storm").map(|response| response.status)).collect::<Vec<_>>()
    };
    assert_eq!(storm(), storm());
}
