"""Calls that have many answers, with asyncio and without."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import unittest
from collections.abc import Callable

import grpc
from usage_client import AsyncUsageClient, ErrorKind, Reason, Retry, UsageClient, UsageError
from usage_client.proto.account_service_pb2 import ExportAccountRequest
from usage_client.proto.usage_service_pb2 import ForceReportRequest, ForceReportResponse

import serving
from scripted_server import Answer, ScriptedServer, failure

WAIT_SECS = 30.0
EVERYTHING = ForceReportRequest(all=True)

Read = Callable[[str, float], list[ForceReportResponse]]


def started(context: grpc.ServicerContext) -> bytes:
    """A run has begun."""
    response = ForceReportResponse()
    response.started.run_id = "run-1"
    return response.SerializeToString()


def read(server: str, timeout: float) -> list[ForceReportResponse]:
    with UsageClient(server, timeout=timeout, retry=Retry(first=0.01)) as client:
        return list(client.stream(lambda to: to.usage.ForceReport, EVERYTHING, repeatable=True))


def read_with_asyncio(server: str, timeout: float) -> list[ForceReportResponse]:
    async def answers() -> list[ForceReportResponse]:
        async with AsyncUsageClient(server, timeout=timeout, retry=Retry(first=0.01)) as client:
            answers = await client.stream(lambda to: to.usage.ForceReport, EVERYTHING, repeatable=True)
            return [answer async for answer in answers]

    return asyncio.run(answers())


class Streams(unittest.TestCase):
    def scripted(self, *answers: Answer) -> ScriptedServer:
        server = ScriptedServer(list(answers))
        self.addCleanup(server.close)
        return server

    def both(self, test: Callable[[Read], None]) -> None:
        for way in (read, read_with_asyncio):
            with self.subTest(way=way.__name__):
                test(way)

    def test_all_answers_of_a_server_are_read(self) -> None:
        with UsageClient(serving.start(self), timeout=WAIT_SECS) as client:
            client.increment("acct-1", quantity=7)
            request = ExportAccountRequest(account_id="acct-1")
            parts = client.stream(lambda to: to.accounts.ExportAccount, request, repeatable=True)
            rows = [json.loads(line) for part in parts for line in part.lines]
            self.assertIn(7, [row["row"].get("quantity") for row in rows])
            with self.assertRaises(UsageError) as raised:
                client.stream(lambda to: to.usage.ForceReport, EVERYTHING, repeatable=False)
            self.assertEqual(raised.exception.reason, Reason.REPORTING_DISABLED, "before anything is read")

    def test_first_answer_is_retried_and_later_ones_are_not(self) -> None:
        def test(way: Read) -> None:
            server = self.scripted(failure(grpc.StatusCode.UNAVAILABLE), started, started)
            self.assertEqual([one.started.run_id for one in way(server.address, WAIT_SECS)], ["run-1"] * 2)
            self.assertEqual(len(server.calls), 3)
            server = self.scripted(started, failure(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"))
            with self.assertRaises(UsageError) as raised:
                way(server.address, WAIT_SECS)
            self.assertEqual((raised.exception.reason, len(server.calls)), (Reason.SHUTTING_DOWN, 2))

        self.both(test)

    def test_deadline_is_that_of_the_first_answer(self) -> None:
        def test(way: Read) -> None:
            is_over = threading.Event()
            self.addCleanup(is_over.set)

            def late(context: grpc.ServicerContext) -> bytes:
                is_over.wait(WAIT_SECS)
                return started(context)

            began = time.monotonic()
            with self.assertRaises(UsageError) as raised:
                way(self.scripted(late).address, 0.3)
            self.assertLess(time.monotonic() - began, 10)
            self.assertEqual(raised.exception.kind, ErrorKind.DEADLINE)
            self.assertIn("no answer within", str(raised.exception))

        self.both(test)


if __name__ == "__main__":
    unittest.main()
