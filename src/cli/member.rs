//! `restore --data-dir` and `snapshot restore`: a new Holdfast member's directory. Facts, plan, confirmation, execution, report.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::cli::args::{Restore, Scratch};
use crate::cli::restore::{Going, Source, carry_out, execute, gather, new_token, of_file, parse_bump, render_report};
use crate::cli::run::{Context, Ended};
use crate::recovery::birth::{Request, plan};
use crate::recovery::facts::{self, Member, Trust};
use crate::recovery::member::{Born, from_file, from_point};
use crate::recovery::plan::{Bump, parse_initial_cluster};
use crate::recovery::report::Report;
use crate::store::offline::install::Auth;
use crate::store::options::value::Address;

/// Where etcd's peers reach a member that was told nothing.
const PEER_URL: &str = "http://localhost:2380";

/// A member of Holdfast's own that is to be made, by etcd's flags.
#[derive(Clone, Debug, Args)]
pub(crate) struct NewMember {
    /// Make the directory of a new Holdfast member here
    #[arg(long, value_name = "DIR", help_heading = "New member")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Keep its log in another folder
    #[arg(long, value_name = "DIR", requires = "data_dir", help_heading = "New member")]
    pub(crate) wal_dir: Option<PathBuf>,
    /// What the member is called
    #[arg(long, value_name = "NAME", default_value = "default", help_heading = "New member")]
    pub(crate) name: String,
    /// Where its peers will reach it; what --initial-cluster says otherwise
    #[arg(long, value_name = "URL,...", value_delimiter = ',', help_heading = "New member")]
    pub(crate) initial_advertise_peer_urls: Option<Vec<String>>,
    /// Switch authentication off, where it was on: everybody who reaches the member is let in
    #[arg(long, help_heading = "New member")]
    pub(crate) auth_off: bool,
}

/// etcdutl's flags.
#[derive(Debug, Args)]
pub(crate) struct SnapshotRestore {
    /// A snapshot file (.db, .db.gz, .zst), member/snap/db of a stopped etcd, or - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where the new member's directory is made [default: NAME.holdfast]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Keep its log in another folder
    #[arg(long, value_name = "DIR")]
    pub(crate) wal_dir: Option<PathBuf>,
    /// What the member is called
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) name: String,
    /// The members of the new cluster
    #[arg(long, value_name = "NAME=URL,...")]
    pub(crate) initial_cluster: Option<String>,
    /// The new cluster's token
    #[arg(long, value_name = "TOKEN", default_value = "etcd-cluster")]
    pub(crate) initial_cluster_token: String,
    /// Where the member's peers will reach it
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    pub(crate) initial_advertise_peer_urls: Option<Vec<String>>,
    /// Take a file without a SHA-256 behind it, as member/snap/db is
    #[arg(long)]
    pub(crate) skip_hash_check: bool,
    /// Raise revisions by so many; without it they are raised by enough for most clusters
    #[arg(long, value_name = "N", requires = "mark_compacted", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) bump_revision: Option<u32>,
    /// Mark what was before as compacted, which is always done when revisions are raised
    #[arg(long)]
    pub(crate) mark_compacted: bool,
    /// Switch authentication off, where it was on: everybody who reaches the member is let in
    #[arg(long)]
    pub(crate) auth_off: bool,
    #[command(flatten)]
    pub(crate) scratch: Scratch,
}

/// How it is done.
struct Way {
    bump: Bump,
    auth: Auth,
    token: String,
    dry_run: bool,
    yes: bool,
}

pub(crate) async fn restore(args: &Restore, data_dir: &Path, context: &Context) -> Result<Ended> {
    let member = NewMember { data_dir: Some(data_dir.to_owned()), ..args.member.clone() }.resolved()?;
    let members = members(&member, args.initial_cluster.as_deref())?;
    let way = Way {
        bump: args.bump.as_deref().map_or(Ok(Bump::Auto), parse_bump)?,
        auth: if member.auth_off { Auth::Off } else { Auth::Keep },
        token: args.initial_cluster_token.clone().map_or_else(|| new_token(context.clock.now()), Ok)?,
        dry_run: args.dry_run,
        yes: args.yes,
    };
    let target = facts::directory(member.data_dir(), member.wal_dir.as_deref())?;
    let source = gather(args, target, context).await?;
    make(source, &member, members, way, context).await
}

