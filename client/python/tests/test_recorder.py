"""What a recorder does beyond the behaviours that clients in all languages share."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc
from usage_client import ErrorKind, Reason, Recorder, RefusedUsage, Retry, UsageClient, UsageError
from usage_client.proto import error_reason_pb2
from usage_client.proto import usage_service_pb2 as messages

import serving
from scripted_server import Answer, ScriptedServer, failure
from serving import total

WAIT_SECS = 30.0
NEVER_SECS = 3_600.0
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

IN_A_FORK = """
import os, sys
from usage_client import UsageClient

recorder = UsageClient(sys.argv[1]).recorder([], interval=3600)
recorder.record("acct-fork", "tokens", 1)
child = os.fork()
if child == 0:
    try:
        recorder.record("acct-fork", "tokens", 2)
    except RuntimeError as error:
        print(error, flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

IN_PROCESSES = """
import multiprocessing, sys
from usage_client import UsageClient

def work(server, units):
    UsageClient(server).recorder([], interval=3600).record("acct-processes", "tokens", units)

if __name__ == "__main__":
    for method, units in (("spawn", 3), ("fork", 4)):
        process = multiprocessing.get_context(method).Process(target=work, args=(sys.argv[1], units))
        process.start()
        process.join()
"""


def answered(result: messages.IncrementResult) -> Answer:
    """A batch of one increment was answered so."""
    return lambda context: messages.IncrementBatchResponse(results=[result]).SerializeToString()


COUNTED = answered(messages.IncrementResult(outcome=messages.INCREMENT_OUTCOME_COUNTED))
EARLY = answered(
    messages.IncrementResult(
        outcome=messages.INCREMENT_OUTCOME_REFUSED,
        error=messages.IncrementError(reason=error_reason_pb2.ERROR_REASON_TIMESTAMP_IN_FUTURE),
    )
)


class Recording(unittest.TestCase):
    server: str
    client: UsageClient

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = serving.start(cls)
        cls.client = UsageClient(cls.server)
        cls.addClassCleanup(cls.client.close)

    def scripted(self, *answers: Answer, interval: float = 0.01) -> tuple[ScriptedServer, Recorder]:
        server = ScriptedServer(list(answers))
        self.addCleanup(server.close)
        client = UsageClient(server.address, retry=Retry.never())
        self.addCleanup(client.close)
        return server, client.recorder([], interval=interval)

    def run_program(self, code: str) -> str:
        command = [sys.executable, "-c", code, self.server]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_batch_keeps_its_key_until_it_is_answered(self) -> None:
        server, recorder = self.scripted(failure(UNAVAILABLE), failure(grpc.StatusCode.UNAUTHENTICATED), COUNTED)
        recorder.record("a", "tokens", 2)
        with self.assertLogs("usage_client", "WARNING") as logged:
            self.assertEqual(recorder.close(WAIT_SECS).counted.units, 2)
        keys = {messages.IncrementBatchRequest.FromString(call.message).idempotency_key for call in server.calls}
        self.assertEqual((len(server.calls), len(keys)), (3, 1))
        self.assertIn(keys.pop(), logged.output[0])

    def test_usage_that_is_early_is_sent_again_under_another_key(self) -> None:
        server, recorder = self.scripted(EARLY, COUNTED)
        recorder.record("a", "tokens", 2)
        with self.assertLogs("usage_client", "WARNING"):
            self.assertTrue(recorder.flush(WAIT_SECS).is_complete)
        sent = [messages.IncrementBatchRequest.FromString(call.message) for call in server.calls]
        self.assertEqual(len({request.idempotency_key for request in sent}), 2)
        self.assertEqual(sent[0].increments[0], sent[1].increments[0], "it keeps its time")
        self.assertTrue(recorder.close(WAIT_SECS).is_complete)

    def test_batch_that_the_server_rejects_is_refused(self) -> None:
        told: list[RefusedUsage] = []
        server = ScriptedServer([failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")])
        self.addCleanup(server.close)
        with UsageClient(server.address) as client, self.assertLogs("usage_client", "ERROR"):
            recorder = client.recorder([], on_refused=told.append)
            recorder.record("a", "tokens", 2)
            self.assertEqual(recorder.close(WAIT_SECS).refused.units, 2)
        self.assertEqual((len(server.calls), told[0].reason), (1, Reason.INVALID_FIELD))

    def test_sums_are_sent_by_interval_and_by_size(self) -> None:
        for name, settings in (("interval", {"interval": 0.01}), ("size", {"interval": NEVER_SECS, "batch_size": 1})):
            is_sent = threading.Event()

            def answer(context: grpc.ServicerContext) -> bytes:
                is_sent.set()
                return COUNTED(context)

            server = ScriptedServer([answer])
            self.addCleanup(server.close)
            with UsageClient(server.address) as client:
                recorder = client.recorder(
                    [], interval=settings["interval"], batch_size=int(settings.get("batch_size", 1_000))
                )
                recorder.record("a", "tokens", 2)
                self.assertTrue(is_sent.wait(WAIT_SECS), name)
                self.assertTrue(recorder.close(WAIT_SECS).is_complete)

    def test_all_threads_are_counted(self) -> None:
        recorder = self.client.recorder(["tokens"], interval=0.01)

        def record() -> None:
            for number in range(500):
                recorder.record(f"acct-thread-{number % 5}", "tokens", 2)

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        figures = recorder.close(WAIT_SECS)
        self.assertTrue(figures.is_complete)
        self.assertEqual((figures.counted.units, figures.counted.calls), (4_000, 2_000))
        self.assertEqual(sum(total(self.client, f"acct-thread-{number}", "tokens") for number in range(5)), 4_000)

    def test_sum_beyond_one_increment_is_split(self) -> None:
        recorder = self.client.recorder(["tokens"], interval=NEVER_SECS)
        for quantity in (10**12, 10**12, 5):
            recorder.record("acct-large", "tokens", quantity)
        self.assertEqual(recorder.close(WAIT_SECS).counted.units, 2 * 10**12 + 5)

    def test_usage_outside_the_limits_is_dropped_and_told(self) -> None:
        told: list[RefusedUsage] = []
        recorder = self.client.recorder(["tokens"], interval=NEVER_SECS, on_refused=told.append)
        for account, quantity in (("", 1), ("a" * 129, 1), ("acct", 0), ("acct", -5), ("acct", 10**12 + 1), ("\ud800", 1)):
            recorder.record(account, "tokens", quantity)
        with self.assertLogs("usage_client", "ERROR"):
            figures = recorder.close(WAIT_SECS)
        self.assertEqual((figures.dropped.calls, figures.counted.calls), (6, 0))
        self.assertEqual(sum(one.calls for one in told), 6)
        self.assertTrue(all("limits" in one.why for one in told))

    def test_failing_function_of_the_program_stops_nothing(self) -> None:
        def fail(usage: RefusedUsage) -> None:
            raise ValueError("a bug of the program")

        recorder = self.client.recorder(["tokens"], interval=NEVER_SECS, on_refused=fail)
        recorder.record("acct-bug", "steps")
        recorder.record("acct-bug", "tokens")
        with self.assertLogs("usage_client", "ERROR") as logged:
            figures = recorder.close(WAIT_SECS)
        self.assertEqual((figures.counted.calls, figures.refused.calls), (1, 1))
        self.assertIn("a bug of the program", "".join(logged.output))

    def test_time_that_is_over_is_an_error_with_the_figures(self) -> None:
        _, recorder = self.scripted(failure(UNAVAILABLE))
        recorder.record("a", "tokens", 2)
        for wait in (recorder.flush, recorder.close):
            began = time.monotonic()
            with self.assertLogs("usage_client", "WARNING"), self.assertRaises(UsageError) as raised:
                wait(1.0)
            self.assertLess(time.monotonic() - began, 10)
            figures = raised.exception.figures
            assert figures is not None
            self.assertEqual((raised.exception.kind, figures.pending.units), (ErrorKind.DEADLINE, 2))

    def test_block_raises_unless_all_is_counted(self) -> None:
        with self.client.recorder(["tokens"], interval=NEVER_SECS) as recorder:
            recorder.record("acct-block", "tokens", 2)
        self.assertEqual(total(self.client, "acct-block", "tokens"), 2)
        with self.assertLogs("usage_client", "ERROR"), self.assertRaises(UsageError) as raised:
            with self.client.recorder(["tokens"], interval=NEVER_SECS) as recorder:
                recorder.record("acct-block", "steps", 2)
        self.assertEqual(raised.exception.kind, ErrorKind.INCOMPLETE)
        # The error of the block itself is not hidden.
        with self.assertLogs("usage_client", "ERROR"), self.assertRaises(KeyError):
            with self.client.recorder(["tokens"], interval=NEVER_SECS) as recorder:
                recorder.record("acct-block", "steps", 2)
                raise KeyError

    def test_figures_that_are_thrown_away_unread_are_logged(self) -> None:
        _, recorder = self.scripted(COUNTED, interval=NEVER_SECS)
        recorder.figures()
        with self.assertNoLogs("usage_client"):
            recorder.figures()
        recorder.record("a", "tokens", 0)
        with self.assertLogs("usage_client", "ERROR") as logged:
            recorder.figures()
        self.assertIn("not looked at", logged.output[0])
        with self.assertNoLogs("usage_client"):
            self.assertFalse(recorder.figures().is_complete)
        with self.assertLogs("usage_client", "ERROR"):
            self.assertEqual(recorder.close(WAIT_SECS).dropped.calls, 1)

    def test_recorder_of_a_parent_process_is_not_the_childs(self) -> None:
        lines = self.run_program(IN_A_FORK).splitlines()
        self.assertIn("belongs to the parent process", lines[0])
        self.assertEqual(lines[1], "7")
        self.assertEqual(total(self.client, "acct-fork", "tokens"), 1)

    def test_processes_of_multiprocessing_send_at_their_end(self) -> None:
        # Those that are not forked read the program again, so it is a file.
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder, "program.py")
            program.write_text(IN_PROCESSES)
            command = [sys.executable, str(program), self.server]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(total(self.client, "acct-processes", "tokens"), 7)


if __name__ == "__main__":
    unittest.main()
