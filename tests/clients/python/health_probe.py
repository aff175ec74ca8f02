"""A probe as orchestrators have it, with the stubs of grpcio-health-checking."""

import checks
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def main():
    """Check and Watch, of the whole server and of a service that it does not have."""
    checks.in_time()
    where = checks.arguments()
    target = f"{where.host}:{where.port}"
    if where.ca:
        read = lambda path: open(path, "rb").read()
        shown = grpc.ssl_channel_credentials(read(where.ca), read(where.key), read(where.cert))
        channel = grpc.secure_channel(target, shown)
    else:
        channel = grpc.insecure_channel(target)
    check = checks.Checks()
    probe = health_pb2_grpc.HealthStub(channel)
    asked = lambda service: health_pb2.HealthCheckRequest(service=service)
    check.equal(probe.Check(asked(""), timeout=20).status, SERVING, "the server")
    for service in ["etcdserverpb.KV", "none"]:
        try:
            probe.Check(asked(service), timeout=20)
        except grpc.RpcError as error:
            check.equal((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, "unknown service"), service)
    with_limit = lambda service: probe.Watch(asked(service), timeout=20)
    for service, status in [("", SERVING), ("none", UNKNOWN)]:
        watch = with_limit(service)
        check.equal(next(watch).status, status, f"a watch of {service!r}")
        watch.cancel()
    for _ in range(100):
        check.equal(probe.Check(asked(""), timeout=20).status, SERVING, "again and again")
    check.done()


main()
