//! A stream around another one: a layer says what it does otherwise, everything else passes.
//!
//! Which layer it is is known when the program is compiled, so that what passes costs nothing.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is done otherwise with a stream. Each deed is tokio's of that name.
pub trait Layer<S> {
    /// Sees how each deed came out that is not done otherwise.
    fn seen<T>(&mut self, polled: Poll<Result<T>>) -> Poll<Result<T>> {
        polled
    }

    /// Reads.
    fn poll_read(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>>
    where
        S: AsyncRead,
    {
        self.seen(stream.poll_read(context, into))
    }

    /// Writes.
    fn poll_write(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>>
    where
        S: AsyncWrite,
    {
        self.seen(stream.poll_write(context, bytes))
    }

    /// Writes several pieces at once; whoever does not should say so.
    fn poll_write_vectored(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>>
    where
        S: AsyncWrite,
    {
        self.seen(stream.poll_write_vectored(context, pieces))
    }

    /// Whether several pieces are written at once.
    fn is_write_vectored(&self, stream: &S) -> bool
    where
        S: AsyncWrite,
    {
        stream.is_write_vectored()
    }

    /// Lets nothing wait that was written.
    fn poll_flush(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<Result<()>>
    where
        S: AsyncWrite,
    {
        self.seen(stream.poll_flush(context))
    }

    /// Ends what is written.
    fn poll_shutdown(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<Result<()>>
    where
        S: AsyncWrite,
    {
        self.seen(stream.poll_shutdown(context))
    }
}

/// A stream with a layer around it.
#[derive(Debug)]
pub struct Layered<S, L> {
    /// What is inside.
    pub stream: S,
    /// What is around it.
    pub layer: L,
}

impl<S: AsyncRead + Unpin, L: Layer<S> + Unpin> AsyncRead for Layered<S, L> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let Layered { stream, layer } = &mut *self;
        layer.poll_read(Pin::new(stream), context, into)
    }
}

impl<S: AsyncWrite + Unpin, L: Layer<S> + Unpin> AsyncWrite for Layered<S, L> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let Layered { stream, layer } = &mut *self;
        layer.poll_write(Pin::new(stream), context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let Layered { stream, layer } = &mut *self;
        layer.poll_write_vectored(Pin::new(stream), context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.layer.is_write_vectored(&self.stream)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Layered { stream, layer } = &mut *self;
        layer.poll_flush(Pin::new(stream), context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Layered { stream, layer } = &mut *self;
        layer.poll_shutdown(Pin::new(stream), context)
    }
}
