//! Replies that wait for their readers: so many bytes at a time.
//!
//! A client may ask for everything many times over and read nothing of it. Each reply is a piece of memory until it is on
//! its way; small ones do not count.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Smaller replies are not counted: the connection's own limits bound those.
const SMALL_BYTES: usize = 64 << 10;
/// What room is counted in.
const UNIT_BYTES: usize = 1 << 10;

/// The room for them.
#[derive(Debug)]
pub(super) struct Unsent {
    room: Arc<Semaphore>,
    units: u32,
}

/// A reply, and the room that it takes until nobody has it any more.
struct Held {
    data: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Unsent {
    /// Room for so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        let units = u32::try_from(bytes_max / UNIT_BYTES).unwrap_or(u32::MAX >> 3).clamp(1, u32::MAX >> 3);
        Unsent { room: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// The same bytes, counted until they are sent; none when there is no room for them. One reply that is larger than all
    /// the room may be there alone.
    pub(super) fn hold(&self, data: Bytes) -> Option<Bytes> {
        if data.len() <= SMALL_BYTES {
            return Some(data);
        }
        let units = u32::try_from(data.len() / UNIT_BYTES).unwrap_or(u32::MAX).min(self.units);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units).ok()?;
        Some(Bytes::from_owner(Held { data, _room: room }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_replies_share_the_room_until_they_are_gone() {
        let unsent = Unsent::new(300 << 10);
        let reply = |bytes: usize| Bytes::from(vec![7; bytes]);
        let (first, second) = (unsent.hold(reply(200 << 10)).unwrap(), unsent.hold(reply(100 << 10)).unwrap());
        assert_eq!((first.len(), first[1000]), (200 << 10, 7));
        assert!(unsent.hold(reply(SMALL_BYTES + UNIT_BYTES)).is_none());
        assert!(unsent.hold(reply(SMALL_BYTES)).is_some(), "small ones are not counted");
        // Parts of it are on their way still.
        let rest = second.slice(10..);
        drop((first, second));
        assert!(unsent.hold(reply(250 << 10)).is_none());
        drop(rest);
        let huge = unsent.hold(reply(900 << 10)).unwrap();
        assert!(unsent.hold(reply(100 << 10)).is_none());
        drop(huge);
        assert!(unsent.hold(reply(100 << 10)).is_some());
    }
}
