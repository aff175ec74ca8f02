//! Signed tokens by themselves: those of another program, and those that nobody may believe.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::base::clock::parse_format;
use crate::base::error::Kind;
use crate::base::rng::Seeded;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokens");

fn now() -> Time {
    parse_format("2026-05-15 02:00:00", "%Y-%m-%d %H:%M:%S").unwrap()
}

fn load(method: Method, private: Option<&str>, public: Option<&str>) -> crate::base::Result<Keys> {
    let path = |name: &str| Path::new(FOLDER).join(name);
    Files { method, private: private.map(path), public: public.map(path), ttl: Duration::from_mins(5) }.load()
}

/// Of each method: the files of a key that signs, and of one that checks.
fn pair(method: Method) -> (&'static str, Option<&'static str>) {
    match method {
        Method::HS256 | Method::HS384 | Method::HS512 => ("secret", None),
        Method::ES256 => ("ec.pem", Some("ec.pub")),
        Method::ES384 => ("ec384.pem", None),
        Method::EdDSA => ("ed.pem", Some("ed.pub")),
        _ => ("rsa.pem", Some("rsa.pub")),
    }
}

fn ann() -> Claims {
    Claims { username: "ann".to_owned(), revision: 7 }
}

#[test]
fn tokens_of_another_program_are_read_by_every_method() {
    let tokens = std::fs::read_to_string(Path::new(FOLDER).join("tokens.tsv")).unwrap();
    let mut seen = 0;
    for (name, token) in tokens.lines().map(|line| line.split_once('\t').unwrap()) {
        let method = Method::of(name).unwrap();
        let (private, public) = pair(method);
        let keys = load(method, Some(private), None).unwrap();
        assert_eq!(keys.read(token, now()), Some(ann()), "{name}");
        if public.is_some() {
            let keys = load(method, None, public).unwrap();
            assert_eq!(keys.read(token, now()), Some(ann()), "{name}");
            assert_eq!(keys.write(&ann(), now()), Err(CannotSign), "{name}");
        }
        for other in METHODS.into_iter().filter(|other| *other != method) {
            let keys = load(other, Some(pair(other).0), None).unwrap();
            assert_eq!(keys.read(token, now()), None, "{other} takes a token of {name}");
        }
        seen += 1;
    }
    assert_eq!(seen, METHODS.len());
}

#[test]
fn what_is_written_is_read_until_its_time_is_over() {
    for method in METHODS {
        let keys = load(method, Some(pair(method).0), None).unwrap();
        let token = keys.write(&ann(), now()).unwrap();
        let after = |seconds| now() + crate::base::clock::seconds(seconds);
        assert_eq!(keys.read(&token, now()), Some(ann()), "{method}");
        assert_eq!(keys.read(&token, after(299)), Some(ann()), "{method}");
        assert_eq!(keys.read(&token, after(300)), None, "{method}");
        let other = load(method, Some(pair(method).0), None).unwrap();
        assert_eq!(other.read(&token, now()), Some(ann()), "{method}: another member with the same key");
    }
}

#[test]
fn a_key_is_read_in_every_form_that_openssl_writes() {
    let forms = [
        (Method::RS256, "rsa.pem", "rsa1.pem"),
        (Method::ES256, "ec.pem", "ec1.pem"),
        (Method::ES256, "ecparams.pem", "ecparams.pem"),
    ];
    for (method, one, other) in forms {
        let token = load(method, Some(one), None).unwrap().write(&ann(), now()).unwrap();
        assert_eq!(load(method, Some(other), None).unwrap().read(&token, now()), Some(ann()), "{other}");
    }
    let token = load(Method::ES256, Some("ec1.pem"), Some("ec.pub")).unwrap().write(&ann(), now()).unwrap();
    assert_eq!(load(Method::ES256, None, Some("ec.crt")).unwrap().read(&token, now()), Some(ann()), "in a certificate");
}

