//! `serve`: a member from its flags to its end.
//!
//! What can be wrong is found in the order in which it costs least: flags, certificates, sockets, and the directory last,
//! so that a start that fails has changed nothing. `dev` runs a member the same way, from flags of its own.

pub(crate) mod flags;
pub(crate) mod log_file;
mod notify;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::base::clock::Time;
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::stop::{Stop, blocking};
use crate::base::tls::{OwnFiles, ServerFiles, ServerTls};
use crate::cli::args::Absent;
use crate::cli::run::{Context, Ended};
use crate::cli::serve::flags::Flags;
use crate::cli::telemetry;
use crate::store::datadir::identity::Identity;
use crate::store::datadir::{Datadir, Places};
use crate::store::node::{Handle, Member, Paths, create};
use crate::store::options::file::FILE_BYTES_MAX;
use crate::store::options::given::{CONFIG_FILE, Sources, VARIABLE_PREFIX};
use crate::store::options::{Options, Tokens};
use crate::store::server::calls::Calls;
use crate::store::server::http::Pages;
use crate::store::server::listen::{Bound, Server, bind};
use crate::store::server::{joined, version, watch};

pub(crate) async fn serve(flags: Flags, context: &Context) -> Result<Ended> {
    if flags.version {
        context.output.write(&versions())?;
        return Ok(Ended::Well);
    }
    let options = Options::parse(&sources(flags.given)?)?;
    telemetry::start_member(&options.logs, context.clock)?;
    let told_to_stop = async {
        context.stop.stopped().await;
        Ok(())
    };
    Listening::take(options)?.run(told_to_stop, context).await?;
    Ok(Ended::Well)
}

/// A command of etcd that is not here, and what does its work.
pub(crate) fn absent(command: &str, args: &Absent) -> Error {
    let words = [OsString::from("holdfast"), command.into()];
    let line = words.iter().chain(&args.given).map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Error::new(Kind::Usage, format!("`{line}`: there is no {command} in Holdfast")).hint(
        "give clients all addresses, or put a plain TCP proxy before the members, as HAProxy or nginx (stream) are",
    )
}

/// A member whose ports are taken and whose directory was not touched yet.
pub(crate) struct Listening {
    options: Options,
    tls: Option<Arc<ServerTls>>,
    bound: Vec<Bound>,
}

impl Listening {
    /// Reads certificates and keys, and takes the ports.
    pub(crate) fn take(mut options: Options) -> Result<Self> {
        for warning in &options.warnings {
            tracing::warn!("{warning}");
        }
        let secure = options.clients.all().any(|address| address.scheme.is_secure());
        // Those that are made are made in the directory.
        let given = secure && options.own_tls.is_none();
        let tls = given.then(|| ServerTls::load(options.tls.clone())).transpose()?.map(Arc::new);
        if let Some(files) = &options.token_keys {
            let keys = files.load().map_err(|error| error.during("--auth-token"))?;
            options.tuning.tokens = Tokens::Signed(Arc::new(keys));
        }
        let bound = bind(&options.clients)?;
        Ok(Listening { options, tls, bound })
    }

    /// Runs the member. `work` begins when it serves, and the member stops when that ends; or it stops by itself, and
    /// then `work` is dropped where it stands.
    pub(crate) async fn run(mut self, work: impl Future<Output = Result<()>>, context: &Context) -> Result<()> {
        let options = self.options.clone();
        let (datadir, identity) = blocking(move || open(&options)).await?;
        if let Some(own) = self.options.own_tls.clone() {
            let (now, files) = (context.clock.now(), self.options.tls.clone());
            self.tls = Some(Arc::new(blocking(move || load_own(&own, files, now)).await?));
        }
        let member = member(&identity, &self.options);
        tracing::info!(
            name = member.name,
            cluster_id = format!("{:x}", member.cluster_id),
            member_id = format!("{:x}", member.member_id),
            lineage = identity.lineage.id.to_string(),
            data_dir = %datadir.root().display(),
            version = env!("CARGO_PKG_VERSION"),
            etcd_api = version::SERVER,
            "starting a member"
        );
        let handle = Handle::start(&paths(&datadir.places()), member, self.options.tuning.clone()).await?;
        let ready = prepare(&handle, &self.options, context).await;
        let ended = match ready {
            Ok(()) => self.serve(&handle, work, context).await,
            // Told to stop before it served, which is no fault.
            Err(error) if error.kind() == Kind::Interrupted => Ok(()),
            Err(error) => Err(error),
        };
        // Whatever ended it, its files are closed before another process may have them; its own reason comes first.
        handle.stop().await;
        let ended = handle.ended().await.and(ended);
        drop(datadir);
        ended
    }

