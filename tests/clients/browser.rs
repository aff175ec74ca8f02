//! A browser that comes to the port of gRPC over HTTP/1.1: pages, preflights, kept and pipelined connections, plain and
//! with TLS. It is answered as etcd answers it.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::libraries::with_certificates;
use crate::support::certs::Certs;
use crate::support::etcd::{Etcd, Tls};
use crate::support::http::{Request, Response, read_response, write_request};
use crate::support::member::Member;
use crate::support::run::Run;

/// How long an answer may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// What a browser sends with everything.
const HEADERS: [(&str, &str); 6] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("connection", "keep-alive"),
    ("cookie", "session=1"),
];
const ORIGIN: (&str, &str) = ("origin", "https://pages.example.com");
const JSON: (&str, &str) = ("content-type", "application/json;charset=UTF-8");
const WANTS_POST: (&str, &str) = ("access-control-request-method", "POST");
const WANTS_HEADER: (&str, &str) = ("access-control-request-headers", "authorization,content-type");

/// Method, path, headers beside the usual ones, and body. Of `/version` the body is each one's own.
type Ask = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);
const ASKED: [Ask; 15] = [
    ("GET", "/", &[], ""),
    ("GET", "/favicon.ico", &[], ""),
    ("GET", "/version", &[], ""),
    ("GET", "/health", &[], ""),
    ("HEAD", "/version", &[], ""),
    ("HEAD", "/health", &[], ""),
    ("POST", "/", &[JSON], "{}"),
    ("OPTIONS", "/v3/kv/range", &[ORIGIN, WANTS_POST, WANTS_HEADER], ""),
    ("OPTIONS", "/health", &[ORIGIN, WANTS_POST], ""),
    ("OPTIONS", "/", &[ORIGIN], ""),
    ("POST", "/v3/kv/range", &[ORIGIN, JSON], "{\"key\":\"YQ==\"}"),
    ("POST", "/v3/kv/range", &[ORIGIN, ("content-type", "text/plain")], "{\"key\":\"YQ==\"}"),
    ("POST", "/v3/kv/put", &[JSON], "{\"key\":\"YQ==\",\"value\":\"Yg==\"}"),
    ("GET", "/v3/none", &[], ""),
    ("POST", "/etcdserverpb.KV/Range", &[JSON], "{}"),
];

fn request((method, path, headers, body): &Ask, address: &str) -> Request {
    let host = [("host", address)];
    let headers = HEADERS.iter().chain(*headers).chain(&host);
    let mut headers: Vec<_> = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    if !body.is_empty() {
        headers.push(("content-length".to_owned(), body.len().to_string()));
    }
    Request { method: (*method).to_owned(), target: (*path).to_owned(), headers, body: body.as_bytes().to_vec() }
}

/// What must be the same in an answer: status, headers that count, and body.
type Shown = (u16, Vec<(String, String)>, String);

fn shown(ask: &Ask, answer: &Response) -> Shown {
    let counts = |name: &str| name.starts_with("access-control-") || name == "content-type" || name == "allow";
    let mut headers: Vec<_> = answer.headers.iter().filter(|(name, _)| counts(name)).cloned().collect();
    headers.sort();
    let body = String::from_utf8(answer.body.clone()).unwrap();
    // Who answered is each one's own, and so is a version.
    let body = if body.contains("\"header\"") { body.split_once('}').unwrap().1.to_owned() } else { body };
    (answer.status, headers, if ask.1 == "/version" { String::new() } else { body })
}

/// What etcd answers, with what Holdfast means to do otherwise: `/health` is JSON, and says so (docs/differences.md).
fn intended(ask: &Ask, etcd: &Shown) -> Shown {
    let mut shown = etcd.clone();
    if (ask.0, ask.1) == ("GET", "/health") {
        let (_, kind) = shown.1.iter_mut().find(|(name, _)| name == "content-type").unwrap();
        assert!(kind.starts_with("text/plain"), "etcd says {kind}");
        *kind = "application/json".to_owned();
    }
    shown
}

