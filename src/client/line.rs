//! A bare connection to one member, for whoever makes load: calls go out as they are, none is asked twice or elsewhere.
//!
//! The rest of this layer asks questions and hides how. Load is what it hides: how many connections there are, which call
//! goes over which, and what each of them was answered. So a `Line` is handed out with tonic's face, to `bench` alone.

use tonic::Status;

use crate::base::error::{Error, Result};
use crate::client::channel::{Client, Link};
use crate::client::options::Endpoint;
use crate::client::status;

/// A connection that is there and signed in. Clones share it.
pub type Line = Link;

impl Client {
    /// This client's connection to the member at `endpoint`, made and signed in when it returns. A client has one to each
    /// of its members; whoever wants more makes more clients.
    pub async fn line(&self, endpoint: &Endpoint) -> Result<Line> {
        // A status is what any user may ask, and any member answers.
        self.member_status(endpoint).await?;
        let question = self.question("sign in");
        self.link(endpoint).await.map_err(|unanswered| unanswered.error(question, endpoint))
    }
}

/// What a status means, with what to do next.
pub fn refused(status: &Status) -> Error {
    status::reason(status)
}
