//! A bucket in this process: strict, small, and able to be wrong in exactly one way.
//!
//! It answers as the documents of Google's XML API and of S3 say, for the few requests a repository makes: create with a
//! condition, read, look, list by pages, delete. Where it could be lenient it refuses: a body that does not match its
//! checksum, a second create, a stale generation, a request to S3 that is not signed.
//!
//! A flaw makes it a bad store, so that `holdfast check` has something to find.

use md5::{Digest as _, Md5};
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::http::{Request, Response, read_request, write_response};

/// Whose words it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Google Cloud Storage's XML API.
    Google,
    /// S3.
    S3,
}

/// One way of being wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flaw {
    /// Creates replace what is there.
    IgnoresConditions,
    /// Uploads are taken whatever their checksum says.
    IgnoresChecksums,
    /// An upload with a wrong checksum is answered 500, and not stored.
    FailsOnChecksums,
    /// The same, and stored.
    StoresAndFails,
    /// Listings show nothing.
    ListsNothing,
    /// This may not be done: `GET`, `PUT`, `LIST`, `DELETE`.
    Denies(&'static str),
    /// Its clock is ahead.
    ClockAhead(Duration),
    /// Deletes are answered and not done.
    KeepsDeleted,
    /// Every object has a version id.
    Versioned,
}

/// A running bucket, gone when dropped.
#[derive(Debug)]
pub struct Bucket {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dialect: Dialect,
    name: String,
    state: Mutex<State>,
    gone: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    generation: u64,
    flaws: BTreeSet<Flaw>,
    page: usize,
    requests: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
struct Object {
    content: Vec<u8>,
    generation: u64,
    modified: chrono::DateTime<chrono::Utc>,
}

/// Objects on a page of a listing, as providers have it.
pub const PAGE_MAX: usize = 1000;

impl Bucket {
    /// An empty bucket called `name`.
    pub fn start(dialect: Dialect, name: &str) -> Bucket {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the bucket");
        let address = listener.local_addr().expect("bound");
        let state = Mutex::new(State { page: PAGE_MAX, ..State::default() });
        let shared = Arc::new(Shared { dialect, name: name.to_owned(), state, gone: AtomicBool::new(false) });
        let for_accept = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if for_accept.gone.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = for_accept.clone();
                thread::spawn(move || serve(&shared, &client));
            }
        });
        Bucket { address, shared }
    }

    /// `127.0.0.1:...`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Makes it wrong in these ways, and right in all others.
    pub fn set(&self, flaws: &[Flaw]) {
        self.shared.state.lock().unwrap().flaws = flaws.iter().cloned().collect();
    }

    /// Objects on a page of a listing.
    pub fn page(&self, objects: usize) {
        self.shared.state.lock().unwrap().page = objects;
    }

    /// The names and contents of its objects.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.shared.state.lock().unwrap();
        state.objects.iter().map(|(name, object)| (name.clone(), object.content.clone())).collect()
    }

    /// Puts an object there, as anyone else might.
    pub fn put(&self, name: &str, content: &[u8]) {
        let mut state = self.shared.state.lock().unwrap();
        state.insert(name, content.to_vec());
    }

    /// How many requests of a kind came: `GET`, `HEAD`, `PUT`, `LIST`, `DELETE`.
    pub fn requests(&self, kind: &str) -> u64 {
        self.shared.state.lock().unwrap().requests.get(kind).copied().unwrap_or(0)
    }

    /// Forgets the counts.
    pub fn recount(&self) {
        self.shared.state.lock().unwrap().requests.clear();
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(shared: &Shared, client: &TcpStream) {
    let mut reader = BufReader::new(client);
    // A cut or a strange request ends the connection, and nothing of it is done.
    while let Ok(Some(request)) = read_request(&mut reader) {
        let response = shared.answer(&request);
        if shared.gone.load(Ordering::SeqCst)
            || write_response(&mut &*client, &response, &request.method, usize::MAX).is_err()
        {
            break;
        }
    }
    drop(client.shutdown(Shutdown::Both));
}

impl State {
    fn has(&self, flaw: &Flaw) -> bool {
        self.flaws.contains(flaw)
    }

    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        let ahead = self.flaws.iter().find_map(|flaw| match flaw {
            Flaw::ClockAhead(time) => Some(*time),
            _ => None,
        });
        chrono::Utc::now() + ahead.unwrap_or_default()
    }

    fn insert(&mut self, name: &str, content: Vec<u8>) -> Object {
        self.generation += 1;
        let object = Object { content, generation: self.generation, modified: self.now() };
        self.objects.insert(name.to_owned(), object.clone());
        object
    }
}

