"""Calls in plain text and prints what gRPC's own library says within a second: grpc_plain_text.py ADDRESS.

Needs grpcio.
"""

import sys

import grpc

# A proxy from the environment must not be used for a server on loopback.
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.enable_http_proxy", 0)])
increment = channel.unary_unary("/usage.v1.UsageService/Increment")
try:
    increment(b"", timeout=1)
except grpc.RpcError as error:
    print(error.code().name, error.details())
