//! The JSON gateway, Lock and Election: the same HTTP requests to a member of Holdfast and to one of etcd, and the same
//! answers, byte by byte but for who answered.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest as _;

use crate::support::etcd::Etcd;
use crate::support::http::{Request, Response, read_response, write_request};
use crate::support::member::Member;
use crate::support::peers::{ETCD_3_5, program};
use crate::support::run::Run;

/// How long an answer may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// How long nothing must come for it to count as nothing.
const SILENCE: Duration = Duration::from_millis(300);

/// Both members.
struct Pair {
    etcd: Etcd,
    ours: Member,
}

impl Pair {
    fn start() -> Pair {
        Pair { etcd: Etcd::start(), ours: Member::start(&["--name=m0"]) }
    }

    fn addresses(&self) -> [String; 2] {
        [self.etcd.endpoint(0).replace("http://", ""), self.ours.client.address()]
    }

    /// What both answer to a request; the same.
    fn same(&self, method: &str, path: &str, body: &str) -> Response {
        let [etcd, ours] = self.addresses().map(|address| ask(&address, method, path, &[], body));
        assert_eq!(shown(&ours), shown(&etcd), "{method} {path} {}", &body[..body.len().min(200)]);
        ours
    }

    fn post(&self, path: &str, body: &str) -> Value {
        serde_json::from_slice(&self.same("POST", path, body).body).unwrap_or_default()
    }

    /// What both answer with the same status and the same code; the words are each one's own.
    fn both_refuse(&self, path: &str, body: &str) {
        let [etcd, ours] = self.addresses().map(|address| ask(&address, "POST", path, &[], body));
        let code = |answer: &Response| {
            let text = str::from_utf8(&answer.body).unwrap();
            let body: Value = serde_json::from_str(text).unwrap();
            let error = body["error"].to_string();
            assert_eq!(text, format!("{{\"error\":{error},\"code\":{},\"message\":{error}}}", body["code"]));
            assert!(error.len() > 2, "{text}");
            (answer.status, answer.header("content-type").map(str::to_owned), body["code"].clone())
        };
        assert_eq!(code(&ours), code(&etcd), "{path} {body}");
    }

    /// The first lines of a stream, the same of both.
    fn lines(&self, path: &str, body: &str, count: usize) {
        let told = self.addresses().map(|address| {
            let mut talk = Talk::start(&address, path, &[], body);
            (0..count).map(|_| plain(&talk.line().unwrap())).collect::<Vec<_>>()
        });
        let [etcd, ours] = told;
        assert_eq!(ours, etcd, "{path} {body}");
    }
}

fn post(path: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let mut headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    headers.push(("host".to_owned(), "127.0.0.1".to_owned()));
    headers.push(("content-length".to_owned(), body.len().to_string()));
    Request { method: "POST".to_owned(), target: path.to_owned(), headers, body: body.as_bytes().to_vec() }
}

fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = Request { method: method.to_owned(), ..post(path, headers, body) };
    // Who refuses a long body may do so before it has come.
    let sent = write_request(&mut stream, &request);
    read_response(&mut BufReader::new(stream), method)
        .unwrap_or_else(|error| panic!("{address}{path}: {error}, {sent:?}"))
}

/// A stream that is being answered over HTTP/1.1.
struct Talk {
    reader: BufReader<TcpStream>,
}

impl Talk {
    fn start(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Talk {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        // What comes without a line's end ends with the connection.
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n");
        stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).unwrap();
        Talk { reader: BufReader::new(stream) }
    }

    /// The next line that is JSON: what stands between is of HTTP.
    fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.starts_with("{\"") {
                return Some(line.trim_end().to_owned());
            }
        }
    }

    fn is_silent(&mut self) -> bool {
        self.reader.get_ref().set_read_timeout(Some(SILENCE)).unwrap();
        let silent = self.line().is_none();
        self.reader.get_ref().set_read_timeout(Some(LIMIT)).unwrap();
        silent
    }
}

/// What must be the same in an answer.
fn shown(answer: &Response) -> (u16, Vec<String>, String) {
    let names = [
        "content-type",
        "grpc-metadata-content-type",
        "x-content-type-options",
        "access-control-allow-origin",
        "access-control-allow-methods",
        "access-control-allow-headers",
    ];
    let headers = names.iter().map(|name| format!("{name}: {}", answer.header(name).unwrap_or_default()));
    (answer.status, headers.collect(), plain(&String::from_utf8_lossy(&answer.body)))
}

