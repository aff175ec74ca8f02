//! The command line, as data: help texts, completions and manual pages all come from here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::agent::kind::Wanted;
use crate::base::units;
use crate::cli::bench::args::Bench;
use crate::cli::dev::Dev;
use crate::cli::member::{NewMember, SnapshotRestore};
use crate::cli::serve::flags::Flags;

/// Keeps a cluster's state alive through disasters.
#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    version,
    about = "Keeps a cluster's state alive through disasters: proved backups and restores for etcd",
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 data is damaged or does not verify, \
                  4 nothing suitable found, 5 done but a warning stands or an objective is missed.",
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// How to show results; json is a documented contract
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value = "table", help_heading = "Output")]
    pub(crate) output: Format,
    /// No progress, no remarks: results and errors only
    #[arg(short = 'q', long, global = true, help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Log what is being done to standard error; twice for more
    #[arg(short = 'v', long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub(crate) verbose: u8,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: one object with a version field
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a member: a store that speaks etcd's API, with etcd's flags
    #[command(
        after_help = "Every flag can be given as ETCD_NAME_OF_FLAG, or in the YAML of --config-file. Flags of etcd that are \
                            not shown are accepted; docs/configuration.md says why they have no effect.\n\nExamples:\n  \
                            holdfast serve --data-dir /var/lib/holdfast\n  holdfast serve --config-file /etc/etcd/etcd.yaml"
    )]
    Serve(Flags),
    /// Run a member and a backup of it each minute, in one directory, to try it
    #[command(after_help = "Examples:\n  holdfast dev\n  holdfast dev --dir /tmp/dev --every 10s")]
    Dev(Dev),
    /// Make one restore point now: copy, prove, publish
    #[command(after_help = "Example:\n  holdfast backup --policy /etc/holdfast/policies/prod.toml")]
    Backup(Backup),
    /// List the restore points of a cluster
    #[command(after_help = "Example:\n  holdfast list --repository file:///backups --cluster prod")]
    List(List),
    /// Show everything a restore point's manifest says
    #[command(after_help = "Example:\n  holdfast show latest --policy prod.toml")]
    Show(OnePoint),
    /// Verify restore points and store the verdict
    #[command(after_help = "Examples:\n  holdfast verify latest --policy prod.toml\n  \
                            holdfast verify --level 1 --policy prod.toml      (every point)")]
    Verify(Verify),
    /// Prove that the repository does what backups rely on, by trying it
    #[command(after_help = "Example:\n  holdfast check --policy prod.toml")]
    Check(Repository),
    /// Delete what retention does not keep: condemn it now, delete it in a later run
    #[command(after_help = "Examples:\n  holdfast prune --policy prod.toml --dry-run\n  \
                            holdfast prune --policy prod.toml --yes      (what the daily timer runs)")]
    Prune(Prune),
    /// Take a condemned point back while its data is there
    #[command(after_help = "Example:\n  holdfast undelete 3f2a91c0 --policy prod.toml")]
    Undelete(NamedPoint),
    /// Keep a point whatever retention says
    #[command(
        after_help = "Example:\n  holdfast hold latest --until 2027-01-31 --reason \"before the upgrade\" --policy prod.toml"
    )]
    Hold(Hold),
    /// End the hold on a point
    #[command(after_help = "Example:\n  holdfast release 3f2a91c0 --policy prod.toml")]
    Release(NamedPoint),
    /// Restore a point or a snapshot file; prints the plan first
    #[command(
        after_help = "Examples:\n  holdfast restore --point latest --policy prod.toml --etcd-snapshot /tmp/snapshot.db --dry-run\n  \
                            holdfast restore --point latest --policy prod.toml --data-dir /var/lib/holdfast --name m1 --initial-cluster m1=http://10.0.0.1:2380\n  \
                            holdfast restore --file old.db.gz --etcd-snapshot /tmp/snapshot.db --yes\n  \
                            zcat old.db.gz | holdfast restore --file - --etcd-snapshot /tmp/snapshot.db --yes"
    )]
    Restore(Restore),
    /// Write a restore point as an etcd snapshot file
    #[command(after_help = "Example:\n  holdfast export latest snapshot.db --policy prod.toml")]
    Export(Export),
    /// Take existing etcd snapshot files (.db, .db.gz, .zst) into the repository
    #[command(after_help = "Example:\n  holdfast import /backups/*.db.gz --policy prod.toml")]
    Import(Import),
    /// Rehearse a recovery on a real etcd, prove what it serves, measure it
    #[command(after_help = "Examples:\n  holdfast drill --policy prod.toml --report drill.html\n  \
                            holdfast drill --policy prod.toml --etcd /usr/bin/etcd --dry-run")]
    Drill(Drill),
    /// Become another program that ends with its parent
    #[command(hide = true, after_help = "Example:\n  holdfast leash 4711 /usr/bin/etcd --version")]
    Leash(Leash),
    /// etcd's proxy of TCP, which Holdfast does not have
    #[command(hide = true, disable_help_flag = true, after_help = "Example:\n  holdfast gateway start")]
    Gateway(Absent),
    /// etcd's proxy of gRPC, which Holdfast does not have
    #[command(hide = true, disable_help_flag = true, after_help = "Example:\n  holdfast grpc-proxy start")]
    GrpcProxy(Absent),
    /// Copy whole points into a second repository, checked on the way
    #[command(after_help = "Examples:\n  holdfast copy --policy prod.toml --to s3://second-bucket/etcd\n  \
                            holdfast copy --policy prod.toml --to file:///mnt/offsite --point latest\n  \
                            holdfast copy --policy prod.toml --to-policy prod-offsite.toml")]
    Copy(Copy),
    /// Work with etcd snapshot files, as etcdctl and etcdutl do
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Compute HashKV of a snapshot file, as etcdutl does
    #[command(after_help = "Example:\n  holdfast hashkv snapshot.db --rev 1200")]
    Hashkv(Hashkv),
    /// Look at the keys inside a restore point or a snapshot file
    #[command(subcommand)]
    Keys(Keys),
    /// Show what changed between two restore points or snapshot files
    #[command(
        after_help = "Examples:\n  holdfast diff latest~1 latest --policy prod.toml\n  holdfast diff monday.db tuesday.db"
    )]
    Diff(Diff),
    /// Work with policy files
    #[command(subcommand)]
    Policy(Policy),
    /// Make load on a cluster and measure it; writes into the cluster
    #[command(subcommand)]
    Bench(Bench),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  holdfast completions bash > /etc/bash_completion.d/holdfast")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a folder
    #[command(after_help = "Example:\n  holdfast man /usr/local/share/man/man1")]
    Man {
        /// Where to; it is created when missing
        folder: PathBuf,
    },
}

