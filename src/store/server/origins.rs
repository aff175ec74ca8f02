//! Web pages of other origins that may ask over HTTP: what browsers are told of them.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, header};

const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static("accept, content-type, authorization");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Tells browsers whether the page that asked may read the answer; nothing for a page that is not listed. Without a list
/// every page may.
pub(super) fn tell(listed: Option<&[String]>, asked: Option<&HeaderValue>, answer: &mut Response<Body>) {
    let origin = match (listed, asked) {
        (None, _) => ANY,
        (Some(listed), Some(asked)) if listed.iter().any(|origin| origin.as_bytes() == asked.as_bytes()) => {
            asked.clone()
        }
        _ => return,
    };
    let headers: &mut HeaderMap = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
}

/// Whether a page may talk over a socket. Browsers let any do so and leave it to the server; whoever is no browser names no
/// origin.
pub(super) fn may_talk(listed: Option<&[String]>, asked: Option<&HeaderValue>) -> bool {
    match (listed, asked) {
        (None, _) | (_, None) => true,
        (Some(listed), Some(asked)) => listed.iter().any(|origin| origin.as_bytes() == asked.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_of_when_it_is_listed() {
        let told = |listed: Option<&[String]>, asked: Option<&'static str>| {
            let mut answer = Response::new(Body::empty());
            tell(listed, asked.map(HeaderValue::from_static).as_ref(), &mut answer);
            answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|origin| origin.to_str().unwrap().to_owned())
        };
        let listed = ["https://a.example".to_owned()];
        assert_eq!(told(None, None).as_deref(), Some("*"));
        assert_eq!(told(Some(&listed), Some("https://a.example")).as_deref(), Some("https://a.example"));
        assert_eq!([told(Some(&listed), Some("https://b.example")), told(Some(&listed), None)], [None, None]);
        let [a, b] = ["https://a.example", "https://b.example"].map(HeaderValue::from_static);
        assert!(may_talk(None, Some(&b)) && may_talk(Some(&listed), None) && may_talk(Some(&listed), Some(&a)));
        assert!(!may_talk(Some(&listed), Some(&b)));
    }
}
