//! Other tools' backups as restore points: plain etcd snapshot files, packed or not.

pub mod plain;