impl Shared {
    fn answer(&self, request: &Request) -> Response {
        let path = request.path();
        let (bucket, name) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
        let kind = if name.is_empty() && request.method == "GET" { "LIST" } else { request.method.as_str() };
        let mut state = self.state.lock().unwrap();
        *state.requests.entry(kind.to_owned()).or_default() += 1;
        if bucket != self.name {
            return error(404, "NoSuchBucket");
        }
        if !self.is_signed(request) {
            return error(401, "Unauthenticated");
        }
        if state
            .flaws
            .iter()
            .any(|flaw| matches!(flaw, Flaw::Denies(what) if *what == kind || (kind == "HEAD" && *what == "GET")))
        {
            return error(403, "AccessDenied");
        }
        match kind {
            "LIST" => list(self.dialect, &state, request),
            "PUT" => self.put(&mut state, name, request),
            "GET" | "HEAD" => self.get(&state, name, request),
            "DELETE" => self.delete(&mut state, name),
            _ => error(405, "MethodNotAllowed"),
        }
    }

    /// A service account with `disable_oauth` sends no token, so Google's face asks for none.
    fn is_signed(&self, request: &Request) -> bool {
        let signed = request.header("authorization").is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256"));
        self.dialect == Dialect::Google || signed
    }

    fn put(&self, state: &mut State, name: &str, request: &Request) -> Response {
        if request.header("content-length").is_none() {
            return error(411, "MissingContentLength");
        }
        if let (Some(code), false) = (wrong_checksum(self.dialect, request), state.has(&Flaw::IgnoresChecksums)) {
            if state.has(&Flaw::StoresAndFails) {
                state.insert(name, request.body.clone());
            }
            let fails = state.has(&Flaw::StoresAndFails) || state.has(&Flaw::FailsOnChecksums);
            return if fails { error(500, "InternalError") } else { error(400, code) };
        }
        if let (Some(refused), false) = (self.condition(state, name, request), state.has(&Flaw::IgnoresConditions)) {
            return refused;
        }
        let object = state.insert(name, request.body.clone());
        self.facts(state, &object, Response::new(200))
    }

    /// The answer when the condition of a create does not hold.
    fn condition(&self, state: &State, name: &str, request: &Request) -> Option<Response> {
        let there = state.objects.get(name).map_or(0, |object| object.generation);
        let failed = match self.dialect {
            Dialect::Google => {
                let wanted = request.header("x-goog-if-generation-match")?;
                match wanted.parse::<u64>() {
                    Ok(wanted) => wanted != there,
                    Err(_) => return Some(error(400, "InvalidArgument")),
                }
            }
            Dialect::S3 => match request.header("if-none-match")? {
                "*" => there != 0,
                _ => return Some(error(501, "NotImplemented")),
            },
        };
        failed.then(|| error(412, "PreconditionFailed"))
    }

    fn get(&self, state: &State, name: &str, request: &Request) -> Response {
        let object = state.objects.get(name);
        let wanted = request.query("generation").and_then(|wanted| wanted.parse().ok());
        match object.filter(|object| wanted.is_none_or(|wanted: u64| wanted == object.generation)) {
            None => error(404, "NoSuchKey"),
            Some(object) => self.facts(state, object, Response::new(200).body(object.content.clone())),
        }
    }

    fn delete(&self, state: &mut State, name: &str) -> Response {
        let there = state.objects.contains_key(name);
        if !state.has(&Flaw::KeepsDeleted) {
            state.objects.remove(name);
        }
        // S3 does not say whether there was anything.
        if there || self.dialect == Dialect::S3 { Response::new(204) } else { error(404, "NoSuchKey") }
    }

    fn facts(&self, state: &State, object: &Object, response: Response) -> Response {
        let md5 = Md5::digest(&object.content);
        let etag: String = md5.iter().map(|byte| format!("{byte:02x}")).collect();
        let modified = object.modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let response = response.with("etag", format!("\"{etag}\"")).with("last-modified", modified);
        match self.dialect {
            Dialect::Google => response
                .with("x-goog-generation", object.generation.to_string())
                .with("x-goog-metageneration", "1")
                .with("x-goog-hash", format!("crc32c={},md5={}", crc32c_of(&object.content), BASE64.encode(md5))),
            Dialect::S3 if state.has(&Flaw::Versioned) => {
                response.with("x-amz-version-id", format!("v{}", object.generation))
            }
            Dialect::S3 => response,
        }
    }
}

