//! moto, an S3 server in Python: one for the whole test binary, a bucket for each test.

use std::io::BufReader;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use super::http::{Request, read_response, write_request};
use super::peers;
use super::ports::Port;
use super::run::{Process, Run, wait_until};

const START_LIMIT: Duration = Duration::from_mins(1);
const PROGRAM: &str = "import sys\nfrom moto.server import main\nmain(['-H', '127.0.0.1', '-p', sys.argv[1]])";

struct Moto {
    port: Port,
    _process: Process,
}

/// Never dropped: the guard ends it with the test binary.
static MOTO: LazyLock<Moto> = LazyLock::new(|| {
    let port = Port::claim();
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("moto-{}.log", port.number()));
    let run = Run::new("python3").env("PYTHONPATH", peers::library("moto")).env("PYTHONDONTWRITEBYTECODE", "1");
    let process = run.args(&["-c", PROGRAM, &port.number().to_string()]).start(log);
    wait_until("moto answers", START_LIMIT, || TcpStream::connect(port.address()).is_ok());
    Moto { port, _process: process }
});

/// Makes a bucket; the server's address.
pub fn bucket(name: &str) -> String {
    let address = MOTO.port.address();
    let signature =
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let headers = [("host", address.as_str()), ("authorization", signature), ("content-length", "0")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let request = Request { method: "PUT".to_owned(), target: format!("/{name}"), headers, body: vec![] };
    let mut connection = BufReader::new(TcpStream::connect(&address).expect("moto listens"));
    write_request(connection.get_mut(), &request).expect("moto reads");
    let response = read_response(&mut connection, "PUT").expect("moto answers");
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    address
}
