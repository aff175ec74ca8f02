//! What the system can do for a connection, where the runtime has no setting for it.

use std::io::Result;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_user_timeout;

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
    use std::net::{TcpListener, TcpStream};

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
