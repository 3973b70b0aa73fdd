"""Each reason that a server gives without much ado, and each way in which a connection fails."""

from __future__ import annotations

import datetime
import os
import pathlib
import socket
import subprocess
import tempfile
import unittest
from collections.abc import Callable
from unittest import mock

import grpc
from usage_client import ErrorKind, Reason, Retry, UsageClient, UsageError
from usage_client.proto import access_service_pb2, account_service_pb2, error_reason_pb2, usage_report_pb2, usage_service_pb2

import serving
from scripted_server import ScriptedServer, failure

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
# More than a connection that fails needs, also on a busy machine.
TIMEOUT = 20.0


def raised_by(test: unittest.TestCase, call: Callable[[], object]) -> UsageError:
    with test.assertRaises(UsageError) as raised:
        call()
    return raised.exception


class Reasons(unittest.TestCase):
    client: UsageClient

    @classmethod
    def setUpClass(cls) -> None:
        cls.client = UsageClient(serving.start(cls), timeout=TIMEOUT)
        cls.addClassCleanup(cls.client.close)

    def test_reasons_of_a_server(self) -> None:
        client = self.client
        client.increment("acct-1", key="used")
        linked = account_service_pb2.PutAccountRequest(account_id="acct-linked")
        linked.stripe.customer = "cus_1"
        etag = client.put_account(linked).account.etag
        self.assertTrue(etag)
        taken = account_service_pb2.PutAccountRequest(account_id="acct-other")
        taken.stripe.customer = "cus_1"
        changed = account_service_pb2.PutAccountRequest(account_id="acct-linked", etag="0")
        changed.free.SetInParent()
        dimensions = usage_service_pb2.IncrementRequest(account_id="acct-1", dimensions={"region": "eu"})
        large = usage_service_pb2.IncrementRequest(account_id="acct-1", idempotency_key="k" * (3 << 20))
        revoke = access_service_pb2.RevokeKeyRequest(id="0123456789abcdef")
        resolve = usage_service_pb2.ResolveReportRequest(
            account_id="acct-1", report_id="none", action=usage_report_pb2.RESOLVE_ACTION_RETRY, reason="to test"
        )
        noon = NOW.replace(hour=12, minute=0, second=0, microsecond=0)
        start, end = noon - DAY, noon

        def list_page(token: str) -> object:
            return list(client.list_reports(usage_service_pb2.ListReportsRequest(page_token=token)))

        hour = usage_service_pb2.GRANULARITY_HOUR
        for reason, kind, call in [
            (Reason.INVALID_FIELD, ErrorKind.INVALID, lambda: client.increment("no spaces")),
            (Reason.UNKNOWN_METER, ErrorKind.INVALID, lambda: client.increment("acct-1", meter="steps")),
            (Reason.TIMESTAMP_TOO_OLD, ErrorKind.INVALID, lambda: client.increment("a", timestamp=NOW - 35 * DAY)),
            (Reason.TIMESTAMP_IN_FUTURE, ErrorKind.INVALID, lambda: client.increment("a", timestamp=NOW + DAY)),
            (
                Reason.NOT_SUPPORTED,
                ErrorKind.INVALID,
                lambda: client.call(lambda to: to.usage.Increment, dimensions, repeatable=False),
            ),
            (
                Reason.MESSAGE_TOO_LARGE,
                ErrorKind.INVALID,
                lambda: client.call(lambda to: to.usage.Increment, large, repeatable=False),
            ),
            (Reason.KEY_REUSED, ErrorKind.KEY_REUSED, lambda: client.increment("acct-1", quantity=2, key="used")),
            (
                Reason.PERIOD_NOT_ALIGNED,
                ErrorKind.INVALID,
                lambda: client.get("a", start=start + DAY / 1_000, end=end),
            ),
            (
                Reason.TOO_MANY_POINTS,
                ErrorKind.INVALID,
                lambda: client.get("a", start=start - 900 * DAY, end=end, granularity=hour),
            ),
            (Reason.PAGE_TOKEN_INVALID, ErrorKind.INVALID, lambda: list_page("damaged")),
            (Reason.ACCOUNT_NOT_FOUND, ErrorKind.NOT_FOUND, lambda: client.get_account("acct-none")),
            (Reason.CUSTOMER_TAKEN, ErrorKind.CUSTOMER_TAKEN, lambda: client.put_account(taken)),
            (Reason.ETAG_MISMATCH, ErrorKind.ETAG_MISMATCH, lambda: client.put_account(changed)),
            (Reason.BELOW_ZERO, ErrorKind.PRECONDITION, lambda: client.correct("acct-1", -9, "to test")),
            (
                Reason.REPORT_NOT_FOUND,
                ErrorKind.NOT_FOUND,
                lambda: client.call(lambda to: to.usage.ResolveReport, resolve, repeatable=True),
            ),
            (
                Reason.REPORTING_DISABLED,
                ErrorKind.REPORTING_DISABLED,
                lambda: client.call(
                    lambda to: to.usage.Reconcile, usage_service_pb2.ReconcileRequest(), repeatable=True
                ),
            ),
            (
                Reason.API_KEY_NOT_FOUND,
                ErrorKind.NOT_FOUND,
                lambda: client.call(lambda to: to.access.RevokeKey, revoke, repeatable=True),
            ),
        ]:
            with self.subTest(reason=reason):
                error = raised_by(self, call)
                self.assertEqual((error.reason, error.kind), (reason, kind), str(error))
                self.assertTrue(error.request_id)
                self.assertFalse(error.may_have_taken_effect)

    def test_every_reason_of_the_contract_is_known(self) -> None:
        names = error_reason_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"].values_by_name
        short = {name.removeprefix("ERROR_REASON_") for name in names} - {"UNSPECIFIED"}
        self.assertEqual({reason.value for reason in Reason}, short)

    def test_reason_of_a_newer_server_keeps_its_name(self) -> None:
        server = ScriptedServer([failure(grpc.StatusCode.ALREADY_EXISTS, "TOO_BLUE")])
        self.addCleanup(server.close)
        with UsageClient(server.address) as client:
            error = raised_by(self, lambda: client.increment("acct-1"))
        self.assertEqual((error.reason, error.kind), ("TOO_BLUE", ErrorKind.INVALID))

    def test_arguments_that_do_not_fit_are_not_sent(self) -> None:
        client = self.client
        for field, call in [
            ("idempotency_key", lambda: client.increment("a", key="")),
            ("increment", lambda: client.increment("a", quantity=1 << 70)),
            ("timestamp", lambda: client.increment("a", timestamp=datetime.datetime(2026, 1, 1))),
            ("increments", lambda: client.increment_batch([])),
            ("increments", lambda: client.increment_batch(["a"] * 1_001)),
            ("period", lambda: client.get("a", start=NOW)),
            ("server", lambda: UsageClient("ftp://127.0.0.1:1")),
            ("server", lambda: UsageClient("http://a b")),
            ("server", lambda: UsageClient([])),
            ("api_key", lambda: UsageClient(api_key="")),
        ]:
            with self.subTest(field=field):
                error = raised_by(self, call)
                self.assertEqual((error.kind, error.code), (ErrorKind.INVALID, None), str(error))
                self.assertEqual([one.field for one in error.violations], [field])


