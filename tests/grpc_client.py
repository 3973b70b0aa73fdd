"""Counts usage and reads it back with stubs that Python's own generator makes of the proto folder: grpc_client.py ADDRESS.

Needs grpcio-tools and googleapis-common-protos.
"""

import importlib
import pathlib
import sys
import tempfile
import time

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

ADDRESS = sys.argv[1]
PROTO = pathlib.Path(__file__).parent.parent / "proto"

with tempfile.TemporaryDirectory() as folder:
    files = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("usage/v1/*.proto"))
    google = pathlib.Path(importlib.import_module("grpc_tools").__file__).parent / "_proto"
    flags = [f"-I{PROTO}", f"-I{google}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main(["protoc", *flags, *files]) == 0
    sys.path.insert(0, folder)
    # A message belongs to the service beside which it is defined.
    messages = importlib.import_module("usage.v1.usage_service_pb2")
    services = importlib.import_module("usage.v1.usage_service_pb2_grpc")

# A proxy from the environment must not be used for a server on loopback.
channel = grpc.insecure_channel(ADDRESS, options=[("grpc.enable_http_proxy", 0)])
grpc.channel_ready_future(channel).result(timeout=20)
usage = services.UsageServiceStub(channel)


def increment(**fields):
    request = messages.IncrementRequest(account_id="acct-python", meter="tokens", **fields)
    return usage.Increment(request, timeout=20)


assert not increment(quantity=1200, idempotency_key="one").duplicate
assert increment(quantity=1200, idempotency_key="one").duplicate
assert not increment(quantity=7, idempotency_key="two").duplicate

# A compressed message counts too.
compressed = messages.IncrementRequest(account_id="acct-python", meter="tokens", idempotency_key="three")
assert not usage.Increment(compressed, timeout=20, compression=grpc.Compression.Gzip).duplicate

# A correction and an increment name their time alike.
correction = messages.CorrectRequest(account_id="acct-python", meter="tokens", quantity=-1, reason="counted to test")
correction.timestamp.FromSeconds(int(time.time()))
assert usage.Correct(correction, timeout=20).report.quantity == -1

# What is refused names its field, in the standard's own details.
try:
    increment(quantity=0)
    raise SystemExit("a quantity of 0 was taken")
except grpc.RpcError as refused:
    assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT, refused
    trailers = dict(refused.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    kinds = {detail.type_url.rsplit(".", 1)[1]: detail for detail in status.details}
    violations = error_details_pb2.BadRequest()
    assert kinds["BadRequest"].Unpack(violations), kinds
    assert [one.field for one in violations.field_violations] == ["quantity"], violations
    assert isinstance(kinds["ErrorInfo"], any_pb2.Any)

# The last 7 days, rounded outward to slots. The response has the period that was used.
query = messages.GetRequest(account_id="acct-python", meter="tokens", round_outward=True)
now = int(time.time()) + 1
query.period.start.FromSeconds(now - 7 * 24 * 3600)
query.period.end.FromSeconds(now)
answer = usage.Get(query, timeout=20)
assert answer.period.start.seconds % 3600 == 0 and answer.period.end.seconds % 3600 == 0, answer.period
assert answer.period.start.seconds <= query.period.start.seconds, answer.period
assert answer.period.end.seconds >= now, answer.period
total = answer.meters[0].quantities.total
print(f"counted {total} once")
