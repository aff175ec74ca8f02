//! `dev`: one member and backups of it, in one directory, in one process: what there is to try, and to develop against.
//!
//! The member is the one of `serve`, the points are those of `backup`: made over the network, as anybody would make them.
//!
//! Invariants:
//! - A backup that fails is said and tried again; it never stops the member.
//! - A start that fails has changed nothing: ports are taken first, the directory is opened then, and the policy is
//!   written when the member serves.

mod prune;
mod site;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::backup::Done;
use crate::agent::kind::Wanted;
use crate::agent::report::Facts;
use crate::base::clock::{Stopwatch, rfc3339};
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::units;
use crate::cli::args::Metrics;
use crate::cli::backup::{Way, limits, point, show};
use crate::cli::dev::site::{Site, is_private};
use crate::cli::output::facts;
use crate::cli::points::{comparison_text, id_of};
use crate::cli::run::{Context, Ended};
use crate::cli::serve::Listening;
use crate::cli::tell::Told;
use crate::recovery::plan::quote;
use crate::store::options::Options;
use crate::store::options::given::Sources;
use crate::store::options::value::{Address, Scheme};

/// Where it listens when nobody says: where clients of etcd look.
const URL: &str = "http://127.0.0.1:2379";
/// So many ports after that one are tried.
const PORTS_MAX: u16 = 100;
/// After the first backup, and then after so many, what is superfluous goes.
const BACKUPS_PER_PRUNE: u64 = 30;
/// Backups are no closer than this.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Give up a backup when the member sends nothing for so long.
const STALL: Duration = Duration::from_secs(30);
/// So far from the member's port is the one that is suggested for a restored member.
const PORT_STEP: u16 = 1000;

/// `dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// The directory of all of it: member, repository and policy; made when there is none
    #[arg(long, value_name = "DIR", default_value = "holdfast-dev")]
    pub(crate) dir: PathBuf,
    /// Where clients are served, over plain HTTP [default: where the policy has it; http://127.0.0.1:2379, or the next free port]
    #[arg(long, value_name = "URL")]
    pub(crate) listen_client_url: Option<String>,
    /// A backup in each span of this length
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = every)]
    pub(crate) every: Duration,
}

fn every(text: &str) -> Result<Duration> {
    let every = units::parse_duration(text)?;
    if every < EVERY_MIN {
        return Err(Error::new(Kind::Usage, "less than a second").hint("give a second or more, as in --every 10s"));
    }
    Ok(every)
}

pub(crate) async fn dev(args: Dev, context: &Context) -> Result<Ended> {
    let site = Site::of(&args.dir)?;
    let known = site.policy()?.map(|(_, address)| address);
    let (listening, address) = listen(&site, args.listen_client_url.as_deref(), known, context)?;
    site.policy_at(&reached(&address))?;
    site.make()?;
    let run = Run { here: reached(&address), site, every: args.every };
    listening.run(run.work(context), context).await?;
    context.output.remark(&format!("stopped; the same command goes on with {}", run.site.named().display()));
    Ok(Ended::Well)
}

/// Takes a port: the one that was asked for, or the policy's, or the usual one; unless it was asked for, the next free one
/// will do.
fn listen(site: &Site, given: Option<&str>, known: Option<Address>, context: &Context) -> Result<(Listening, Address)> {
    let wanted = match (given, known) {
        (Some(text), _) => asked_for(text)?,
        (None, Some(address)) => address,
        (None, None) => Address::parse(URL).expect("it is one"),
    };
    let ports = if given.is_some() { 0 } else { PORTS_MAX };
    let mut address = wanted.clone();
    loop {
        match Listening::take(options(site, &address)?) {
            Ok(listening) => {
                if address.port != wanted.port {
                    let (taken, url) = (wanted.port, &address.text);
                    context.output.remark(&format!("port {taken} is in use: clients are served at {url} instead"));
                }
                return Ok((listening, address));
            }
            Err(error) if error.kind() == Kind::Conflict && address.port - wanted.port < ports => {
                let Some(port) = address.port.checked_add(1) else { return Err(error) };
                address = at_port(&address, port);
            }
            Err(error) => return Err(error),
        }
    }
}

/// An address that was asked for.
fn asked_for(text: &str) -> Result<Address> {
    let wrong = |what: &str| {
        let hint = "write it as http://127.0.0.1:2379; `holdfast serve` takes certificates and everything else";
        Err(Error::new(Kind::Usage, format!("--listen-client-url: {text} {what}")).hint(hint))
    };
    let address = Address::parse(text).map_err(|error| error.during("--listen-client-url"))?;
    match &address {
        Address { scheme: Scheme::Unix | Scheme::Unixs, .. } => wrong("is a Unix socket, which backups do not read"),
        Address { scheme: Scheme::Https, .. } => wrong("needs a certificate, and `dev` has none"),
        Address { port: 0, .. } => wrong("names no port"),
        _ if !address.is_local() => wrong("is no IP address to listen at"),
        _ => Ok(address),
    }
}

