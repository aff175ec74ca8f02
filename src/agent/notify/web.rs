//! Calls to web addresses: a webhook, and the ping of a dead man's switch.
//!
//! Few tries, each with a limit of time, because whoever is called is less important than the run that ended. What is
//! refused (4xx) is not tried again: the address is wrong.
//!
//! Redirects are not followed: a report goes where the policy says, and nowhere else.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use url::Url;

use crate::base::backoff::Backoff;
use crate::base::clock::Stopwatch;
use crate::base::error::{Error, Kind, Result};
use crate::base::rng::Seeded;
use crate::base::tls::Tls;
use crate::policy::hooks::Address;

/// How long one try may take.
pub const CALL_TIME: Duration = Duration::from_secs(10);
/// How often one address is tried.
pub const CALL_TRIES_MAX: u32 = 3;

/// Waits between tries.
const WAIT_FIRST: Duration = Duration::from_millis(500);
const WAIT_LONGEST: Duration = Duration::from_secs(4);
const WAIT_TOTAL: Duration = Duration::from_secs(60);

/// The host of healthchecks.io that takes pings.
const HEALTHCHECKS_HOST: &str = "hc-ping.com";
/// The path under which a Healthchecks of one's own takes them.
const HEALTHCHECKS_PATH: &str = "/ping/";

/// Calls.
pub(super) struct Web {
    client: reqwest::Client,
}

/// What is sent.
enum Body<'a> {
    Json(&'a Value),
    Text(&'a str),
    Nothing,
}

impl Web {
    pub(super) fn new(limit: Duration) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(Tls::default().client_config()?)
            .timeout(limit)
            .redirect(reqwest::redirect::Policy::none())
            // A call or two: a connection that is kept may be closed just when the next call takes it.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| {
            Error::new(Kind::Failed, "prepare the calls of [hooks]")
                .source(error)
                .hint("check the proxy variables of the environment (HTTPS_PROXY, NO_PROXY)")
        })?;
        Ok(Web { client })
    }

    /// Posts JSON to the address of the field `name`.
    pub(super) async fn post(&self, name: &str, address: &Address, body: &Value) -> Result<()> {
        self.call(name, address.reveal(), Body::Json(body)).await
    }

    /// Says that all is well.
    pub(super) async fn ping(&self, address: &Address) -> Result<()> {
        self.call("ping_url", address.reveal(), Body::Nothing).await
    }

    /// Says that something failed, to a service that understands it; to others, silence says it.
    pub(super) async fn ping_failure(&self, address: &Address, why: &str) -> Result<()> {
        match failure_address(address.reveal()) {
            Some(failure) => self.call("ping_url", failure.as_str(), Body::Text(why)).await,
            None => Ok(()),
        }
    }

    async fn call(&self, name: &str, url: &str, body: Body<'_>) -> Result<()> {
        let watch = Stopwatch::start();
        let mut backoff = Backoff::new(WAIT_FIRST, WAIT_LONGEST, WAIT_TOTAL, Seeded::new(0));
        let mut tries = 0;
        loop {
            tries += 1;
            let request = match &body {
                Body::Json(value) => {
                    self.client.post(url).header(CONTENT_TYPE, "application/json").body(value.to_string())
                }
                Body::Text(text) => self.client.post(url).body((*text).to_owned()),
                Body::Nothing => self.client.get(url),
            };
            let (why, again) = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => refused(&response),
                Err(error) => (in_words(&error), true),
            };
            let wait = backoff.wait(watch.elapsed()).filter(|_| again && tries < CALL_TRIES_MAX);
            let Some(wait) = wait else {
                let times = if tries == 1 { "once".to_owned() } else { format!("{tries} times") };
                let what = format!("call the {name} of [hooks]: tried {times}: {why}");
                return Err(Error::new(Kind::Unavailable, what)
                    .hint(format!("check the address in the policy's {name}, and that this host may reach it")));
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// Why an answer is none, and whether another try may help.
fn refused(response: &Response) -> (String, bool) {
    let status = response.status();
    let again = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    (format!("the server answers {status}"), again)
}

/// The innermost cause; the outer ones repeat the address.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Where a failure is told, when the address follows the convention of healthchecks.io: `/fail` behind the path.
fn failure_address(address: &str) -> Option<Url> {
    let mut url = Url::parse(address).ok()?;
    let known = url.host_str() == Some(HEALTHCHECKS_HOST) || url.path().starts_with(HEALTHCHECKS_PATH);
    if !known {
        return None;
    }
    let path = format!("{}/fail", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_where_the_convention_is_known() {
        let told = |address| failure_address(address).map(|url| url.to_string());
        assert_eq!(told("https://hc-ping.com/some-id").unwrap(), "https://hc-ping.com/some-id/fail");
        assert_eq!(
            told("https://hc-ping.com/key/slug/?create=1").unwrap(),
            "https://hc-ping.com/key/slug/fail?create=1"
        );
        assert_eq!(told("https://checks.example:8000/ping/id").unwrap(), "https://checks.example:8000/ping/id/fail");
        assert_eq!(
            told("https://uptime.example/api/push/token?status=up"),
            None,
            "a call of any kind means well there"
        );
        assert_eq!(told("https://example/hc-ping.com/id"), None);
    }
}