/// Which repository, and which cluster in it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Repository {
    /// The cluster's policy file
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "repository",
        env = "HOLDFAST_POLICY",
        help_heading = "Repository"
    )]
    pub(crate) policy: Option<PathBuf>,
    /// The repository's address: file:///folder, s3://bucket/folder, gs://bucket/folder
    #[arg(long, value_name = "URL", requires = "cluster", env = "HOLDFAST_REPOSITORY", help_heading = "Repository")]
    pub(crate) repository: Option<String>,
    /// The cluster's name in the repository
    #[arg(long, value_name = "NAME", env = "HOLDFAST_CLUSTER", help_heading = "Repository")]
    pub(crate) cluster: Option<String>,
    /// Keys that open encrypted data, as age-keygen writes them; instead of the policy's
    #[arg(long, value_name = "FILE", env = "HOLDFAST_IDENTITY", help_heading = "Repository")]
    pub(crate) identity: Option<PathBuf>,
    /// The passphrase that opens encrypted data, on the first line; instead of the policy's
    #[arg(long, value_name = "FILE", env = "HOLDFAST_PASSPHRASE_FILE", help_heading = "Repository")]
    pub(crate) passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

/// Whose restore points are used.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Trust {
    /// Use what this key signed, beside the policy's signers: the line that `openssl pkey -pubout` prints, or its file
    #[arg(long = "trust-key", value_name = "KEY|FILE", help_heading = "Repository")]
    pub(crate) trust_keys: Vec<String>,
    /// Use points that nobody trusted has signed
    #[arg(long, help_heading = "Repository")]
    pub(crate) allow_unsigned: bool,
}

