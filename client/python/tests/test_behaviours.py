"""The behaviours that clients in all languages share. `client/behaviours.txt` names them; each has a test of its name."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
import uuid
from collections.abc import Callable, Iterator
from unittest import mock

import grpc
from usage_client import ErrorKind, Increment, Outcome, Reason, RefusedUsage, Retry, UsageClient, UsageError
from usage_client.proto import usage_service_pb2

import serving
from lossy_proxy import LossyProxy
from scripted_server import Answer, ScriptedServer, counted, failure
from serving import total

LIST = pathlib.Path(__file__).resolve().parents[2] / "behaviours.txt"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
WAIT_SECS = 30.0
# Longer than any test: only the end of the process sends.
NEVER_SECS = 3_600.0

RECORDS_AND_ENDS = """
import signal, sys
from usage_client import UsageClient

client = UsageClient(sys.argv[1])
recorder = client.recorder(["tokens"], interval=3600, exit_timeout=float(sys.argv[3]))
recorder.record("acct-exit-" + sys.argv[2], "tokens", 12)
if sys.argv[2] == "sigterm":
    print("ready", flush=True)
    signal.pause()
"""


class Behaviours(unittest.TestCase):
    server: str
    client: UsageClient

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = serving.start(cls)
        cls.client = UsageClient(cls.server)
        cls.addClassCleanup(cls.client.close)

    def connect(self, server: str, timeout: float = WAIT_SECS, retry: Retry = Retry(first=0.01)) -> UsageClient:
        client = UsageClient(server, timeout=timeout, retry=retry)
        self.addCleanup(client.close)
        return client

    def scripted(self, *answers: Answer) -> ScriptedServer:
        server = ScriptedServer(list(answers))
        self.addCleanup(server.close)
        return server

    def silent(self) -> str:
        """A server that takes connections and says nothing."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def test_counted_once_when_the_answer_is_lost(self) -> None:
        proxy = LossyProxy(self.server)
        self.addCleanup(proxy.close)
        answer = self.connect(proxy.address).increment("acct-lost", meter="tokens", quantity=7)
        self.assertEqual((proxy.lost, proxy.connections), (1, 2))
        self.assertTrue(answer.duplicate, "the first attempt has counted it")
        self.assertEqual(total(self.client, "acct-lost", "tokens"), 7)

    def test_key_is_kept_over_retries(self) -> None:
        server = self.scripted(failure(UNAVAILABLE), failure(UNAVAILABLE, "DATABASE_UNAVAILABLE"), counted)
        client = self.connect(server.address)
        answer = client.increment("acct-1")
        keys = [request.idempotency_key for request in server.increments()]
        self.assertEqual(keys, [answer.key] * 3)
        self.assertEqual(uuid.UUID(answer.key).version, 7)
        self.assertNotEqual(client.increment("acct-1").key, answer.key)
        # The program's own key is not replaced.
        self.assertEqual(client.increment("acct-1", key="request-1").key, "request-1")

    def test_refused_usage_is_told(self) -> None:
        told: list[RefusedUsage] = []
        recorder = self.client.recorder(["tokens"], interval=NEVER_SECS, on_refused=told.append)
        recorder.record("acct-refused", "tokens", 2)
        recorder.record("acct-refused", "steps", 3)
        recorder.record("acct-refused", "steps", 4)
        with self.assertLogs("usage_client", "ERROR") as logged:
            figures = recorder.close(WAIT_SECS)
        self.assertEqual((figures.counted.units, figures.refused.units, figures.refused.calls), (2, 7, 2))
        self.assertFalse(figures.is_complete)
        kinds = {(one.account_id, one.meter, one.reason) for one in told}
        self.assertEqual(kinds, {("acct-refused", "steps", Reason.UNKNOWN_METER)})
        self.assertEqual((sum(one.units for one in told), sum(one.calls for one in told)), (7, 2))
        self.assertIn("tokens", told[0].why, "it names the meters that there are")
        self.assertIn("rejected", logged.output[0])

    def test_errors_carry_reason_and_request_id(self) -> None:
        with self.assertRaises(UsageError) as raised:
            self.client.increment("acct-1", quantity=0)
        error = raised.exception
        self.assertEqual((error.kind, error.reason), (ErrorKind.INVALID, Reason.INVALID_FIELD))
        self.assertEqual(error.code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual([one.field for one in error.violations], ["quantity"])
        self.assertTrue(error.request_id)
        self.assertIn("INVALID_FIELD", str(error))
        self.assertFalse(error.may_have_taken_effect or error.is_retryable)
        copy = pickle.loads(pickle.dumps(error))
        self.assertEqual((str(copy), copy.request_id, copy.violations), (str(error), error.request_id, error.violations))

        overloaded = self.scripted(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=0.25))
        with self.assertRaises(UsageError) as raised:
            self.connect(overloaded.address, retry=Retry.never()).increment("acct-1", key="k")
        error = raised.exception
        self.assertEqual((error.kind, error.reason, error.retry_after), (ErrorKind.OVERLOADED, Reason.OVERLOADED, 0.25))
        self.assertEqual((error.request_id, error.cause_id, error.idempotency_key), ("r-1", "c-1", "k"))
        self.assertTrue(error.is_retryable and not error.may_have_taken_effect)

    def test_deadline_is_kept(self) -> None:
        began = time.monotonic()
        with self.assertRaises(UsageError) as raised:
            self.connect(self.silent(), timeout=0.3).increment("acct-1")
        took = time.monotonic() - began
        self.assertEqual(raised.exception.kind, ErrorKind.DEADLINE)
        self.assertTrue(raised.exception.is_retryable and raised.exception.idempotency_key)
        self.assertTrue(0.29 <= took < 5, took)
        # A call's own deadline comes before that of the client.
        began = time.monotonic()
        with self.assertRaises(UsageError):
            self.connect(self.silent()).increment("acct-1", timeout=0.1)
        self.assertLess(time.monotonic() - began, 5)

    def test_retries_stop_at_the_deadline(self) -> None:
        server = self.scripted(failure(UNAVAILABLE, "SHUTTING_DOWN"))
        began = time.monotonic()
        with self.assertRaises(UsageError) as raised:
            self.connect(server.address, timeout=1.0, retry=Retry(first=0.02, longest=0.05)).increment("acct-1")
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual((raised.exception.kind, raised.exception.reason), (ErrorKind.UNAVAILABLE, Reason.SHUTTING_DOWN))
        remaining = [call.remaining for call in server.calls]
        self.assertGreater(len(remaining), 2)
        self.assertLess(remaining[0], 1.1)
        self.assertLess(remaining[-1], 0.5, "one deadline for all attempts")
        # A delay that the server asks for and that ends after the deadline is not waited for.
        server = self.scripted(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=60))
        with self.assertRaises(UsageError):
            self.connect(server.address, timeout=5).increment("acct-1")
        self.assertEqual(len(server.calls), 1)

    def test_no_retry_of_what_cannot_succeed(self) -> None:
        for code, reason, kind in [
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ErrorKind.INVALID),
            (grpc.StatusCode.ALREADY_EXISTS, "KEY_REUSED", ErrorKind.KEY_REUSED),
            (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND", ErrorKind.NOT_FOUND),
            (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", ErrorKind.PERMISSION_DENIED),
            (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", ErrorKind.UNAUTHENTICATED),
            (grpc.StatusCode.INTERNAL, "INTERNAL", ErrorKind.INTERNAL),
            # It has the code of an overload, which is retried.
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", ErrorKind.INVALID),
        ]:
            with self.subTest(reason=reason):
                server = self.scripted(failure(code, reason), counted)
                with self.assertRaises(UsageError) as raised:
                    self.connect(server.address).increment("acct-1")
                self.assertEqual((raised.exception.kind, raised.exception.reason), (kind, Reason(reason)))
                self.assertEqual(len(server.calls), 1)

    def test_recorder_flushes_at_exit(self) -> None:
        for end, code in (("normal", 0), ("sigterm", 128 + signal.SIGTERM)):
            with self.subTest(end=end):
                with self.program(self.server, end, WAIT_SECS) as process:
                    if end == "sigterm":
                        assert process.stdout is not None
                        self.assertEqual(process.stdout.readline(), "ready\n")
                        process.terminate()
                    _, errors = process.communicate(timeout=WAIT_SECS)
                self.assertEqual(process.returncode, code, errors)
                self.assertEqual(total(self.client, f"acct-exit-{end}", "tokens"), 12)
        with self.program(self.silent(), "limit", 0.2) as process:
            _, errors = process.communicate(timeout=WAIT_SECS)
        self.assertEqual(process.returncode, 0, errors)
        self.assertIn("12 units of 1 calls are still pending after 0.2 s", errors)

    @staticmethod
    @contextlib.contextmanager
    def program(server: str, end: str, limit: float) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", RECORDS_AND_ENDS, server, end, str(limit)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def test_recorder_is_bounded(self) -> None:
        told: list[RefusedUsage] = []
        may_answer = threading.Event()
        self.addCleanup(may_answer.set)

        def count_when_allowed(context: grpc.ServicerContext) -> bytes:
            may_answer.wait(WAIT_SECS)
            request = usage_service_pb2.IncrementBatchRequest.FromString(server.calls[-1].message)
            counted = usage_service_pb2.IncrementResult(outcome=usage_service_pb2.INCREMENT_OUTCOME_COUNTED)
            results = [counted] * len(request.increments)
            return usage_service_pb2.IncrementBatchResponse(results=results).SerializeToString()

        server = self.scripted(count_when_allowed)
        recorder = self.connect(server.address).recorder([], capacity=2, on_refused=told.append)
        with self.assertLogs("usage_client", "ERROR"):
            for number in (1, 2, 3, 4):
                recorder.record(f"acct-full-{number}", "tokens", 5)
            figures = recorder.figures()
            self.assertEqual((figures.pending.units, figures.dropped.units), (10, 10))
            may_answer.set()
            figures = recorder.flush(WAIT_SECS)
        self.assertEqual((figures.recorded.units, figures.counted.units, figures.dropped.units), (20, 10, 10))
        self.assertEqual([one.account_id for one in told], ["acct-full-3", "acct-full-4"])
        self.assertIn("the recorder is full", told[0].why)
        # What was counted has made room.
        recorder.record("acct-full-3", "tokens", 5)
        figures = recorder.close(WAIT_SECS)
        self.assertEqual((figures.counted.units, figures.dropped.units), (15, 10))
        recorder.record("acct-full-1", "tokens", 5)
        self.assertEqual(recorder.figures().dropped.units, 15, "it is closed")

    def test_wrong_meter_is_told_at_start(self) -> None:
        told: list[UsageError] = []
        is_told = threading.Event()

        def on_wrong_meters(error: UsageError) -> None:
            told.append(error)
            is_told.set()

        with self.assertLogs("usage_client", "ERROR") as logged:
            recorder = self.client.recorder(["tokens", "", "steps"], on_wrong_meters=on_wrong_meters)
            self.assertTrue(is_told.wait(WAIT_SECS))
        self.assertTrue(recorder.close(WAIT_SECS).is_complete)
        self.assertEqual(told[0].kind, ErrorKind.INVALID)
        self.assertIn("'steps'", str(told[0]))
        self.assertIn("api_calls, tokens", str(told[0]))
        self.assertIn("'steps'", logged.output[0])
        self.client.check_meters(["tokens", ""])

    def test_empty_key_is_refused(self) -> None:
        server = self.scripted(counted)
        client = self.connect(server.address)
        calls: list[tuple[str, Callable[[], object]]] = [
            ("idempotency_key", lambda: client.increment("acct-1", key="")),
            ("idempotency_key", lambda: client.increment_batch(["acct-1"], key="")),
            ("idempotency_key", lambda: client.increment_batch(["acct-1"], key="", dry_run=True)),
            ("increments[1].idempotency_key", lambda: client.increment_batch(["acct-1", Increment("acct-1", key="")])),
            ("idempotency_key", lambda: client.correct("acct-1", 1, "a test", key="")),
        ]
        for field, call in calls:
            with self.assertRaises(UsageError) as raised:
                call()
            self.assertEqual(raised.exception.kind, ErrorKind.INVALID)
            wrong = [(one.field, one.description) for one in raised.exception.violations]
            self.assertEqual(wrong, [(field, "the key is empty; it must have 1 to 255 bytes, or be left out")])
        self.assertEqual(server.calls, [])

    def test_batch_items_are_answered_each(self) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        self.client.increment("acct-batch", key="known")
        batch: list[Increment | str] = [
            Increment("acct-batch", "tokens", 5, timestamp=now),
            Increment("acct-batch", "steps"),
            Increment("acct-batch", "tokens", 0),
            Increment("acct-batch", key="known"),
            "acct-batch",
        ]
        outcome = self.client.increment_batch(batch, key="batch-1")
        self.assertEqual(
            [(one.outcome, one.reason, one.field) for one in outcome.results],
            [
                (Outcome.COUNTED, None, ""),
                (Outcome.REFUSED, Reason.UNKNOWN_METER, "meter"),
                (Outcome.REFUSED, Reason.INVALID_FIELD, "quantity"),
                (Outcome.DUPLICATE, None, ""),
                (Outcome.COUNTED, None, ""),
            ],
        )
        self.assertEqual([place for place, _ in outcome.refused()], [1, 2])
        again = self.client.increment_batch(batch, key="batch-1")
        self.assertTrue(again.duplicate)
        self.assertEqual(again.results, outcome.results)
        self.assertEqual((total(self.client, "acct-batch"), total(self.client, "acct-batch", "tokens")), (2, 5))

    def test_api_key_from_environment_and_file(self) -> None:
        server = serving.Server()
        self.addCleanup(server.stop)
        keys = [server.create_key(role) for role in ("admin", "writer")]
        address, key = server.start(), keys[1]
        file = server.folder / "writer.key"
        file.write_text(f"{key}\n")
        self.assertEqual(self.reason_without_key(address), Reason.UNAUTHENTICATED)
        for made in (UsageClient(address, api_key=key), UsageClient(address, api_key_file=file)):
            with made as client:
                client.increment("acct-key")
                self.assertNotIn(key, repr(client))
        file_only = {"USAGE_SERVER": address, "USAGE_API_KEY": "", "USAGE_API_KEY_FILE": str(file)}
        # A key itself comes before a file with one.
        both = file_only | {"USAGE_API_KEY": key, "USAGE_API_KEY_FILE": "/nowhere/usage.key"}
        for variables in (file_only, both):
            with mock.patch.dict(os.environ, variables), UsageClient.from_env() as client:
                client.increment("acct-key")
                with self.assertRaises(UsageError) as raised:
                    client.get("acct-key")
                self.assertEqual(raised.exception.kind, ErrorKind.PERMISSION_DENIED, "a writer does not show usage")
        with UsageClient(address, api_key=keys[0]) as client:
            self.assertEqual(total(client, "acct-key"), 4)
        empty = server.folder / "empty.key"
        empty.write_text("\n")
        for path in (str(empty), "/nowhere/usage.key"):
            with self.assertRaisesRegex(UsageError, path):
                UsageClient(address, api_key_file=path)
        with self.assertRaises(UsageError) as raised:
            UsageClient(address, api_key="not a key\n")
        self.assertNotIn("not a key", str(raised.exception))

    def reason_without_key(self, address: str) -> Reason | str | None:
        with UsageClient(address) as client, self.assertRaises(UsageError) as raised:
            client.increment("acct-key")
        return raised.exception.reason


class EveryBehaviour(unittest.TestCase):
    def test_every_behaviour_of_the_list_has_a_test(self) -> None:
        named = [line.split(":")[0] for line in LIST.read_text().splitlines() if line]
        self.assertGreaterEqual(len(named), 13)
        tested = {name.removeprefix("test_") for name in dir(Behaviours) if name.startswith("test_")}
        self.assertEqual(tested, set(named))


if __name__ == "__main__":
    unittest.main()
