//! gRPC's messages, counted as their bytes go by.
//!
//! A message is a byte that says whether it is compressed, its length in four bytes, the highest first, and so many bytes
//! (gRPC over HTTP/2, "Length-Prefixed-Message"). Pieces of a body are cut wherever it pleases whoever sends them.

const HEAD_BYTES: usize = 5;

/// Where in a body one is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the message that have not.
    rest: usize,
}

impl Frames {
    /// The next piece of the body; how many messages end in it.
    pub(super) fn pass(&mut self, mut piece: &[u8]) -> u64 {
        let mut ended = 0;
        while !piece.is_empty() {
            if self.have < HEAD_BYTES {
                let (head, after) = piece.split_at(piece.len().min(HEAD_BYTES - self.have));
                self.head[self.have..self.have + head.len()].copy_from_slice(head);
                self.have += head.len();
                piece = after;
                if self.have < HEAD_BYTES {
                    break;
                }
                let [_, length @ ..] = self.head;
                self.rest = u32::from_be_bytes(length) as usize;
            }
            let passed = piece.len().min(self.rest);
            piece = &piece[passed..];
            self.rest -= passed;
            if self.rest == 0 {
                self.have = 0;
                ended += 1;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let lengths = [0, 1, 5, 300, 0, 70_000, 2];
        let mut body = vec![];
        for length in lengths {
            body.push(0);
            body.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            body.resize(body.len() + length, 7);
        }
        for size in [1, 2, 3, 4, 5, 6, 7, 100, 4096, body.len()] {
            let mut frames = Frames::default();
            let ended: u64 = body.chunks(size).map(|piece| frames.pass(piece)).sum();
            assert_eq!(ended, lengths.len() as u64, "pieces of {size}");
        }
        // One that is broken off is none.
        let mut frames = Frames::default();
        assert_eq!(frames.pass(&body[..body.len() - 1]), 6);
        assert_eq!(frames.pass(&body[body.len() - 1..]), 1);
    }
}