/// `list`.
#[derive(Clone, Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) repository: Repository,
    /// Read the details of every point now, however many there are
    #[arg(long)]
    pub(crate) all: bool,
    /// Where details of points are kept between runs
    #[arg(long = "cache", value_name = "FOLDER", env = "HOLDFAST_CACHE")]
    pub(crate) cache: Option<PathBuf>,
}

/// Where spooled data may lie while a command runs.
#[derive(Clone, Debug, Args)]
pub(crate) struct Scratch {
    /// Folder for data that must be spooled; on a disk with room for one database file
    #[arg(long = "scratch", value_name = "FOLDER", default_value = "/var/tmp", env = "HOLDFAST_SCRATCH")]
    pub(crate) folder: PathBuf,
}

/// How long to wait for a member that has fallen silent.
#[derive(Clone, Debug, Args)]
pub(crate) struct Patience {
    /// Give up when a member sends nothing for this long (the whole may take as long as it takes)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    pub(crate) stall: Duration,
}

/// What monitoring is left.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Metrics {
    /// Write how the run went for node_exporter's textfile collector (a .prom file in its folder)
    #[arg(long = "metrics-file", value_name = "FILE", env = "HOLDFAST_METRICS_FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The cluster's policy file
    #[arg(long, value_name = "FILE", env = "HOLDFAST_POLICY")]
    pub(crate) policy: PathBuf,
    /// What to store
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) kind: Kind,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
}

/// What a backup stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// An increment where one can be made and no full one is due
    Auto,
    /// The whole state
    Full,
    /// What came after the point before; a full one, with a warning, where that cannot be told
    Incremental,
}

impl From<Kind> for Wanted {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Auto => Wanted::Auto,
            Kind::Full => Wanted::Full,
            Kind::Incremental => Wanted::Incremental,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct OnePoint {
    /// A point: its id or the first digits of it, latest, latest~1
    #[arg(value_name = "POINT", default_value = "latest")]
    pub(crate) point: String,
    #[command(flatten)]
    pub(crate) repository: Repository,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// The cluster's policy file
    #[arg(long, value_name = "FILE", env = "HOLDFAST_POLICY")]
    pub(crate) policy: PathBuf,
    /// Print what would be done and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// How long what is condemned can be taken back, by the store's clock
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = units::parse_duration)]
    pub(crate) grace: Duration,
    /// Data that no point lists is a leftover from this age on, by the store's clock; longer than any backup takes
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = units::parse_duration)]
    pub(crate) orphan_age: Duration,
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
}

#[derive(Debug, Args)]
pub(crate) struct NamedPoint {
    /// A point: its id or the first digits of it, latest, latest~1
    #[arg(value_name = "POINT")]
    pub(crate) point: String,
    #[command(flatten)]
    pub(crate) repository: Repository,
}