#[test]
fn keys_that_are_of_no_use_are_refused_at_the_start() {
    let refused = [
        (Method::RS256, Some("ec.pem"), None, "it is no key for RS256"),
        (Method::ES256, Some("ec384.pem"), None, "it is no key for ES256"),
        (Method::ES384, Some("ec1.pem"), None, "it is no key for ES384"),
        (Method::EdDSA, Some("rsa.pem"), None, "it is no key for EdDSA"),
        (Method::RS256, Some("rsa.pub"), None, "it holds no private key in PEM"),
        (Method::RS256, Some("secret"), None, "it holds no private key in PEM"),
        (Method::RS256, None, Some("rsa.pem"), "it holds no public key in PEM"),
        (Method::RS256, None, Some("ed.pub"), "the public key is none for RS256"),
        (Method::ES256, None, Some("rsa.pub"), "the public key is none for ES256"),
        (Method::EdDSA, None, Some("ec.pub"), "the public key is none for EdDSA"),
        (Method::ES256, Some("ecparams.pem"), Some("ec.pub"), "it is not the public key of the private one"),
        (Method::ES256, None, None, "no key is given"),
        (Method::HS256, Some("none"), None, "No such file"),
    ];
    for (method, private, public, why) in refused {
        let error = load(method, private, public).unwrap_err();
        assert!(error.chain().contains(why), "{method} {private:?} {public:?}: {}", error.chain());
        assert_eq!(error.kind() == Kind::Usage, !why.starts_with("No such"), "{}", error.chain());
    }
    assert!(
        format!("{:?}", load(Method::HS256, Some("secret"), None).unwrap())
            .starts_with("Keys { method: HS256, signs: true")
    );
}

/// A token of these parts, signed with the secret.
fn forged(header: &str, claims: &str) -> String {
    let keys = load(Method::HS256, Some("secret"), None).unwrap();
    let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    format!("{message}.{}", base64url(&keys.sign(message.as_bytes()).unwrap()))
}

#[test]
fn only_a_header_and_claims_that_say_enough_are_believed() {
    let keys = load(Method::HS256, Some("secret"), None).unwrap();
    let (header, claims) = (r#"{"alg":"HS256"}"#, r#"{"username":"ann","revision":7}"#);
    let read = |header: &str, claims: &str| keys.read(&forged(header, claims), now());
    assert_eq!(read(header, claims), Some(ann()), "an end is not demanded");
    assert_eq!(read(header, r#"{"username":"ann","revision":7,"nbf":1,"iat":1.5,"more":[]}"#), Some(ann()));
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{}"#,
        "[]",
        "",
    ] {
        assert_eq!(read(header, claims), None, "{header}");
    }
    for claims in [
        r#"{"username":"ann"}"#,
        r#"{"revision":7}"#,
        r#"{"username":1,"revision":7}"#,
        r#"{"username":"ann","revision":"7"}"#,
        r#"{"username":"ann","revision":7.0}"#,
        r#"{"username":"ann","revision":-7}"#,
        r#"{"username":"ann","revision":7,"exp":"never"}"#,
        r#"{"username":"ann","revision":7,"exp":1}"#,
        r#"{"username":"ann","revision":7,"nbf":4102444800}"#,
        r#"{"username":"ann","revision":7,"iat":4102444800}"#,
        r#"{"username":"ann","username":"root","revision":7}"#,
    ] {
        assert_eq!(read(header, claims), None, "{claims}");
    }
}

#[test]
fn ten_thousand_changed_tokens_are_refused() {
    let mut chance = Seeded::new(35);
    for method in [Method::HS256, Method::RS256, Method::PS256, Method::ES256, Method::EdDSA] {
        let keys = load(method, Some(pair(method).0), None).unwrap();
        let token = keys.write(&ann(), now()).unwrap();
        for _ in 0..2000 {
            let mut bytes = token.clone().into_bytes();
            let at = usize::try_from(chance.below(bytes.len() as u64)).unwrap();
            match chance.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = b"-A.=z"[at % 5],
                _ => bytes.insert(at, b'A'),
            }
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed == token || keys.read(&changed, now()).is_none(), "{method}: {changed}");
        }
    }
    let keys = load(Method::HS256, Some("secret"), None).unwrap();
    assert_eq!(keys.read(&"a.".repeat(TOKEN_BYTES_MAX), now()), None);
}
