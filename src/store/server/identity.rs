//! Who asks.
//!
//! A request tells it by a token in its metadata (`token`, or `authorization` with or without `Bearer `), or by the
//! certificate of its connection, whose common name is a user's name where clients must show certificates. A token goes
//! before a certificate. While authentication is off nobody looks at either.
//!
//! The answer is a **requester**: a user's name and the revision of the rules at which it was made sure of. Whether that
//! user may do what it asks for is decided by the rules of the state that is read, or at which a change is applied.

use tonic::{Request, Status};

use crate::api::holdfast::v1::Requester;
use crate::base::clock::Clock;
use crate::store::auth::rules::Subject;
use crate::store::machine::state::State;
use crate::store::node::Handle;
use crate::store::options::Tokens;
use crate::store::server::peer;
use crate::store::server::status::Reason;

/// Where tokens stand; the first that is there counts.
const TOKENS: [&str; 2] = ["token", "authorization"];
/// May stand before a token.
const BEARER: &str = "Bearer ";
/// Put in by the JSON gateway, whose connection says nothing about who asks.
pub(super) const FROM_GATEWAY: &str = "grpcgateway-accept";

/// What a request says of who sent it; kept by streams, which ask again for each thing they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    token: Option<String>,
    common_name: Option<String>,
    /// Who it is, where that was made sure of already.
    user: Option<String>,
}

impl Claim {
    /// Of this request.
    pub fn of<T>(request: &Request<T>) -> Self {
        // A call that is made for another one is asked by whoever asks that.
        if let Some(claim) = request.extensions().get::<Claim>() {
            return claim.clone();
        }
        let metadata = request.metadata();
        let token = TOKENS.iter().find_map(|name| metadata.get(*name)).map(|value| {
            // What cannot be a token stands for nobody.
            let text = value.to_str().unwrap_or_default();
            text.strip_prefix(BEARER).unwrap_or(text).to_owned()
        });
        let common_name = if metadata.contains_key(FROM_GATEWAY) { None } else { peer::common_name() };
        Claim { token, common_name, user: None }
    }

    /// The same for a call that may wait for hours: who it is now it will be to its end, whatever becomes of the token.
    /// Nothing is settled where authentication is off, or the claim is no longer good.
    pub(super) fn settled(self, handle: &Handle) -> Self {
        let revision = handle.state().rules.revision();
        match self.requester(handle) {
            Ok(Some(requester)) if requester.revision >= revision => Claim { user: Some(requester.user), ..self },
            _ => self,
        }
    }

    /// Who that is; nobody while authentication is off, and where nothing is said.
    pub fn requester(&self, handle: &Handle) -> Result<Option<Requester>, Status> {
        let state = handle.state();
        if !state.rules.is_enabled() {
            return Ok(None);
        }
        let revision = state.rules.revision();
        if let Some(user) = self.user.clone() {
            return Ok(Some(Requester { user, revision }));
        }
        match &self.token {
            Some(token) => Ok(Some(bearer(handle, token, revision).ok_or(Reason::InvalidToken)?)),
            None => Ok(self.common_name.clone().map(|user| Requester { user, revision })),
        }
    }
}

/// Who a token stands for. A session stands for its user at the present revision of the rules, because it ends by itself when
/// the user is another; a signed token stands for one at the revision that it tells.
fn bearer(handle: &Handle, token: &str, revision: u64) -> Option<Requester> {
    match &handle.tuning().tokens {
        Tokens::Signed(keys) => {
            let claims = keys.read(token, Clock::System.now())?;
            Some(Requester { user: claims.username, revision: claims.revision })
        }
        Tokens::Simple | Tokens::None => Some(Requester { user: handle.session(token)?.user.to_string(), revision }),
    }
}

/// Who sent a request.
pub(super) fn requester<T>(handle: &Handle, request: &Request<T>) -> Result<Option<Requester>, Status> {
    // Most members have authentication off, and need not look.
    if handle.state().rules.is_enabled() { Claim::of(request).requester(handle) } else { Ok(None) }
}

/// What somebody may do in a state.
pub(super) fn subject<'a>(state: &'a State, requester: &'a Option<Requester>) -> Subject<'a> {
    let (user, revision) = requester.as_ref().map_or(("", 0), |requester| (&requester.user, requester.revision));
    state.rules.subject(user, revision)
}

/// Lets somebody through, whoever it is.
pub(super) fn somebody<T>(handle: &Handle, request: &Request<T>) -> Result<(), Status> {
    let requester = requester(handle, request)?;
    Ok(subject(&handle.state(), &requester).is_somebody()?)
}

/// Lets those through who administer.
pub(super) fn administrator<T>(handle: &Handle, request: &Request<T>) -> Result<(), Status> {
    let requester = requester(handle, request)?;
    Ok(subject(&handle.state(), &requester).administers()?)
}
