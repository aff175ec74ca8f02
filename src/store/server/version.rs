//! Which etcd this server is to its clients. They switch features on by it, so it is etcd's number and not Holdfast's.

/// The release whose API is spoken.
pub const SERVER: &str = "3.6.14";
/// What the whole cluster speaks: the release without its patches.
pub const CLUSTER: &str = "3.6.0";
/// The same as metrics name it.
pub const CLUSTER_SHORT: &str = "3.6";
/// The layout of the snapshot files that are streamed.
pub const STORAGE: &str = "3.6.0";