fn connect(address: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    BufReader::new(stream)
}

#[test]
fn a_browser_is_answered_on_the_port_of_grpc_as_by_etcd() {
    let (etcd, ours) = (Etcd::start(), Member::start(&["--name=m0"]));
    let addresses = [etcd.address(0), ours.client.address()];
    // One connection for all of them.
    let told = addresses.clone().map(|address| {
        let mut connection = connect(&address);
        let each = ASKED.iter().map(|ask| {
            write_request(connection.get_mut(), &request(ask, &address)).unwrap();
            let answer = read_response(&mut connection, ask.0);
            shown(ask, &answer.unwrap_or_else(|error| panic!("{address}: {ask:?}: {error}")))
        });
        each.collect::<Vec<_>>()
    });
    for ((ask, etcd), ours) in ASKED.iter().zip(&told[0]).zip(&told[1]) {
        assert_eq!(ours, &intended(ask, etcd), "{ask:?}");
    }
    // All of them at once, and the answers in their order.
    let piped = addresses.map(|address| {
        let mut bytes = vec![];
        ASKED.iter().for_each(|ask| write_request(&mut bytes, &request(ask, &address)).unwrap());
        let mut connection = connect(&address);
        connection.get_mut().write_all(&bytes).unwrap();
        ASKED.iter().map(|ask| shown(ask, &read_response(&mut connection, ask.0).unwrap())).collect::<Vec<_>>()
    });
    let etcd: Vec<_> = ASKED.iter().zip(&piped[0]).map(|(ask, etcd)| intended(ask, etcd)).collect();
    assert_eq!(piped[1], etcd);
}

/// Connects with these protocols of TLS, asks for a page where HTTP/1.1 was chosen, and says what came of it.
const OVER_TLS: &str = "import http.client,json,ssl,sys\n\
    host,port,ca,cert,key,*protocols=sys.argv[1:]\n\
    context=ssl.create_default_context(cafile=ca)\n\
    context.load_cert_chain(cert,key)\n\
    if protocols: context.set_alpn_protocols(protocols)\n\
    connection=http.client.HTTPSConnection(host,int(port),context=context,timeout=20)\n\
    connection.connect()\n\
    chosen=connection.sock.selected_alpn_protocol()\n\
    said=[chosen]\n\
    for path in ['/health','/none','/version'] if chosen!='h2' else []:\n\
    \x20   connection.request('GET',path,headers={'Origin':'https://pages.example.com'})\n\
    \x20   answer=connection.getresponse()\n\
    \x20   answer.read()\n\
    \x20   said.append([answer.status,answer.getheader('content-type'),answer.getheader('access-control-allow-origin')])\n\
    print(json.dumps(said))\n";

#[test]
fn a_browser_is_answered_over_tls_as_by_etcd() {
    let etcd = Etcd::options().tls(Tls::Mutual).start();
    let (ours, certs) = with_certificates();
    let ask = |address: String, certs: &Certs, protocols: &[&str]| {
        let paths: [&PathBuf; 3] = [&certs.ca, &certs.client_cert, &certs.client_key];
        let (host, port) = address.split_once(':').unwrap();
        Run::new("python3").args(&["-c", OVER_TLS, host, port]).args(&paths).args(protocols).run().success().json()
    };
    for protocols in [&["http/1.1"][..], &["h2", "http/1.1"], &[]] {
        let mut theirs = ask(etcd.address(0), etcd.certs().unwrap(), protocols);
        // etcd speaks HTTP/1.1 and does not say that it chose it.
        if protocols == ["http/1.1"] {
            assert!(theirs[0].is_null());
            theirs[0] = "http/1.1".into();
        }
        if let Some(kind) = theirs.get_mut(1).and_then(|health| health.get_mut(1)) {
            *kind = "application/json".into();
        }
        assert_eq!(ask(ours.client.address(), &certs, protocols), theirs, "{protocols:?}");
        let chosen = if protocols.len() == 2 { 1 } else { 4 };
        assert_eq!(theirs.as_array().unwrap().len(), chosen, "{theirs}");
    }
}