class Connections(unittest.TestCase):
    def refusing(self) -> str:
        """An address where nothing listens."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def test_refused_connection_has_no_effect(self) -> None:
        with UsageClient(self.refusing(), timeout=TIMEOUT, retry=Retry.never()) as client:
            error = raised_by(self, lambda: client.increment("acct-1"))
        self.assertEqual(error.kind, ErrorKind.TRANSPORT, str(error))
        self.assertTrue(error.is_retryable and not error.may_have_taken_effect)

    def test_answer_of_a_proxy_is_not_a_lost_connection(self) -> None:
        server = ScriptedServer([failure(grpc.StatusCode.UNAVAILABLE)])
        self.addCleanup(server.close)
        with UsageClient(server.address, retry=Retry.never()) as client:
            error = raised_by(self, lambda: client.increment("acct-1"))
        self.assertEqual((error.kind, error.reason, error.request_id), (ErrorKind.UNAVAILABLE, None, "r-2"))
        self.assertTrue(error.may_have_taken_effect)

    def test_call_that_is_unsafe_to_repeat_is_sent_once(self) -> None:
        for answer, sent in ((failure(grpc.StatusCode.UNAVAILABLE), 1), (failure(grpc.StatusCode.RESOURCE_EXHAUSTED), 3)):
            server = ScriptedServer([answer])
            self.addCleanup(server.close)
            with UsageClient(server.address, retry=Retry(attempts=3, first=0.01)) as client:
                changed = account_service_pb2.PutAccountRequest(account_id="a", etag="1")
                raised_by(self, lambda: client.put_account(changed))
            self.assertEqual(len(server.calls), sent)

    def test_a_server_that_is_down_is_passed_over(self) -> None:
        address = serving.start(self)
        with UsageClient([self.refusing(), address], timeout=TIMEOUT) as client:
            for number in range(4):
                self.assertFalse(client.increment("acct-1", key=str(number)).duplicate)

    def test_calls_go_over_tls(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = temporary.name
        for name in ("server", "other"):
            subject = ["-subj", "/CN=usage.internal", "-addext", "subjectAltName=DNS:usage.internal"]
            files = ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            subprocess.run([*command, *subject, *files], check=True, capture_output=True, timeout=60)
        address = serving.start(self, TLS_CERT_FILE=f"{folder}/server.pem", TLS_KEY_FILE=f"{folder}/server.key")
        trusted, other = (pathlib.Path(folder, f"{name}.pem").read_bytes() for name in ("server", "other"))
        with UsageClient(address, ca_certificate=trusted, domain_name="usage.internal") as client:
            client.increment("acct-tls")
        variables = {"USAGE_TLS_CA": f"{folder}/server.pem", "USAGE_TLS_DOMAIN": "usage.internal", "USAGE_API_KEY": ""}
        cleared = {"USAGE_TLS_CERT": "", "USAGE_TLS_KEY": "", "USAGE_API_KEY_FILE": ""}
        with mock.patch.dict(os.environ, variables | cleared | {"USAGE_SERVER": address}):
            with UsageClient.from_env() as client:
                client.increment("acct-tls")
            with mock.patch.dict(os.environ, {"USAGE_TLS_CERT": f"{folder}/server.pem"}):
                self.assertIn("USAGE_TLS_KEY", str(raised_by(self, UsageClient.from_env)))
        for client in (
            UsageClient(address, ca_certificate=other, domain_name="usage.internal", timeout=TIMEOUT),
            UsageClient(address, ca_certificate=trusted, domain_name="another.internal", timeout=TIMEOUT),
        ):
            with client:
                error = raised_by(self, lambda: client.increment("acct-tls"))
            self.assertEqual(error.kind, ErrorKind.TLS, str(error))
            self.assertFalse(error.is_retryable or error.may_have_taken_effect)


if __name__ == "__main__":
    unittest.main()