/// A text without who answered.
fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    for field in ["cluster_id", "member_id", "raft_term", "memberID"] {
        let field = format!("\"{field}\":\"");
        let parts: Vec<_> = text.split(&field).collect();
        let rest = parts[1..].iter().map(|part| {
            let value = part.split('"').next().unwrap();
            assert!(value.parse::<u64>().unwrap() > 0, "{text}");
            format!("{field}_{}", &part[value.len()..])
        });
        text = parts[0].to_owned() + &rest.collect::<String>();
    }
    text
}

fn base64(text: &str) -> String {
    holdfast::base::digest::base64(text.as_bytes())
}

/// Requests in their order, each answered alike.
const REQUESTS: &[(&str, &str)] = &[
    // Far from the removal: etcd 3.5.1 may leave a change of members without an answer that comes upon another.
    ("cluster/member/promote", r#"{"ID":"5"}"#),
    ("kv/range", "{}"),
    ("kv/range", ""),
    ("kv/range", "null"),
    ("kv/range", r#"{"key":"AA==","range_end":"AA=="}"#),
    ("kv/put", r#"{"key":"YQ==","value":"PD4m"}"#),
    ("kv/put", r#"{"key":"YQ==","value":"+/8=","prevKv":true}"#),
    ("kv/put", r#"{"key":"Yg=="}"#),
    ("kv/put", r#"{"value":"Yg=="}"#),
    ("kv/put", r#"{"key":"YQ==","lease":"4711"}"#),
    ("kv/range", r#"{"key":"YQ=="}"#),
    ("kv/range", r#"{"key":"YQ=="} and more"#),
    ("kv/range", r#"{"key":"YQ==","key":"Yg=="}"#),
    ("kv/range", r#"{"key":"YQ==","rangeEnd":"eg==","sort_order":"DESCEND","sortTarget":"MOD","limit":"1"}"#),
    ("kv/range", r#"{"key":"YQ==","range_end":"eg==","sortOrder":2,"limit":1,"unknown":{"key":[5]}}"#),
    ("kv/range", r#"{"key":"YQ==","range_end":"eg==","limit":null,"keys_only":true}"#),
    ("kv/range", r#"{"key":"YQ==","revision":"99"}"#),
    ("kv/range", r#"{"key":"YQ==","countOnly":true}"#),
    (
        "kv/txn",
        r#"{"compare":[{"key":"YQ==","target":"CREATE","result":"EQUAL","create_revision":"2"}],
            "success":[{"requestRange":{"key":"YQ=="}},{"request_put":{"key":"Yw==","value":"Yw=="}},{"requestTxn":{}}],
            "failure":[{"requestDeleteRange":{"key":"YQ=="}}]}"#,
    ),
    (
        "kv/txn",
        r#"{"compare":[{"key":"YQ==","target":"VALUE","result":"GREATER","value":"eg=="}],
            "failure":[{"requestDeleteRange":{"key":"Yw==","prev_kv":true}}]}"#,
    ),
    ("kv/txn", "{}"),
    ("kv/txn", r#"{"success":[{}]}"#),
    ("kv/deleterange", r#"{"key":"Yg==","prev_kv":true}"#),
    ("kv/deleterange", r#"{"key":"Yg=="}"#),
    ("kv/compaction", r#"{"revision":"3"}"#),
    ("kv/compaction", r#"{"revision":3}"#),
    ("kv/range", r#"{"key":"YQ==","revision":"2"}"#),
    ("lease/grant", r#"{"TTL":"100","ID":"77"}"#),
    ("lease/grant", r#"{"TTL":100,"ID":77}"#),
    ("lease/grant", r#"{"TTL":"99999999999"}"#),
    ("lease/leases", "{}"),
    ("kv/lease/leases", ""),
    ("lease/keepalive", r#"{"ID":"77"}{"ID":78}"#),
    ("lease/keepalive", ""),
    ("lease/timetolive", r#"{"ID":"12345"}"#),
    ("kv/lease/timetolive", r#"{"ID":12345,"keys":true}"#),
    ("kv/lease/revoke", r#"{"ID":77}"#),
    ("lease/revoke", r#"{"ID":77}"#),
    ("maintenance/alarm", r#"{"action":"GET"}"#),
    ("maintenance/alarm", r#"{"action":"ACTIVATE","alarm":"NOSPACE"}"#),
    ("maintenance/alarm", r#"{"action":"DEACTIVATE","alarm":"NOSPACE"}"#),
    ("maintenance/downgrade", "{}"),
    ("maintenance/downgrade", r#"{"action":"CANCEL"}"#),
    ("maintenance/transfer-leadership", r#"{"targetID":"5"}"#),
    ("maintenance/defragment", "{}"),
    ("cluster/member/remove", r#"{"ID":"5"}"#),
    ("auth/status", "{}"),
    ("auth/authenticate", r#"{"name":"<root>","password":"x"}"#),
    ("nothing", "{}"),
    ("kv/range/", "{}"),
    ("kv", "{}"),
    ("", "{}"),
];

#[test]
fn json_is_answered_as_etcd_answers_it() {
    let pair = Pair::start();
    for (path, body) in REQUESTS {
        pair.same("POST", &format!("/v3/{path}"), body);
    }
    pair.same("POST", "/v3beta/kv/range", r#"{"key":"YQ=="}"#);
    pair.same("POST", "/v3/kv/range?key=YQ==", "{}");
    pair.same("POST", "/v3alpha/kv/range", r#"{"key":"YQ=="}"#);
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        pair.same(method, "/v3/kv/range", "");
    }
    // Fields of one kind of member or one release only: their names.
    for path in ["maintenance/status", "cluster/member/list"] {
        let [etcd, ours] =
            pair.addresses().map(|address| ask(&address, "POST", &format!("/v3/{path}"), &[], "{}").body);
        let names = |body: &[u8]| {
            let body: Value = serde_json::from_slice(body).unwrap();
            let body = body["members"].as_array().map_or(body.clone(), |members| members[0].clone());
            body.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        let (etcd, ours) = (names(&etcd), names(&ours));
        assert!(etcd.iter().all(|name| ours.contains(name)), "{path}: {ours:?} without some of {etcd:?}");
    }
}

#[test]
fn json_that_cannot_be_meant_is_refused_as_etcd_refuses_it() {
    let pair = Pair::start();
    for body in [
        "nonsense",
        "[]",
        "7",
        "{\"key\":",
        r#"{"key":7}"#,
        r#"{"key":"!!"}"#,
        r#"{"key":"YQ==","limit":"x"}"#,
        r#"{"key":"YQ==","limit":1.5}"#,
        r#"{"key":"YQ==","limit":9223372036854775808}"#,
        r#"{"key":"YQ==","sort_order":"SIDEWAYS"}"#,
        r#"{"key":"YQ==","serializable":"true"}"#,
    ] {
        pair.both_refuse("/v3/kv/range", body);
    }
    pair.both_refuse("/v3/kv/txn", r#"{"success":{}}"#);
    pair.both_refuse("/v3/watch", r#"{"create_request":{"key":"!!"}}"#);
    pair.both_refuse("/v3/election/observe", r#"{"name":7}"#);
    for bytes in [1_600_000, 2_200_000] {
        let value = base64(&"v".repeat(bytes));
        pair.same("POST", "/v3/kv/put", &format!(r#"{{"key":"YQ==","value":"{value}"}}"#));
    }
    // Longer than any request could be: not even parsed.
    let endless = format!(r#"{{"key":"YQ==","value":"{}"}}"#, "v".repeat(8 << 20));
    let [_, ours] = pair.addresses().map(|address| ask(&address, "POST", "/v3/kv/put", &[], &endless));
    assert_eq!(ours.status, 429, "{}", String::from_utf8_lossy(&ours.body));
    assert!(ours.body.starts_with(b"{\"error\":\"grpc: received message larger than max ("));
}

#[test]
fn headers_say_who_asks_and_how_long_it_waits() {
    let pair = Pair::start();
    let leads = ("Grpc-Metadata-hasleader", "true");
    for headers in [vec![leads], vec![("Grpc-Timeout", "<5x>")], vec![("Grpc-Timeout", "20S"), ("Origin", "http://x")]]
    {
        let answers =
            pair.addresses().map(|address| ask(&address, "POST", "/v3/kv/range", &headers, r#"{"key":"YQ=="}"#));
        let [etcd, ours] = answers.each_ref().map(shown);
        assert_eq!(ours, etcd, "{headers:?}");
    }
    let late = pair.addresses().map(|address| {
        let mut talk = Talk::start(&address, "/v3/watch", &[("Grpc-Timeout", "1S")], r#"{"create_request":{}}"#);
        [talk.line().unwrap(), talk.line().unwrap(), talk.line().unwrap_or_default()].map(|line| plain(&line))
    });
    // etcd says Unknown where its own client was late before its server.
    assert!(late[0][1].contains("context deadline exceeded"), "{late:?}");
    let error = r#"{"error":{"grpc_code":4,"http_code":504,"message":"context deadline exceeded","http_status":"Gateway Timeout"}}"#;
    assert_eq!([&late[1][0], &late[1][1], &late[1][2]], [&late[0][0], error, ""]);
}

#[test]
fn streams_are_lines_as_etcd_writes_them() {
    let pair = Pair::start();
    for value in ["MQ==", "Mg=="] {
        pair.post("/v3/kv/put", &format!(r#"{{"key":"YQ==","value":"{value}"}}"#));
    }
    let watch = r#"{"create_request":{"key":"YQ==","start_revision":"3","prev_kv":true}}"#;
    pair.lines("/v3/watch", watch, 2);
    let questions = r#"{"create_request":{"key":"YQ==","watch_id":"5"}}{"createRequest":{"key":"YQ==","watchId":5}}
                       {"cancel_request":{"watch_id":5}} nonsense"#;
    pair.lines("/v3/watch", questions, 3);
    // A stream goes on as long as its client listens, and hears what happens.
    let mut talks =
        pair.addresses().map(|address| Talk::start(&address, "/v3/watch", &[], r#"{"create_request":{"key":"bg=="}}"#));
    let [etcd, ours] = talks.each_mut().map(|talk| plain(&talk.line().unwrap()));
    assert_eq!(ours, etcd);
    assert!(talks.iter_mut().all(Talk::is_silent));
    pair.post("/v3/kv/put", r#"{"key":"bg==","value":"PD4="}"#);
    let [etcd, ours] = talks.each_mut().map(|talk| plain(&talk.line().unwrap()));
    assert_eq!(ours, etcd);
    drop(talks);
    // A snapshot: different files, of the same form.
    let snapshot = ask(&pair.ours.client.address(), "POST", "/v3/maintenance/snapshot", &[], "");
    let lines = String::from_utf8(snapshot.body).unwrap();
    assert!(snapshot.status == 200 && lines.lines().count() > 1 && lines.ends_with("}}\n"));
    assert!(lines.lines().all(|line| line.starts_with(r#"{"result":{"#)), "{lines}");
}

/// A call over a WebSocket.
struct Socket {
    socket: tungstenite::WebSocket<TcpStream>,
    protocol: Option<String>,
}

impl Socket {
    fn open(address: &str, path: &str, headers: &[(&str, &str)]) -> Result<Socket, String> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name: tungstenite::http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (socket, answer) = tungstenite::client(request, stream).map_err(|error| error.to_string())?;
        let protocol = answer.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap().to_owned());
        Ok(Socket { socket, protocol })
    }

    fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// The next line; of one that ended, the code that it ended with, and 1006 where it broke off.
    fn line(&mut self) -> Result<String, u16> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(text.to_string()),
                Ok(Message::Close(frame)) => return Err(frame.map_or(1005, |frame| frame.code.into())),
                Ok(_) => {}
                Err(error) => {
                    let waits = matches!(&error, tungstenite::Error::Io(io) if io.kind() == ErrorKind::WouldBlock);
                    assert!(!waits, "nothing came");
                    return Err(1006);
                }
            }
        }
    }
}

#[test]
fn pages_talk_over_websockets_as_with_etcd() {
    let pair = Pair::start();
    pair.post("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#);
    let grants = pair.addresses().map(|address| {
        let granted = ask(&address, "POST", "/v3/lease/grant", &[], r#"{"TTL":"60","ID":"7"}"#);
        assert_eq!(granted.status, 200);
    });
    assert_eq!(grants.len(), 2);
    let watch = r#"{"create_request":{"key":"YQ==","start_revision":"2"}}"#;
    let talks: [(&str, &[&str], usize); 5] = [
        ("/v3/watch", &[watch], 2),
        (
            "/v3beta/watch?method=GET",
            &[r#"{"create_request":{"key":"YQ=="}}"#, r#"{"cancel_request":{"watch_id":"0"}}"#],
            2,
        ),
        ("/v3/watch", &[r#"{"create_request":{"key":"YQ=="}}"#, r#"{"progress_request":{}}"#], 2),
        ("/v3/lease/keepalive", &[r#"{"ID":"7"}{"ID":"8"}"#, r#"{"ID":"7"}"#], 3),
        // What cannot be understood ends the questions, and not the answers.
        ("/v3/watch", &[watch, "nonsense", r#"{"progress_request":{}}"#], 2),
    ];
    for (path, questions, count) in talks {
        let told = pair.addresses().map(|address| {
            let mut socket = Socket::open(&address, path, &[]).unwrap();
            questions.iter().for_each(|question| socket.say(question));
            (0..count).map(|_| plain(&socket.line().unwrap())).collect::<Vec<_>>()
        });
        assert_eq!(told[1], told[0], "{path} {questions:?}");
    }
    // The first of all is refused with the same code; etcd breaks the connection off then, a member says good-bye.
    let refused = pair.addresses().map(|address| {
        let mut socket = Socket::open(&address, "/v3/watch", &[]).unwrap();
        socket.say("nonsense");
        let refusal: Value = serde_json::from_str(&socket.line().unwrap()).unwrap();
        (refusal["code"].clone(), socket.line().unwrap_err())
    });
    assert_eq!((&refused[0], &refused[1]), (&(2.into(), 1006), &(2.into(), 1000)));
}

#[test]
fn websockets_end_in_order_and_hold_nobody_up() {
    let flags = ["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=2s", "--max-request-bytes=1000000"];
    let mut member = Member::start(&[&flags[..], &["--cors=http://a.example:8080"]].concat());
    let address = member.client.address();
    // Calls that have one answer, and such as end by themselves.
    let mut put = Socket::open(&address, "/v3/kv/put", &[]).unwrap();
    put.say(r#"{"key":"YQ==","value":"MQ=="}"#);
    assert!(put.line().unwrap().contains(r#""revision":"2""#));
    assert_eq!(put.line(), Err(1000));
    let mut snapshot = Socket::open(&address, "/v3/maintenance/snapshot", &[]).unwrap();
    snapshot.say("{}");
    let lines = std::iter::from_fn(|| snapshot.line().ok()).collect::<Vec<_>>();
    assert!(lines.len() > 1 && lines.iter().all(|line| line.starts_with(r#"{"result":{"#)), "{}", lines.len());
    // No path, no page that is listed.
    assert!(Socket::open(&address, "/v3/nothing", &[]).err().unwrap().contains("404"));
    let from = |origin| Socket::open(&address, "/v3/watch", &[("origin", origin)]);
    assert!(from("http://b.example:8080").err().unwrap().contains("403"));
    drop(from("http://a.example:8080").unwrap());
    // A message that is too long is told so.
    let mut long = Socket::open(&address, "/v3/kv/put", &[]).unwrap();
    // It may be refused while it is still being sent.
    let _ = long.socket.send(Message::text("x".repeat(5_000_000)));
    assert!([Err(1002), Err(1006)].contains(&long.line()));
    // Who gives no sign of life is cut off by name; who does is not.
    let mut silent = Socket::open(&address, "/v3/watch", &[]).unwrap();
    let mut alive = Socket::open(&address, "/v3/watch", &[]).unwrap();
    for socket in [&mut silent, &mut alive] {
        socket.say(r#"{"create_request":{"key":"bg=="}}"#);
        socket.line().unwrap();
    }
    let told = thread::spawn(move || (alive.line(), alive.line(), alive.line()));
    let name = silent.socket.get_ref().local_addr().unwrap().to_string();
    let cut = || member.log().lines().find(|line| line.contains(&name)).map(str::to_owned);
    let begun = Instant::now();
    while cut().is_none() && begun.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(50));
    }
    let line = cut().unwrap();
    assert!(line.contains("gave no sign of life for 2.0 s") && line.contains("1 x Watch"), "{line}");
    // One that asks nothing is waited for no more than one that waits.
    let mut idle = Socket::open(&address, "/v3/watch", &[]).unwrap();
    ask(&address, "POST", "/v3/kv/put", &[], r#"{"key":"bg==","value":"MQ=="}"#);
    let began = Instant::now();
    assert_eq!(member.stop(), 0);
    assert!(began.elapsed() < Duration::from_secs(4), "it waited for who waits: {:?}", began.elapsed());
    assert_eq!(idle.line(), Err(1001));
    let (event, stopped, end) = told.join().unwrap();
    assert!(event.unwrap().contains("events") && stopped.unwrap().contains("etcdserver: server stopped"));
    assert_eq!(end, Err(1001));
}

#[test]
fn the_token_of_a_page_stands_in_place_of_a_protocol() {
    let member = Member::start(&[]);
    let address = member.client.address();
    let post = |path: &str, body: &str| {
        let answer = ask(&address, "POST", path, &[], body);
        assert_eq!(answer.status, 200, "{path}");
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    post("/v3/auth/user/add", r#"{"name":"root","password":"secret"}"#);
    post("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#);
    post("/v3/auth/enable", "{}");
    let signed_in = post("/v3/auth/authenticate", r#"{"name":"root","password":"secret"}"#);
    let token = signed_in["token"].as_str().unwrap().to_owned();
    let created = |headers: &[(&str, &str)]| {
        let mut socket = Socket::open(&address, "/v3/watch", headers).unwrap();
        socket.say(r#"{"create_request":{"key":"YQ=="}}"#);
        (socket.line().unwrap(), socket.protocol)
    };
    let bearer = Some("Bearer".to_owned());
    let welcome = |(line, protocol): (String, Option<String>)| {
        let line: Value = serde_json::from_str(&line).unwrap();
        (line["result"]["created"] == true && line["result"].get("canceled").is_none(), protocol)
    };
    assert_eq!(welcome(created(&[("sec-websocket-protocol", &format!("Bearer, {token}"))])), (true, bearer.clone()));
    assert_eq!(welcome(created(&[("authorization", &token)])), (true, None));
    let wrong = created(&[("sec-websocket-protocol", "Bearer, wrong.1")]);
    assert!(wrong.0.contains("etcdserver: invalid auth token") && wrong.1 == bearer, "{wrong:?}");
    // A page of somebody else's would come with the cookie, too.
    let cookie = created(&[("cookie", &format!("token={token}"))]);
    assert!(cookie.0.contains("etcdserver: user name is empty") && cookie.1.is_none(), "{cookie:?}");
}

#[test]
fn without_the_gateway_there_is_none() {
    let member = Member::start(&["--enable-grpc-gateway=false", "--cors=https://a.example:8443"]);
    let address = member.client.address();
    let refused = ask(&address, "POST", "/v3/kv/range", &[("origin", "https://a.example:8443")], r#"{"key":"YQ=="}"#);
    let page = (refused.status, refused.body.as_slice(), refused.header("access-control-allow-origin"));
    assert_eq!(page, (404, &b"404 page not found\n"[..], Some("https://a.example:8443")));
    let other = ask(&address, "GET", "/health", &[("origin", "https://b.example:8443")], "");
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, None));
}

#[test]
fn locks_are_held_and_given_up_as_etcds_are() {
    let pair = Pair::start();
    for id in [70, 71, 72] {
        pair.post("/v3/lease/grant", &format!(r#"{{"TTL":"100","ID":"{id}"}}"#));
    }
    let lock = |lease: i64| format!(r#"{{"name":"bW8=","lease":"{lease}"}}"#);
    pair.post("/v3/lock/lock", &lock(70));
    pair.post("/v3/lock/lock", &lock(70));
    for request in [lock(12345), lock(-5)] {
        pair.post("/v3/lock/lock", &request);
    }
    pair.post("/v3/lock/unlock", "{}");
    pair.post("/v3/lock/unlock", r#"{"key":"bm9uZQ=="}"#);
    // Two wait, and each has it in its turn.
    let mut second = pair.addresses().map(|address| Talk::start(&address, "/v3/lock/lock", &[], &lock(71)));
    wait_for_keys(&pair, "bW8v", "bW8w", 2);
    let mut third = pair.addresses().map(|address| Talk::start(&address, "/v3/lock/lock", &[], &lock(72)));
    wait_for_keys(&pair, "bW8v", "bW8w", 3);
    assert!(second.iter_mut().chain(&mut third).all(Talk::is_silent));
    pair.post("/v3/lock/unlock", &format!(r#"{{"key":"{}"}}"#, base64("mo/46")));
    let [etcd, ours] = second.each_mut().map(|talk| plain(&talk.line().unwrap()));
    assert_eq!(ours, etcd);
    assert!(third.iter_mut().all(Talk::is_silent));
    // Its lease ends, and with it the lock.
    pair.post("/v3/lease/revoke", r#"{"ID":"71"}"#);
    let [etcd, ours] = third.each_mut().map(|talk| plain(&talk.line().unwrap()));
    assert_eq!(ours, etcd);
    pair.post("/v3/kv/range", r#"{"key":"bW8v","range_end":"bW8w"}"#);
    // A lease of the member's own.
    for address in pair.addresses() {
        let answer = ask(&address, "POST", "/v3/lock/lock", &[], r#"{"name":"b3du"}"#);
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(answer["key"].as_str().unwrap().starts_with(&base64("own/")[..5]), "{answer}");
        let leases = ask(&address, "POST", "/v3/lease/leases", &[], "{}");
        let leases: Value = serde_json::from_slice(&leases.body).unwrap();
        let ids = leases["leases"].as_array().unwrap().iter().map(|lease| lease["ID"].as_str().unwrap());
        let own = ids.clone().find(|id| !["70", "72"].contains(id)).unwrap().to_owned();
        let left = ask(&address, "POST", "/v3/lease/timetolive", &[], &format!(r#"{{"ID":"{own}"}}"#));
        let left: Value = serde_json::from_slice(&left.body).unwrap();
        assert_eq!(left["grantedTTL"], "60", "{left}");
    }
}

#[test]
fn who_waits_no_more_leaves_no_place_behind() {
    let pair = Pair::start();
    for id in [70, 71, 72] {
        pair.post("/v3/lease/grant", &format!(r#"{{"TTL":"100","ID":"{id}"}}"#));
    }
    pair.post("/v3/lock/lock", r#"{"name":"bW8=","lease":"70"}"#);
    let lock = r#"{"name":"bW8=","lease":"71"}"#;
    let waiting = pair.addresses().map(|address| Talk::start(&address, "/v3/lock/lock", &[], lock));
    wait_for_keys(&pair, "bW8v", "bW8w", 2);
    for talk in &waiting {
        talk.reader.get_ref().shutdown(Shutdown::Both).unwrap();
    }
    drop(waiting);
    wait_for_keys(&pair, "bW8v", "bW8w", 1);
    // Who gives itself a limit.
    for address in pair.addresses() {
        let limit = [("Grpc-Timeout", "300m")];
        let late = ask(&address, "POST", "/v3/lock/lock", &limit, r#"{"name":"bW8=","lease":"72"}"#);
        assert_eq!(late.status, 504, "{}", String::from_utf8_lossy(&late.body));
    }
    wait_for_keys(&pair, "bW8v", "bW8w", 1);
    // Both leave a waiting place by its lease, too; Holdfast says so at once.
    let [_, ours] = pair.addresses();
    let mut waiting = Talk::start(&ours, "/v3/lock/lock", &[], lock);
    wait_for(&ours, "bW8v", "bW8w", 2);
    ask(&ours, "POST", "/v3/lease/revoke", &[], r#"{"ID":"71"}"#);
    let line = waiting.line().unwrap();
    assert_eq!(line, "{\"error\":\"mutex: session is expired\",\"code\":2,\"message\":\"mutex: session is expired\"}");
}

#[test]
fn pages_take_the_methods_that_etcds_take() {
    let pair = Pair::start();
    for path in ["/health", "/version", "/debug/vars", "/metrics", "/nothing"] {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE"] {
            let [etcd, ours] = pair.addresses().map(|address| {
                let answer = ask(&address, method, path, &[], "");
                let is_refused = answer.status != 200;
                let kind = answer.header("content-type").map(str::to_owned);
                let allow = answer.header("allow").map(str::to_owned);
                let safe = answer.header("x-content-type-options").map(str::to_owned);
                (answer.status, kind, allow, safe, is_refused.then_some(answer.body))
            });
            // docs/differences.md has the kind of this one.
            let etcd = if (path, etcd.0) == ("/health", 200) {
                (etcd.0, ours.1.clone(), etcd.2, etcd.3, etcd.4)
            } else {
                etcd
            };
            assert_eq!(ours, etcd, "{method} {path}");
        }
    }
}

#[test]
fn elections_go_as_etcds_do() {
    let pair = Pair::start();
    for id in [77, 78] {
        pair.post("/v3/lease/grant", &format!(r#"{{"TTL":"100","ID":"{id}"}}"#));
    }
    let campaign =
        |lease: u32, value: &str| format!(r#"{{"name":"ZQ==","lease":"{lease}","value":"{}"}}"#, base64(value));
    pair.post("/v3/election/leader", r#"{"name":"ZQ=="}"#);
    let mut early =
        pair.addresses().map(|address| Talk::start(&address, "/v3/election/observe", &[], r#"{"name":"ZQ=="}"#));
    assert!(early.iter_mut().all(Talk::is_silent));
    pair.post("/v3/election/campaign", &campaign(77, "v1"));
    let leader = pair.post("/v3/election/campaign", &campaign(77, "v2"))["leader"].to_string();
    pair.post("/v3/election/campaign", &campaign(999, "v"));
    pair.post("/v3/election/leader", r#"{"name":"ZQ=="}"#);
    for request in ["{}".to_owned(), r#"{"leader":{"name":"ZQ=="}}"#.to_owned()] {
        pair.post("/v3/election/proclaim", &request);
        pair.post("/v3/election/resign", &request);
    }
    let mut next =
        pair.addresses().map(|address| Talk::start(&address, "/v3/election/campaign", &[], &campaign(78, "w1")));
    wait_for_keys(&pair, "ZS8=", "ZTA=", 2);
    let stale = leader.replace("\"rev\":\"", "\"rev\":\"9");
    pair.post("/v3/election/proclaim", &format!(r#"{{"leader":{stale},"value":"eA=="}}"#));
    pair.post("/v3/election/resign", &format!(r#"{{"leader":{stale}}}"#));
    pair.post("/v3/election/proclaim", &format!(r#"{{"leader":{leader},"value":"djM="}}"#));
    let mut late =
        pair.addresses().map(|address| Talk::start(&address, "/v3/election/observe", &[], r#"{"name":"ZQ=="}"#));
    let [etcd, ours] = late.each_mut().map(|talk| plain(&talk.line().unwrap()));
    assert_eq!(ours, etcd);
    pair.post("/v3/election/proclaim", &format!(r#"{{"leader":{leader},"value":"djQ="}}"#));
    assert!(next.iter_mut().all(Talk::is_silent));
    pair.post("/v3/election/resign", &format!(r#"{{"leader":{leader}}}"#));
    let [etcd, ours] = next.each_mut().map(|talk| plain(&talk.line().unwrap()));
    assert_eq!(ours, etcd);
    pair.post("/v3/election/resign", &format!(r#"{{"leader":{leader}}}"#));
    pair.post("/v3/election/leader", r#"{"name":"ZQ=="}"#);
    for (talks, count) in [(&mut early, 5), (&mut late, 2)] {
        let told = talks.each_mut().map(|talk| (0..count).map(|_| plain(&talk.line().unwrap())).collect::<Vec<_>>());
        let [etcd, ours] = told;
        assert_eq!(ours, etcd);
    }
    // Who cannot lead any more is told so.
    let [_, ours] = pair.addresses();
    ask(&ours, "POST", "/v3/lease/grant", &[], r#"{"TTL":"100","ID":"79"}"#);
    let mut waiting = Talk::start(&ours, "/v3/election/campaign", &[], &campaign(79, "x"));
    wait_for(&ours, "ZS8=", "ZTA=", 2);
    ask(&ours, "POST", "/v3/lease/revoke", &[], r#"{"ID":"79"}"#);
    let line = waiting.line().unwrap();
    assert_eq!(line, "{\"error\":\"election: not leader\",\"code\":2,\"message\":\"election: not leader\"}");
}

#[test]
fn a_member_that_stops_lets_go_of_who_waits() {
    let mut member = Member::start(&[]);
    let address = member.client.address();
    ask(&address, "POST", "/v3/lock/lock", &[], r#"{"name":"bW8="}"#);
    let mut waiting = Talk::start(&address, "/v3/lock/lock", &[], r#"{"name":"bW8="}"#);
    wait_for(&address, "bW8v", "bW8w", 2);
    let mut watching = Talk::start(&address, "/v3/watch", &[], r#"{"create_request":{"key":"YQ=="}}"#);
    watching.line().unwrap();
    let began = Instant::now();
    assert_eq!(member.stop(), 0);
    assert!(began.elapsed() < Duration::from_secs(4), "it waited for who waits: {:?}", began.elapsed());
    let stopped = "etcdserver: server stopped";
    assert_eq!(waiting.line().unwrap(), format!("{{\"error\":\"{stopped}\",\"code\":14,\"message\":\"{stopped}\"}}"));
    assert!(watching.line().unwrap().contains(stopped));
}

/// etcdctl has both in its client; what the member keeps for it must go together with what others do through the gateway.
#[test]
fn etcdctl_and_the_gateway_wait_for_one_another() {
    let member = Member::start(&[]);
    let address = member.client.address();
    ask(&address, "POST", "/v3/lease/grant", &[], r#"{"TTL":"100","ID":"70"}"#);
    let held = ask(&address, "POST", "/v3/lock/lock", &[], r#"{"name":"bW8=","lease":"70"}"#);
    assert_eq!(held.status, 200);
    thread::scope(|scope| {
        let locked = scope.spawn(|| member.etcdctl(&["lock", "mo", "echo", "mine"]));
        wait_for(&address, "bW8v", "bW8w", 2);
        ask(&address, "POST", "/v3/lock/unlock", &[], &format!(r#"{{"key":"{}"}}"#, base64("mo/46")));
        assert_eq!(locked.join().unwrap().success().stdout(), "mine\n");
    });
    ask(&address, "POST", "/v3/election/campaign", &[], r#"{"name":"ZQ==","lease":"70","value":"djE="}"#);
    let log = member.dir.path().join("elect");
    let endpoints = format!("--endpoints={}", member.endpoint());
    let elect = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
    let process = elect.args(&[&endpoints, "elect", "--listen", "e"]).start(&log);
    let deadline = Instant::now() + LIMIT;
    while !std::fs::read_to_string(&log).unwrap_or_default().contains("e/46\nv1\n") {
        assert!(Instant::now() < deadline, "{}", process.said());
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many keys there are in a range, of one member.
fn wait_for(address: &str, key: &str, end: &str, count: u64) {
    let deadline = Instant::now() + LIMIT;
    let request = format!(r#"{{"key":"{key}","range_end":"{end}","count_only":true}}"#);
    loop {
        let answer = ask(address, "POST", "/v3/kv/range", &[], &request);
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        if answer["count"].as_str().unwrap_or("0") == count.to_string() {
            return;
        }
        assert!(Instant::now() < deadline, "not {count} keys: {answer}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_keys(pair: &Pair, key: &str, end: &str, count: u64) {
    pair.addresses().iter().for_each(|address| wait_for(address, key, end, count));
}
