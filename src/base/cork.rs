//! A stream on which small writes wait for what follows them.
//!
//! An HTTP/2 library writes every frame whose payload it would rather not copy by itself, from a few hundred bytes on when
//! the stream can take several pieces at once: one system call and one packet for each request of that size. Told that it
//! cannot, the library gathers what is small in its own buffer, and parts what is large in two writes, of which the first
//! is short. That one is held here until the second comes, or a flush.
//!
//! Invariants:
//! - Bytes leave in the order in which they were written.
//! - After a flush nothing is held.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::base::layer::{Layer, Layered};

/// A write of at most so many bytes waits for the next one.
const HELD_BYTES_MAX: usize = 2048;

/// A stream whose small writes wait.
pub type Corked<S> = Layered<S, Cork>;

/// What waits.
#[derive(Debug, Default)]
pub struct Cork {
    held: Vec<u8>,
    /// So much of what is held has been written.
    at: usize,
}

/// Around a stream.
pub fn corked<S>(stream: S) -> Corked<S> {
    Layered { stream, layer: Cork::default() }
}

impl Cork {
    /// Writes what is held, and more behind it; how much of that.
    fn poll_pour<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
        more: &[u8],
    ) -> Poll<Result<usize>> {
        while self.at < self.held.len() {
            let held = &self.held[self.at..];
            let pieces = [IoSlice::new(held), IoSlice::new(more)];
            let n = ready!(stream.as_mut().poll_write_vectored(context, &pieces))?;
            if n == 0 {
                return Poll::Ready(Err(Error::from(ErrorKind::WriteZero)));
            }
            if let Some(n) = n.checked_sub(held.len()) {
                self.held.clear();
                self.at = 0;
                if n > 0 {
                    return Poll::Ready(Ok(n));
                }
            } else {
                self.at += n;
            }
        }
        if more.is_empty() {
            return Poll::Ready(Ok(0));
        }
        stream.poll_write(context, more)
    }
}

impl<S: AsyncWrite> Layer<S> for Cork {
    fn poll_write(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.held.is_empty() && bytes.len() <= HELD_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_pour(stream, context, bytes)
    }

    /// Whoever writes several pieces hands the first one over.
    fn poll_write_vectored(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let first = pieces.iter().find(|piece| !piece.is_empty()).map_or(&[][..], |piece| piece);
        self.poll_write(stream, context, first)
    }

    fn is_write_vectored(&self, _: &S) -> bool {
        false
    }

    fn poll_flush(&mut self, mut stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_pour(stream.as_mut(), context, &[]))?;
        stream.poll_flush(context)
    }

    fn poll_shutdown(&mut self, mut stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_pour(stream.as_mut(), context, &[]))?;
        stream.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt as _;

    /// Takes a few bytes at a time, and sometimes none for now; counts what it is called.
    struct Slow {
        rng: Seeded,
        taken: Vec<u8>,
        calls: usize,
        refuses: bool,
        at_most: u64,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
            if self.refuses && self.rng.below(3) == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let most = self.at_most;
            let n = bytes.len().min(usize::try_from(1 + self.rng.below(most)).unwrap());
            self.calls += 1;
            self.taken.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            self.poll_write(context, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn slow(seed: u64, refuses: bool, at_most: u64) -> Corked<Slow> {
        corked(Slow { rng: Seeded::new(seed), taken: vec![], calls: 0, refuses, at_most })
    }

    #[tokio::test]
    async fn a_short_write_leaves_with_the_long_one_behind_it() {
        let mut corked = slow(1, false, u64::from(u32::MAX));
        assert!(!corked.is_write_vectored());
        corked.write_all(&[1; 1000]).await.unwrap();
        assert_eq!(corked.stream.calls, 0);
        corked.write_all(&[2; 15_000]).await.unwrap();
        corked.flush().await.unwrap();
        assert!(corked.stream.taken.iter().eq([1; 1000].iter().chain(&[2; 15_000])));
        let calls = corked.stream.calls;
        corked.write_all(&[3; 10]).await.unwrap();
        assert_eq!((corked.stream.calls, calls < 10), (calls, true));
        corked.shutdown().await.unwrap();
        assert_eq!(corked.stream.taken.len(), 16_010);
    }

    #[tokio::test]
    async fn bytes_leave_in_their_order_whatever_the_stream_takes() {
        for seed in 0..200 {
            let (mut rng, mut corked, mut written) = (Seeded::new(seed), slow(seed, true, 3000), vec![]);
            for n in 0..rng.below(40) {
                let length = if rng.below(2) == 0 { rng.below(64) } else { rng.below(9000) };
                let piece = vec![u8::try_from(n).unwrap(); usize::try_from(length).unwrap()];
                corked.write_all(&piece).await.unwrap();
                written.extend(piece);
                if rng.below(3) == 0 {
                    corked.flush().await.unwrap();
                    assert!(corked.stream.taken == written, "seed {seed}");
                }
            }
            corked.flush().await.unwrap();
            assert!(corked.stream.taken == written, "seed {seed}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_is_an_error() {
        let mut corked = corked(tokio::io::duplex(16).0);
        corked.write_all(&[1; 10]).await.unwrap();
        assert!(poll_fn(|context| Pin::new(&mut corked).poll_flush(context)).await.is_err());
    }
}