#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// A point: its id or the first digits of it, latest, latest~1
    #[arg(value_name = "POINT")]
    pub(crate) point: String,
    /// Until the end of this day (UTC), or this moment; otherwise until it is released
    #[arg(long, value_name = "DATE")]
    pub(crate) until: Option<String>,
    /// Why, for whoever finds it held
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) repository: Repository,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyPlan {
    /// The policy file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Stored size of a full point, in MiB; `holdfast list` shows yours
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) full_mib: u64,
    /// What an incremental point adds, in MiB
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) incremental_mib: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A point: its id or the first digits of it, latest, latest~1; without one, every point
    #[arg(value_name = "POINT")]
    pub(crate) point: Option<String>,
    /// How deep: 1 objects are there, 2 every byte is right, 3 the records prove the manifest's digests. When not said, what
    /// the policy's [schedule] verify says, or else 3
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub(crate) level: Option<u8>,
    #[command(flatten)]
    pub(crate) repository: Repository,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The point to restore: its id or the first digits of it, latest, latest~1
    #[arg(long, value_name = "POINT", conflicts_with = "file")]
    pub(crate) point: Option<String>,
    /// A snapshot file to restore instead (.db, .db.gz, .zst), or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) repository: Repository,
    /// Write an etcd snapshot file here, for etcdutl to make member directories from; or else say --data-dir
    #[arg(long, value_name = "FILE", required_unless_present = "data_dir", conflicts_with = "data_dir")]
    pub(crate) etcd_snapshot: Option<PathBuf>,
    /// The members of the new cluster, as etcd takes them; with --etcd-snapshot those of the old one otherwise
    #[arg(long, value_name = "NAME=URL,...")]
    pub(crate) initial_cluster: Option<String>,
    /// The new cluster's token; a new one is made otherwise
    #[arg(long, value_name = "TOKEN")]
    pub(crate) initial_cluster_token: Option<String>,
    /// Raise revisions: none, auto, or by how many; auto with --data-dir, none with --etcd-snapshot, where the printed etcdutl commands do it
    #[arg(long, value_name = "none|auto|N")]
    pub(crate) bump: Option<String>,
    #[command(flatten)]
    pub(crate) member: NewMember,
    /// Print the plan and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A point: its id or the first digits of it, latest, latest~1
    #[arg(value_name = "POINT")]
    pub(crate) point: String,
    /// The etcd snapshot file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) repository: Repository,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Snapshot files (.db, .db.gz, .zst), or - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) repository: Repository,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
}

#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// The cluster's policy file
    #[arg(long, value_name = "FILE", env = "HOLDFAST_POLICY")]
    pub(crate) policy: PathBuf,
    /// The point: its id or the first digits of it, latest (the default), latest~1
    #[arg(long, value_name = "POINT")]
    pub(crate) point: Option<String>,
    /// The etcd to boot; [drill] etcd of the policy otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd: Option<PathBuf>,
    /// Its etcdutl (etcdctl before 3.5); the one beside etcd otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) etcdutl: Option<PathBuf>,
    /// Also write the report as a page; the file must not be there yet
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Print the plan and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
}

/// Whatever is given to a command that is not there.
#[derive(Debug, Args)]
pub(crate) struct Absent {
    /// As etcd takes it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) given: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Leash {
    /// The process to end with
    pub(crate) parent: u32,
    /// The program
    pub(crate) program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Copy {
    #[command(flatten)]
    pub(crate) repository: Repository,
    /// The second repository's address; it is made when nothing is there
    #[arg(long, value_name = "URL", required_unless_present = "to_policy")]
    pub(crate) to: Option<String>,
    /// A policy whose [repository] is the second one, with its endpoint, region and credentials; for the same cluster
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    pub(crate) to_policy: Option<PathBuf>,
    /// One point: its id or the first digits of it, latest, latest~1
    #[arg(long, value_name = "POINT", conflicts_with = "all")]
    pub(crate) point: Option<String>,
    /// Every point, which is also what happens when nothing is said
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Save a snapshot of a live etcd, verified as it arrives
    #[command(
        after_help = "Example:\n  holdfast snapshot save snapshot.db --endpoints https://10.0.0.1:2379 --cacert ca.crt --cert c.crt --key c.key"
    )]
    Save(SnapshotSave),
    /// Show hash, revision, keys and size of a snapshot file, and check its SHA-256
    #[command(after_help = "Example:\n  holdfast snapshot status snapshot.db -o json")]
    Status(SnapshotStatus),
    /// Make a new Holdfast member's directory from a snapshot file
    #[command(
        after_help = "Example:\n  holdfast snapshot restore snapshot.db --data-dir /var/lib/holdfast --name m1 --initial-cluster m1=http://10.0.0.1:2380"
    )]
    Restore(Box<SnapshotRestore>),
}

