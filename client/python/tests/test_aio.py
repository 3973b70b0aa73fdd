"""The client for asyncio does what the other one does."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import unittest
from collections.abc import Awaitable
from unittest import mock

import grpc
from usage_client import AsyncUsageClient, ErrorKind, Outcome, Reason, Retry, UsageError
from usage_client.proto.account_service_pb2 import ListAccountsRequest, PutAccountRequest
from usage_client.proto.usage_service_pb2 import ListReportsRequest

import serving
from lossy_proxy import LossyProxy
from scripted_server import ScriptedServer, counted, failure

WAIT_SECS = 30.0
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Asyncio(unittest.IsolatedAsyncioTestCase):
    server: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = serving.start(cls)

    def connect(self, server: str, timeout: float = WAIT_SECS, retry: Retry = Retry(first=0.01)) -> AsyncUsageClient:
        client = AsyncUsageClient(server, timeout=timeout, retry=retry)
        self.addAsyncCleanup(client.close)
        return client

    async def raised_by(self, call: Awaitable[object]) -> UsageError:
        with self.assertRaises(UsageError) as raised:
            await call
        return raised.exception

    async def test_counted_once_when_the_answer_is_lost(self) -> None:
        proxy = LossyProxy(self.server)
        self.addCleanup(proxy.close)
        answer = await self.connect(proxy.address).increment("acct-lost", meter="tokens", quantity=7)
        self.assertEqual((proxy.lost, answer.duplicate), (1, True))
        usage = await self.connect(self.server).get("acct-lost", meter="tokens")
        self.assertEqual(usage.meters[0].quantities.total, 7)

    async def test_key_and_deadline_are_kept_over_retries(self) -> None:
        server = ScriptedServer([failure(UNAVAILABLE), failure(UNAVAILABLE, "SHUTTING_DOWN"), counted])
        self.addCleanup(server.close)
        answer = await self.connect(server.address).increment("a")
        self.assertEqual([request.idempotency_key for request in server.increments()], [answer.key] * 3)
        server = ScriptedServer([failure(UNAVAILABLE, "SHUTTING_DOWN")])
        self.addCleanup(server.close)
        began = time.monotonic()
        client = self.connect(server.address, timeout=1.0, retry=Retry(first=0.02, longest=0.05))
        error = await self.raised_by(client.increment("a", key="k"))
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual((error.kind, error.reason), (ErrorKind.UNAVAILABLE, Reason.SHUTTING_DOWN))
        self.assertEqual((error.request_id, error.cause_id, error.idempotency_key), ("r-1", "c-1", "k"))
        remaining = [call.remaining for call in server.calls]
        self.assertGreater(len(remaining), 2)
        self.assertLess(remaining[-1], 0.5, "one deadline for all attempts")

    async def test_no_retry_of_what_cannot_succeed(self) -> None:
        server = ScriptedServer([failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), counted])
        self.addCleanup(server.close)
        error = await self.raised_by(self.connect(server.address).increment("a"))
        self.assertEqual((error.kind, len(server.calls)), (ErrorKind.INVALID, 1))

    async def test_deadline_is_kept_and_a_call_can_be_cancelled(self) -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = await self.raised_by(self.connect(address, timeout=0.2).increment("a"))
        self.assertEqual(error.kind, ErrorKind.DEADLINE)
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(self.connect(address).increment("a"), 0.05)

    async def test_errors_of_a_server_and_of_a_connection(self) -> None:
        client = self.connect(self.server)
        error = await self.raised_by(client.increment("a", quantity=0))
        self.assertEqual((error.reason, [one.field for one in error.violations]), (Reason.INVALID_FIELD, ["quantity"]))
        self.assertTrue(error.request_id)
        error = await self.raised_by(client.check_meters(["tokens", "steps"]))
        self.assertIn("'steps'", str(error))
        gone = ScriptedServer([counted])
        gone.close()
        error = await self.raised_by(self.connect(gone.address, retry=Retry.never()).increment("a"))
        self.assertEqual((error.kind, error.may_have_taken_effect), (ErrorKind.TRANSPORT, False))

    async def test_other_calls(self) -> None:
        variables = {"USAGE_SERVER": self.server, "USAGE_API_KEY": "", "USAGE_API_KEY_FILE": "", "USAGE_TLS_CA": ""}
        with mock.patch.dict(os.environ, variables):
            client = AsyncUsageClient.from_env()
        async with client:
            outcome = await client.increment_batch(["acct-other", "no spaces"])
            self.assertEqual([one.outcome for one in outcome.results], [Outcome.COUNTED, Outcome.REFUSED])
            account = PutAccountRequest(account_id="acct-other")
            account.free.SetInParent()
            await client.put_account(account)
            self.assertEqual((await client.get_account("acct-other")).account.account_id, "acct-other")
            await client.increment("acct-other", quantity=5)
            corrected = await client.correct("acct-other", -1, "counted to test")
            # One a page, so that the pages are turned.
            wanted = ListReportsRequest(account_id="acct-other", page_size=1)
            reports = [report.id async for report in client.list_reports(wanted)]
            self.assertIn(corrected.report.id, reports)
            self.assertGreater(len(reports), 1)
            page = await client.call(lambda to: to.accounts.ListAccounts, ListAccountsRequest(), repeatable=True)
            self.assertEqual([one.account_id for one in page.accounts], ["acct-other"])


if __name__ == "__main__":
    unittest.main()