    /// Serves until the work is done, or the member stops by itself.
    async fn serve(self, handle: &Handle, work: impl Future<Output = Result<()>>, context: &Context) -> Result<()> {
        let Listening { options, tls, bound } = self;
        // The server's own signal: it ends too when the member does.
        let ending = Stop::new();
        let (slow, unsent_bytes_max) = (options.connections.slow_request, handle.tuning().unsent_bytes_max);
        let calls = Arc::new(Calls::new(slow, unsent_bytes_max, ending.clone()));
        let watches = watch::Service::new(handle);
        let pages = Pages {
            handle: handle.clone(),
            counters: Arc::clone(handle.counters()),
            watches: Arc::clone(watches.counters()),
            calls: Arc::clone(&calls),
            checks: Arc::default(),
            features: options.features.clone(),
            extensive: options.extensive_metrics,
            started: context.clock.now(),
        };
        let server = Server {
            services: joined(handle, watches).await,
            pages,
            calls,
            tls: tls.clone(),
            connections: options.connections.clone(),
            hosts: options.clients.hosts.clone(),
            origins: options.clients.origins.clone(),
            gateway: options.clients.gateway,
            names_users: options.clients.names_users,
        };
        // Heard from now on: whoever rotates logs or renews certificates sends it, and means no harm.
        let mut hangup = signal(SignalKind::hangup()).during(|| "listen for signals".to_owned())?;
        let mut serving = tokio::spawn(server.serve(bound, ending.clone()));
        tell_addresses(&options);
        tracing::info!("ready to serve client requests");
        notify::tell("READY=1");
        let mut work = std::pin::pin!(work);
        let (worked, ended_early) = loop {
            tokio::select! {
                worked = &mut work => break (worked, None),
                () = handle.stopped() => break (Ok(()), None),
                served = &mut serving => break (Ok(()), Some(served)),
                _ = hangup.recv() => {
                    log_file::reopen();
                    // Files that changed are read; without this they are at the next handshake.
                    drop(tls.as_ref().map(|tls| tls.config()));
                    tracing::info!("the files of logs and certificates are opened again");
                }
            }
        };
        notify::tell("STOPPING=1");
        let (name, data_dir) = (&options.name, options.data_dir.display());
        tracing::info!(name, "data-dir" = %data_dir, "closing etcd server");
        ending.stop();
        let served = match ended_early {
            Some(served) => served,
            None => serving.await,
        };
        let served = served.map_err(|error| {
            Error::new(Kind::Failed, "the server ended by itself")
                .source(error)
                .hint("this is a fault of Holdfast: please report it")
        });
        served??;
        tracing::info!(name, "data-dir" = %data_dir, "closed etcd server");
        worked
    }
}

/// Says where clients are served, in etcd's words, as on all of the way from here to the end.
fn tell_addresses(options: &Options) {
    const INSECURELY: &str = "serving client traffic insecurely; this is strongly discouraged!";
    let clients = &options.clients;
    for address in &clients.metrics {
        tracing::info!(address = address.text, "serving metrics");
    }
    for address in clients.grpc.iter().chain(&clients.http) {
        let place = address.text.split_once("://").map_or(&*address.text, |(_, place)| place);
        match address.scheme.is_secure() {
            true => tracing::info!(address = place, "serving client traffic securely"),
            false => tracing::info!(address = place, "{INSECURELY}"),
        }
    }
}

