"""A gRPC server that answers from a list, and remembers what it was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from usage_client.proto import usage_service_pb2 as messages

Answer = Callable[[grpc.ServicerContext], bytes]


@dataclasses.dataclass
class Call:
    """A call that arrived."""

    method: str
    message: bytes
    metadata: dict[str, str | bytes]
    remaining: float


class ScriptedServer(grpc.GenericRpcHandler):
    """Gives each call the next answer; the last one again and again."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers
        self.calls: list[Call] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Ends it."""
        self._server.stop(grace=None).wait(timeout=10)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Every method has the same handler."""

        def handle(message: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = dict(context.invocation_metadata())
            self.calls.append(Call(details.method, message, metadata, context.time_remaining()))
            return self._answers[min(len(self.calls), len(self._answers)) - 1](context)

        def handle_stream(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield handle(message, context)
            # What comes after the first answer is the script's next one.
            yield handle(message, context)

        if details.method.endswith("/ForceReport"):
            return grpc.unary_stream_rpc_method_handler(handle_stream)
        return grpc.unary_unary_rpc_method_handler(handle)

    def increments(self) -> Iterator[messages.IncrementRequest]:
        """The increments that arrived."""
        return (messages.IncrementRequest.FromString(call.message) for call in self.calls)


def counted(context: grpc.ServicerContext) -> bytes:
    """An increment was counted."""
    return messages.IncrementResponse().SerializeToString()


def failure(code: grpc.StatusCode, reason: str = "", retry_after: float = 0.0) -> Answer:
    """A status, with the details that the service gives if there is a reason."""

    def answer(context: grpc.ServicerContext) -> bytes:
        if reason:
            info = error_details_pb2.ErrorInfo(reason=reason, domain="usage-billing", metadata={"cause_id": "c-1"})
            request = error_details_pb2.RequestInfo(request_id="r-1")
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(retry_after * 1e9))
            details = []
            for detail in (info, request, retry):
                packed = any_pb2.Any()
                packed.Pack(detail)
                details.append(packed)
            status = status_pb2.Status(code=code.value[0], message="what was wrong", details=details)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        else:
            context.set_trailing_metadata((("x-request-id", "r-2"),))
        context.abort(code, "what was wrong")

    return answer