fn crc32c_of(content: &[u8]) -> String {
    BASE64.encode(crc32c::crc32c(content).to_be_bytes())
}

/// The code of the first checksum that does not fit the body.
fn wrong_checksum(dialect: Dialect, request: &Request) -> Option<&'static str> {
    let md5 = BASE64.encode(Md5::digest(&request.body));
    if request.header("content-md5").is_some_and(|value| value != md5) {
        return Some("BadDigest");
    }
    let sha256 = holdfast::base::digest::Sha256::of(&request.body);
    match dialect {
        Dialect::Google => {
            let stated = request.header("x-goog-hash")?.split(',').map(str::trim);
            let wrong = |value: &str| match value.split_once('=') {
                Some(("crc32c", value)) => value != crc32c_of(&request.body),
                Some(("md5", value)) => value != md5,
                _ => true,
            };
            stated.into_iter().any(wrong).then_some("BadDigest")
        }
        Dialect::S3 => {
            let stated = request.header("x-amz-checksum-sha256");
            if stated.is_some_and(|value| value != BASE64.encode(sha256.0)) {
                return Some("BadDigest");
            }
            let signed = request.header("x-amz-content-sha256").filter(|value| *value != "UNSIGNED-PAYLOAD");
            signed.is_some_and(|value| value != sha256.to_string()).then_some("XAmzContentSHA256Mismatch")
        }
    }
}

fn error(status: u16, code: &str) -> Response {
    let body =
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}.</Message></Error>");
    Response::new(status).with("content-type", "application/xml").body(body)
}

/// A page of a listing, version 2.
fn list(dialect: Dialect, state: &State, request: &Request) -> Response {
    if request.query("list-type").as_deref() != Some("2") {
        return error(400, "InvalidArgument");
    }
    let prefix = request.query("prefix").unwrap_or_default();
    let delimiter = request.query("delimiter").filter(|delimiter| !delimiter.is_empty());
    let asked = request.query("max-keys").and_then(|n| n.parse().ok()).unwrap_or(PAGE_MAX);
    let after = request.query("continuation-token").or_else(|| request.query("start-after")).unwrap_or_default();
    let (mut entries, mut folders, mut last, mut more) = (vec![], BTreeSet::new(), String::new(), false);
    let names = state.objects.iter().filter(|(name, _)| name.starts_with(&prefix) && **name > after);
    for (name, object) in names.filter(|_| !state.has(&Flaw::ListsNothing)) {
        let folder = delimiter.as_ref().and_then(|delimiter| {
            let end = name[prefix.len()..].find(delimiter.as_str())?;
            Some(name[..prefix.len() + end + delimiter.len()].to_owned())
        });
        // A folder that the page before ended with is not named again.
        if folder.as_ref().is_some_and(|folder| folders.contains(folder) || after.starts_with(folder.as_str())) {
            last.clone_from(name);
            continue;
        }
        if folders.len() + entries.len() == asked.min(state.page) {
            more = true;
            break;
        }
        last.clone_from(name);
        match folder {
            Some(folder) => drop(folders.insert(folder)),
            None => entries.push(entry(dialect, name, object)),
        }
    }
    let folders: String =
        folders.iter().map(|f| format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(f))).collect();
    let next =
        if more { format!("<NextContinuationToken>{}</NextContinuationToken>", escape(&last)) } else { String::new() };
    let entries = entries.concat();
    let body = format!(
        "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><IsTruncated>{more}</IsTruncated>{next}{entries}{folders}</ListBucketResult>"
    );
    Response::new(200).with("content-type", "application/xml").body(body)
}

fn entry(dialect: Dialect, name: &str, object: &Object) -> String {
    let generation = match dialect {
        Dialect::Google => format!("<Generation>{}</Generation><MetaGeneration>1</MetaGeneration>", object.generation),
        Dialect::S3 => String::new(),
    };
    let modified = object.modified.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let (name, size) = (escape(name), object.content.len());
    format!(
        "<Contents><Key>{name}</Key>{generation}<LastModified>{modified}</LastModified><ETag>\"{size}\"</ETag><Size>{size}</Size></Contents>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