/// A host as a URL has it.
fn host(address: &Address) -> String {
    if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() }
}

fn at_port(address: &Address, port: u16) -> Address {
    Address { text: format!("http://{}:{port}", host(address)), port, ..address.clone() }
}

/// Where a member that listens there is reached from this machine.
fn reached(address: &Address) -> Address {
    let every = address.host.is_empty() || address.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if !every {
        return address.clone();
    }
    let host = "127.0.0.1".to_owned();
    Address { text: format!("http://{host}:{}", address.port), host, ..address.clone() }
}

/// The member's options: those of `serve` without flags, but for where it is. Variables for etcd are meant for another one.
fn options(site: &Site, address: &Address) -> Result<Options> {
    let flags = [("listen-client-urls", address.text.clone()), ("advertise-client-urls", reached(address).text)];
    let flags = flags.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let options = Options::parse(&Sources { flags, ..Sources::default() })?;
    // Not as a flag: a path need not be text.
    let mut warnings = options.warnings.clone();
    if !is_private(address) {
        let url = &address.text;
        warnings.push(format!("{url} is open to whoever reaches this machine: there is neither TLS nor a login"));
    }
    Ok(Options { data_dir: site.data(), warnings, ..options })
}

/// A member that serves, and how it is backed up.
struct Run {
    site: Site,
    /// Where it is reached.
    here: Address,
    every: Duration,
}

impl Run {
    /// Backups until the signal to stop.
    async fn work(&self, context: &Context) -> Result<()> {
        if self.site.policy_at(&self.here)?.is_none() {
            self.site.write_policy(&self.here.text)?;
        }
        self.announce(context)?;
        // A terminal that is closed sends it: nobody is left to stop this otherwise.
        let mut hangup = signal(SignalKind::hangup()).during(|| "listen for signals".to_owned())?;
        let stop = context.stop.clone();
        tokio::spawn(async move {
            hangup.recv().await;
            stop.stop();
        });
        for made in 0_u64.. {
            if context.stop.is_stopped() {
                break;
            }
            let begun = Stopwatch::start();
            self.backup(context).await;
            if made % BACKUPS_PER_PRUNE == 0 {
                self.prune(context).await;
            }
            tokio::select! {
                () = context.stop.stopped() => {}
                () = tokio::time::sleep(self.every.saturating_sub(begun.elapsed())) => {}
            }
        }
        Ok(())
    }

    /// Makes one point and tells of it, or why there is none.
    async fn backup(&self, context: &Context) {
        let told = Told::begin("backup", Some(&self.site.policy_file()), &Metrics::default());
        let mut facts = Facts::default();
        let made = self.point(&mut facts, context).await;
        if context.stop.is_stopped() && made.as_ref().is_err_and(|error| error.kind() == Kind::Interrupted) {
            return;
        }
        match told.end(made, facts, context).await {
            Ok(_) => {}
            Err(error) if context.output.is_json() => context.output.fail(&error),
            Err(error) => {
                let every = span(self.every);
                let text = format!("no backup, tried again {every} after its begin: {}", error.as_warning());
                context.output.warn(&text);
            }
        }
    }

    async fn point(&self, told: &mut Facts, context: &Context) -> Result<Ended> {
        let Some((mut policy, _)) = self.site.policy_at(&self.here)? else {
            let file = self.site.policy_named();
            return Err(Error::new(Kind::NotFound, format!("the policy {} is gone", file.display()))
                .hint("put it back, or start `holdfast dev` again to have a new one"));
        };
        policy.cluster.endpoints = vec![self.here.text.clone()];
        let way = Way { kind: Wanted::Auto, stall: STALL, scratch: self.site.data(), limits: limits()? };
        let made = point(&policy, way, context).await?;
        // An empty store cannot be compared. It is how each begins, and the line says so: nothing to warn of.
        let done = Done { excused: made.excused || made.manifest.counts.live_keys == 0, ..made };
        show(&done, line, told, context)
    }

