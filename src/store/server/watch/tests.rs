//! Watches over real connections.