pub(crate) async fn from_snapshot(args: SnapshotRestore, context: &Context) -> Result<Ended> {
    let data_dir = args.data_dir.unwrap_or_else(|| PathBuf::from(format!("{}.holdfast", args.name)));
    let member = NewMember {
        data_dir: Some(data_dir),
        wal_dir: args.wal_dir,
        name: args.name,
        initial_advertise_peer_urls: args.initial_advertise_peer_urls,
        auth_off: args.auth_off,
    };
    let member = member.resolved()?;
    let members = members(&member, args.initial_cluster.as_deref())?;
    let way = Way {
        bump: args.bump_revision.map_or(Bump::Auto, |by| Bump::By(i64::from(by))),
        auth: if member.auth_off { Auth::Off } else { Auth::Keep },
        token: args.initial_cluster_token,
        dry_run: false,
        yes: true,
    };
    let target = facts::directory(member.data_dir(), member.wal_dir.as_deref())?;
    let source = of_file(&args.file, &args.scratch, target, context).await?;
    if source.facts.source.trust == Trust::Bare && !args.skip_hash_check {
        return Err(Error::new(Kind::Damaged, "the file has no SHA-256 behind it, or was cut short").hint(
            "if it was copied from member/snap/db of a stopped etcd, say --skip-hash-check; otherwise copy it again",
        ));
    }
    make(source, &member, members, way, context).await
}

impl NewMember {
    fn resolved(self) -> Result<Self> {
        if self.name.is_empty() {
            let error = Error::new(Kind::Usage, "--name: a member must be called something");
            return Err(error.hint("give --name, as in --name=m1"));
        }
        for url in self.initial_advertise_peer_urls.iter().flatten() {
            Address::parse(url).map_err(|error| error.during("--initial-advertise-peer-urls"))?;
        }
        let data_dir = self.data_dir.as_deref().map(facts::absolute).transpose()?;
        let wal_dir = self.wal_dir.as_deref().map(facts::absolute).transpose()?;
        Ok(NewMember { data_dir, wal_dir, ..self })
    }

    fn data_dir(&self) -> &Path {
        self.data_dir.as_deref().expect("whoever makes a member has said where")
    }
}

/// The members of the new cluster: what was said, or the member alone.
fn members(member: &NewMember, initial_cluster: Option<&str>) -> Result<Vec<Member>> {
    if let Some(text) = initial_cluster {
        return parse_initial_cluster(text);
    }
    let peer_urls = member.initial_advertise_peer_urls.clone().unwrap_or_else(|| vec![PEER_URL.to_owned()]);
    Ok(vec![Member { name: member.name.clone(), peer_urls }])
}

async fn make(source: Source, member: &NewMember, members: Vec<Member>, way: Way, context: &Context) -> Result<Ended> {
    let Source { origin, facts, id } = source;
    let request = request(member, members, &way, id);
    let (plan, birth) = plan(&facts, &request)?;
    let (born, progress, stop) = (birth.clone(), context.progress.clone(), context.stop.clone());
    let execute = execute(
        origin,
        async |repository, manifest| from_point(repository, manifest, &birth, &context.progress, &context.stop).await,
        move |source| from_file(source, &born, &progress, &stop),
    );
    let going = Going { document: "restore_member", dry_run: way.dry_run, yes: way.yes };
    let told = |report: &Report<Born>| {
        let mut text = format!("\n{}\n{}\n", render_report(rows(report), report), plan.next);
        plan.commands.iter().for_each(|command| text.push_str(&format!("  {command}\n")));
        text
    };
    carry_out(&plan, going, execute, told, context).await
}

fn request(member: &NewMember, members: Vec<Member>, way: &Way, source_id: String) -> Request {
    Request {
        data_dir: member.data_dir().to_owned(),
        wal_dir: member.wal_dir.clone(),
        name: member.name.clone(),
        members,
        peer_urls: member.initial_advertise_peer_urls.clone(),
        token: way.token.clone(),
        source_id,
        bump: way.bump,
        auth: way.auth,
    }
}

fn rows(report: &Report<Born>) -> Vec<(&'static str, String)> {
    let Born { data_dir, cluster_id, member_id, lineage, source_revision, leases } = &report.made;
    vec![
        ("directory", format!("{data_dir} (state {})", units::bytes(report.bytes))),
        ("cluster id", cluster_id.to_string()),
        ("member id", member_id.to_string()),
        ("lineage", lineage.to_string()),
        ("restored revision", source_revision.to_string()),
        ("leases", units::count(*leases)),
    ]
}
