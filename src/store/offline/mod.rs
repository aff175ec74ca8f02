//! The one door to a member that does not run: under its directory's lock, and only here.

pub mod install;
mod load;
