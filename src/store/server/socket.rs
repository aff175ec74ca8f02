//! Sockets that clients connect to: TCP, and files.
//!
//! A file that a killed member left is in the way of the next one. It is taken for a leftover when it is a socket at which
//! nobody listens; anything else is left alone.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::base::socket::listen_shared;
use crate::store::options::value::Address;

/// A socket that is bound. A file is gone with it.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a socket, which is removed in the end unless another one is in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // The next start does it otherwise.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds a socket to an address of this host, or to a file.
pub(super) fn bind(address: &Address, shares_port: bool) -> Result<Socket> {
    if address.scheme.is_unix() {
        return bind_file(Path::new(&address.host));
    }
    let bind = |ip: IpAddr| {
        let address = SocketAddr::from((ip, address.port));
        if shares_port { listen_shared(address) } else { TcpListener::bind(address) }
    };
    let socket = match address.host.as_str() {
        // Every address of the host, of both kinds where it has both.
        "" => bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into())),
        "localhost" => bind(Ipv4Addr::LOCALHOST.into()),
        host => bind(host.parse().map_err(|error| Error::new(ErrorKind::InvalidInput, error))?),
    }?;
    socket.set_nonblocking(true)?;
    Ok(Socket::Tcp(socket))
}

fn bind_file(path: &Path) -> Result<Socket> {
    let socket = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_over(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    let file = SocketFile { path: path.to_owned(), inode: inode(path)? };
    socket.set_nonblocking(true)?;
    Ok(Socket::Unix(socket, file))
}

/// Whether it is a socket at which nobody listens.
fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn inode(path: &Path) -> Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> Result<Socket> {
        bind(&Address::parse(&format!("unix://{}", path.display())).unwrap(), false)
    }

    #[test]
    fn a_file_that_nobody_listens_at_is_taken_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = file(&path).unwrap();
        assert_eq!(file(&path).unwrap_err().kind(), ErrorKind::AddrInUse, "somebody listens");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists(), "it is gone with its socket");
        // What a member leaves that is killed.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = file(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        // Another one in its place is not ours to remove.
        std::fs::remove_file(&path).unwrap();
        std::fs::File::create(&path).unwrap();
        drop(second);
        assert!(path.exists());
        assert_eq!(file(&path).unwrap_err().kind(), ErrorKind::AddrInUse, "no socket");
        assert!(file(&dir.path().join("nowhere/s")).is_err());
    }
}
