//! Keys and values as a Kubernetes cluster has them: pods of about 2.8 KiB that compress as real ones do.
//!
//! The values are made like the API server's: a magic, then protobuf fields, most of them text that every object repeats
//! (field paths, defaults, conditions) around a little that is its own (names, uids, hashes, addresses, times).

use holdfast::base::rng::Seeded;

const NAMESPACES: [&str; 6] = ["default", "kube-system", "monitoring", "payments", "ingress", "data-platform"];
const APPS: [&str; 8] = ["api", "worker", "frontend", "scheduler", "indexer", "gateway", "billing", "mailer"];

/// The key and value of pod number `n`; equal for equal `seed` and `n`.
pub fn pod(seed: u64, n: u64) -> (String, Vec<u8>) {
    // Mixed once, because neighbouring seeds of this generator give the same numbers, shifted.
    let mut rng = Seeded::new(Seeded::new(seed ^ n << 20).bits());
    let namespace = NAMESPACES[index(&mut rng, NAMESPACES.len())];
    let app = APPS[index(&mut rng, APPS.len())];
    let name = format!("{app}-{}-{n:06x}", hex(&mut rng, 5));
    let value = pod_value(&mut rng, namespace, app, &name);
    (format!("/registry/pods/{namespace}/{name}"), value)
}

/// A version of that pod which differs from every other: what an update of its status writes.
pub fn pod_update(seed: u64, n: u64, update: u64) -> (String, Vec<u8>) {
    let (key, mut value) = pod(seed, n);
    field(&mut value, 60, format!("update {update}, observed {}", time(&mut Seeded::new(update))).as_bytes());
    (key, value)
}

fn index(rng: &mut Seeded, length: usize) -> usize {
    usize::try_from(rng.below(length as u64)).expect("below a length")
}

fn hex(rng: &mut Seeded, bytes: usize) -> String {
    (0..bytes).map(|_| format!("{:02x}", rng.below(256))).collect()
}

fn uid(rng: &mut Seeded) -> String {
    format!("{}-{}-4{}-{}-{}", hex(rng, 4), hex(rng, 2), &hex(rng, 2)[1..], hex(rng, 2), hex(rng, 6))
}

fn time(rng: &mut Seeded) -> String {
    format!("2026-05-{:02}T{:02}:{:02}:{:02}Z", 1 + rng.below(28), rng.below(24), rng.below(60), rng.below(60))
}

/// Appends a length-delimited protobuf field.
fn field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    for mut n in [number << 3 | 2, bytes.len() as u64] {
        while n >= 0x80 {
            out.push(u8::try_from(n & 0x7f).expect("seven bits") | 0x80);
            n >>= 7;
        }
        out.push(u8::try_from(n).expect("seven bits"));
    }
    out.extend_from_slice(bytes);
}

fn pod_value(rng: &mut Seeded, namespace: &str, app: &str, name: &str) -> Vec<u8> {
    let mut value = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod".to_vec();
    let created = time(rng);
    let text = [
        name.to_owned(),
        namespace.to_owned(),
        uid(rng),
        created.clone(),
        format!("app.kubernetes.io/name={app}"),
        format!("app.kubernetes.io/instance={app}-{namespace}"),
        format!("pod-template-hash={}", hex(rng, 5)),
        format!("checksum/config={}", hex(rng, 32)),
        format!("checksum/secret={}", hex(rng, 32)),
        format!("ReplicaSet apps/v1 {app}-{} {}", hex(rng, 5), uid(rng)),
    ];
    text.iter().zip(1..).for_each(|(text, number)| field(&mut value, number, text.as_bytes()));
    for (manager, n) in [("kube-controller-manager", 20), ("kubelet", 21)] {
        field(&mut value, n, managed_fields(manager, &created, &uid(rng)).as_bytes());
    }
    for (container, n) in [(app, 30), ("proxy", 31)] {
        let image = format!("registry.example.com/{namespace}/{container}@sha256:{}", hex(rng, 32));
        field(&mut value, n, format!("{container}\n{image}\n{CONTAINER}").as_bytes());
        let id = format!("containerd://{} sha256:{} started {}", hex(rng, 32), hex(rng, 32), time(rng));
        field(&mut value, n + 10, id.as_bytes());
    }
    for (condition, n) in [("Initialized", 50), ("Ready", 51), ("ContainersReady", 52), ("PodScheduled", 53)] {
        field(&mut value, n, format!("{condition} True {created} lastProbeTime null").as_bytes());
    }
    let address = format!("10.{}.{}.{}", rng.below(256), rng.below(256), rng.below(256));
    field(&mut value, 54, format!("Running Burstable node-{:03} {address}", rng.below(200)).as_bytes());
    value
}

fn managed_fields(manager: &str, time: &str, uid: &str) -> String {
    format!(
        "{manager} Update v1 {time} FieldsV1 {{\"f:metadata\":{{\"f:generateName\":{{}},\"f:labels\":{{\".\":{{}},\
         \"f:app.kubernetes.io/name\":{{}},\"f:app.kubernetes.io/instance\":{{}},\"f:pod-template-hash\":{{}}}},\
         \"f:ownerReferences\":{{\".\":{{}},\"k:{{\\\"uid\\\":\\\"{uid}\\\"}}\":{{}}}}}},\"f:spec\":{{\"f:containers\":\
         {{\"k:{{\\\"name\\\":\\\"main\\\"}}\":{{\".\":{{}},\"f:image\":{{}},\"f:imagePullPolicy\":{{}},\"f:name\":{{}},\
         \"f:resources\":{{}},\"f:terminationMessagePath\":{{}}}}}},\"f:dnsPolicy\":{{}},\"f:restartPolicy\":{{}}}}}}"
    )
}

const CONTAINER: &str = "KUBERNETES_SERVICE_HOST=10.96.0.1 LOG_LEVEL=info GOMAXPROCS=2\nlimits cpu=500m memory=512Mi requests \
    cpu=100m memory=128Mi\n/var/run/secrets/kubernetes.io/serviceaccount kube-api-access ro\n/dev/termination-log File \
    IfNotPresent\nlivenessProbe http-get /healthz 8080 delay=10s timeout=1s period=10s #success=1 #failure=3";