    /// What runs where, and what to try.
    fn announce(&self, context: &Context) -> Result<()> {
        #[derive(Serialize)]
        struct Shown<'a> {
            endpoint: &'a str,
            data_dir: PathBuf,
            cluster: &'a str,
            repository: &'a str,
            policy: PathBuf,
            every_s: f64,
        }
        let Some((policy, address)) = self.site.policy()? else { return Ok(()) };
        let shown = Shown {
            endpoint: &self.here.text,
            data_dir: self.site.data(),
            cluster: &policy.cluster.name,
            repository: &policy.repository.url,
            policy: self.site.policy_file(),
            every_s: self.every.as_secs_f64(),
        };
        let file = self.site.policy_named();
        context.output.show("dev", &shown, || {
            facts(&[
                ("clients", shown.endpoint.to_owned()),
                ("member", self.site.data().display().to_string()),
                ("backups", format!("now and each {}, into {}", span(self.every), shown.repository)),
                ("policy", file.display().to_string()),
            ])
        })?;
        if (&address.host, address.port) != (&self.here.host, self.here.port) {
            let (file, named, here) = (file.display(), &address.text, &self.here.text);
            context.output.warn(&format!(
                "{file} names {named}, and the member is at {here}: correct it for `holdfast backup`; backups from here go on"
            ));
        }
        context.output.remark(&self.suggestions());
        Ok(())
    }

    /// What to try next, to be copied into a shell.
    fn suggestions(&self) -> String {
        let program = std::env::args().next().map_or_else(|| "holdfast".to_owned(), |program| quote(&program));
        let policy = quote(&self.site.policy_named().display().to_string());
        let restored = quote(&self.site.named().join("restored").display().to_string());
        let port = self.here.port.checked_add(PORT_STEP).unwrap_or_else(|| self.here.port - PORT_STEP);
        let (here, there) = (&self.here.text, format!("http://127.0.0.1:{port}"));
        let urls = format!("--listen-client-urls {there} --advertise-client-urls {there}");
        let tries = facts(&[
            ("write", format!("etcdctl --endpoints {here} put greeting hello")),
            ("read", format!("etcdctl --endpoints {here} get greeting")),
            ("backups", format!("{program} list --policy {policy}")),
            ("in the last one", format!("{program} keys get greeting --policy {policy}")),
            ("restore it", format!("{program} restore --policy {policy} --point latest --data-dir {restored}")),
            ("and serve that", format!("{program} serve --data-dir {restored} {urls}")),
            ("rehearse it", format!("{program} drill --policy {policy}{}", etcd())),
        ]);
        format!("\nTry next, in another terminal:\n{tries}Ctrl-C stops it; the same command goes on from there.\n")
    }
}

/// The flag that names an etcd to boot in a drill, where one is at hand: without one a drill ends at the file.
fn etcd() -> String {
    let path = std::env::vars_os().find(|(name, _)| name == "PATH").map(|(_, path)| path).unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    let found = folders.find(|folder| ["etcd", "etcdutl"].iter().all(|program| folder.join(program).is_file()));
    found.map_or_else(String::new, |folder| format!(" --etcd {}", quote(&folder.join("etcd").display().to_string())))
}

/// A span as it is given to a flag.
fn span(span: Duration) -> String {
    match (span.as_secs(), span.subsec_millis()) {
        (s, 0) if s % 3600 == 0 => format!("{}h", s / 3600),
        (s, 0) if s % 60 == 0 => format!("{}m", s / 60),
        (s, 0) => format!("{s}s"),
        _ => format!("{}ms", span.as_millis()),
    }
}

/// A point in one line.
fn line(done: &Done, duration_s: f64) -> String {
    let manifest = &done.manifest;
    let (time, id) = (rfc3339(manifest.started), id_of(&done.name));
    let (kind, revision) = (manifest.kind, manifest.descriptor.revision);
    let (keys, stored) = (units::count(manifest.counts.live_keys), units::bytes(done.stats.stored_bytes));
    let compared = comparison_text(manifest);
    format!("{time}  {id}  {kind}  revision {revision}, keys {keys}, {stored} stored, {compared}, {duration_s:.1} s\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_reached_where_it_listens() {
        for (listens, at, private) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379", true),
            ("http://localhost:2379", "http://localhost:2379", true),
            ("http://[::1]:2379", "http://[::1]:2379", true),
            ("http://0.0.0.0:2379", "http://127.0.0.1:2379", false),
            ("http://[::]:2379", "http://127.0.0.1:2379", false),
            ("http://:2379", "http://127.0.0.1:2379", false),
            ("http://10.0.0.1:2379", "http://10.0.0.1:2379", false),
        ] {
            let address = asked_for(listens).unwrap();
            assert_eq!((reached(&address).text.as_str(), is_private(&address)), (at, private));
        }
        let next = at_port(&asked_for("http://[::1]:2379").unwrap(), 2380);
        assert_eq!((next.text.as_str(), next.port), ("http://[::1]:2380", 2380));
    }

    #[test]
    fn addresses_that_cannot_be_served_are_refused_with_what_to_write() {
        for text in ["https://127.0.0.1:2379", "http://127.0.0.1:0", "http://etcd.example:2379", "2379", "unix:///s"] {
            let error = asked_for(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{text}");
            assert!(error.chain().starts_with("--listen-client-url") && error.hint_text().is_some(), "{error}");
        }
    }

    #[test]
    fn backups_are_a_second_apart_at_least() {
        assert_eq!(every("1s").unwrap(), EVERY_MIN);
        for text in ["1s", "90s", "1m", "2h", "1500ms"] {
            assert_eq!(span(every(text).unwrap()), text);
        }
        assert!(every("999ms").is_err() && every("0s").is_err() && every("often").is_err());
    }
}
