//! Telling systemd how far a service has come (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the socket on which systemd listens.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells it to whoever started this process, if they want to know.
#[expect(clippy::disallowed_methods, reason = "the environment is read in cli")]
pub(super) fn tell(state: &str) {
    let Some(name) = std::env::var_os(SOCKET_VARIABLE) else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!("tell systemd {state}: {error}");
    }
}