/// Makes certificates unless they are there, and reads them.
fn load_own(own: &OwnFiles, files: ServerFiles, now: Time) -> Result<ServerTls> {
    let folder = own.folder.display();
    if own.make(now)? {
        tracing::info!(hosts = own.hosts.join(","), years = own.years, "a certificate was made in {folder}");
    }
    ServerTls::load(files).map_err(|error| error.or_hint(format!("remove {folder}: the next start makes others")))
}

fn member(identity: &Identity, options: &Options) -> Member {
    Member {
        cluster_id: identity.cluster_id.0,
        member_id: identity.member_id.0,
        lineage: identity.lineage.id,
        name: options.name.clone(),
        peer_urls: identity.peer_urls.clone(),
        client_urls: options.advertised.clone(),
    }
}

fn paths(places: &Places) -> Paths {
    Paths { state: places.state.clone(), log: places.wal.clone() }
}

/// Does what is to be done before it serves.
async fn prepare(handle: &Handle, options: &Options, context: &Context) -> Result<()> {
    if options.scrub_at_start {
        handle.scrub(&context.stop).await.map_err(|error| error.during("read everything that is stored"))?;
        let id = format!("{:x}", handle.member().member_id);
        tracing::info!("local-member-id" = id, "initial corruption checking passed; no corruption");
    }
    context.stop.or(defragment(handle, options)).await
}

/// Defragments a state file that has more free room than the operator wants.
async fn defragment(handle: &Handle, options: &Options) -> Result<()> {
    let status = handle.status();
    let free = status.file_bytes.saturating_sub(status.used_bytes);
    match options.defragment_at {
        Some(at) if free >= at => handle.defragment().await,
        _ => Ok(()),
    }
}

/// Opens the directory; a new one becomes a member's.
fn open(options: &Options) -> Result<(Datadir, Identity)> {
    if !Datadir::holds_member(&options.data_dir) {
        options.birth.check(&options.name)?;
    }
    let (datadir, found) = Datadir::open(&options.data_dir, options.wal_dir.as_deref())?;
    if datadir.is_wide() {
        let path = datadir.root().display();
        tracing::warn!(
            "{path} can be entered by others than its owner, and holds every secret of the cluster; `chmod 700` it"
        );
    }
    if let Some(identity) = found {
        let born = &options.birth;
        let changed = Identity::first(&options.name, &born.token, &born.members).ok();
        if changed.is_some_and(|changed| changed.lineage.id != identity.lineage.id) {
            let id = identity.cluster_id;
            tracing::info!(
                "{} holds a member of cluster {id}: the initial-* flags count no more",
                datadir.root().display()
            );
        }
        return Ok((datadir, identity));
    }
    let identity = Identity::first(&options.name, &options.birth.token, &options.birth.members)?;
    let member = member(&identity, options);
    datadir.bootstrap(&identity, |places| create(&paths(places), &member, &options.tuning))?;
    tracing::info!(cluster_id = %identity.cluster_id, member_id = %identity.member_id, "a new cluster begins");
    Ok((datadir, identity))
}

/// What was said in the three places.
fn sources(flags: Vec<(String, String)>) -> Result<Sources> {
    // In order, so that messages are the same each time.
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .collect();
    let variables: Vec<(String, String)> = variables.into_iter().collect();
    let named = flags.iter().find(|(name, _)| name == CONFIG_FILE);
    let named = named.or_else(|| variables.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE"));
    let file = match named.map(|(_, path)| path.clone()).filter(|path| !path.is_empty()) {
        Some(path) => Some((path.clone(), read(&path)?)),
        None => None,
    };
    Ok(Sources { flags, variables, file })
}

fn read(path: &str) -> Result<String> {
    let during = || format!("read the configuration file {path}");
    let hint = |error: Error| error.kind_of(Kind::Usage).hint("correct the path, or put the file there");
    let file = std::fs::File::open(path).during(during).map_err(hint)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text).during(during).map_err(hint)?;
    Ok(text)
}

/// Versions as etcd prints them: tools read the first line.
fn versions() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (etcd, own) = (version::SERVER, env!("CARGO_PKG_VERSION"));
    format!(
        "etcd Version: {etcd}\nHoldfast Version: {own}\nGit SHA: none\nGo Version: none\nGo OS/Arch: linux/{arch}\n"
    )
}
