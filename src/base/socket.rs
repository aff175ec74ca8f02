//! What the system can do for a connection, where the runtime has no setting for it.

use std::io::Result;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport, set_tcp_user_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

/// Connections that wait to be taken; the system may allow fewer.
const BACKLOG: i32 = 1024;

/// Listens at an address that other processes of this user may listen at too, when they say so as well; the system gives
/// each connection to one of them.
pub fn listen_shared(address: SocketAddr) -> Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Ends a connection whose other end takes nothing of what was sent for so long. The system asks on otherwise, for as long
/// as the other end's system answers, though the program there be stopped.
pub fn cut_when_unread(socket: impl AsFd, limit: Duration) -> Result<()> {
    let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    Ok(set_tcp_user_timeout(socket, limit_ms)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write};
    use std::net::TcpStream;

    #[test]
    fn two_may_listen_at_one_address_when_both_say_so() {
        let first = listen_shared("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let second = listen_shared(address).unwrap();
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        let (taken, waiting) = std::sync::mpsc::channel();
        for listener in [first, second] {
            let taken = taken.clone();
            std::thread::spawn(move || taken.send(listener.accept().is_ok()));
        }
        let _client = TcpStream::connect(address).unwrap();
        assert!(waiting.recv().unwrap());
    }

    #[test]
    fn a_stream_that_nobody_reads_ends_by_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        cut_when_unread(&stream, Duration::from_millis(200)).unwrap();
        let ended = loop {
            if let Err(error) = stream.write_all(&[0; 65_536]) {
                break error;
            }
        };
        assert_eq!(ended.kind(), ErrorKind::TimedOut);
    }
}