/// How to reach a cluster without a policy: etcdctl's flags and variables.
#[derive(Clone, Debug, Args)]
pub(crate) struct Endpoints {
    /// Addresses of the members
    #[arg(
        long,
        value_name = "URL,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        env = "ETCDCTL_ENDPOINTS"
    )]
    pub(crate) endpoints: Vec<String>,
    /// Certificate authority of the servers, PEM
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CACERT")]
    pub(crate) cacert: Option<PathBuf>,
    /// Client certificate, PEM
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CERT")]
    pub(crate) cert: Option<PathBuf>,
    /// Private key of the client certificate, PEM
    #[arg(long, value_name = "FILE", env = "ETCDCTL_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// User name, when the cluster has authentication on
    #[arg(long, value_name = "NAME", env = "ETCDCTL_USER", requires = "password_file")]
    pub(crate) user: Option<String>,
    /// File that holds the user's password
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotSave {
    /// The file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) endpoints: Endpoints,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotStatus {
    /// A snapshot file (.db, .db.gz, .zst), member/snap/db of a stopped etcd, or - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
}

#[derive(Debug, Args)]
pub(crate) struct Hashkv {
    /// A snapshot file (.db, .db.gz, .zst), member/snap/db of a stopped etcd, or - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Hash the history up to this revision; 0 for all
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) rev: i64,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List keys, or count Kubernetes objects by kind
    #[command(after_help = "Examples:\n  holdfast keys ls /registry/pods/ --point latest --policy prod.toml\n  \
                            holdfast keys ls --by-kind --file snapshot.db")]
    Ls(KeysLs),
    /// Print the value of one key as it is
    #[command(
        after_help = "Example:\n  holdfast keys get /registry/configmaps/default/app --point latest --policy prod.toml > app.bin"
    )]
    Get(KeysGet),
}

/// A restore point or a snapshot file.
#[derive(Clone, Debug, Args)]
pub(crate) struct Inside {
    /// The point: its id or the first digits of it, latest, latest~1 (the default)
    #[arg(long, value_name = "POINT", conflicts_with = "file")]
    pub(crate) point: Option<String>,
    /// A snapshot file instead (.db, .db.gz, .zst), or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) repository: Repository,
    /// The state at this revision instead of the newest; not before the compaction
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) revision: Option<i64>,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
}

#[derive(Debug, Args)]
pub(crate) struct KeysLs {
    /// Keys that start so; all of them otherwise
    #[arg(value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: String,
    /// Count Kubernetes objects by kind instead
    #[arg(long)]
    pub(crate) by_kind: bool,
    /// The first N keys in order, not all of them
    #[arg(long, value_name = "N", conflicts_with = "by_kind")]
    pub(crate) limit: Option<usize>,
    #[command(flatten)]
    pub(crate) inside: Inside,
}

#[derive(Debug, Args)]
pub(crate) struct KeysGet {
    /// The key
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) inside: Inside,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The older state: a point, or a snapshot file (a path with a / or an ending)
    #[arg(value_name = "A")]
    pub(crate) left: String,
    /// The newer state
    #[arg(value_name = "B")]
    pub(crate) right: String,
    #[command(flatten)]
    pub(crate) repository: Repository,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Validate a policy file and say what it means
    #[command(after_help = "Example:\n  holdfast policy check /etc/holdfast/policies/prod.toml")]
    Check {
        /// The policy file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Simulate a year of a policy: which points are kept, why, until when, and the monthly cost
    #[command(after_help = "Example:\n  holdfast policy plan /etc/holdfast/policies/prod.toml --full-mib 120")]
    Plan(PolicyPlan),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            if command.get_subcommands().next().is_some() {
                command.get_subcommands().for_each(check);
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("holdfast "), "{} shows no example", command.get_name());
            }
        }
        Cli::command().get_subcommands().for_each(check);
    }
}
