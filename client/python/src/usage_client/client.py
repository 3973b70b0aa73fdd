"""The client: its settings, and how one call is sent."""

from __future__ import annotations

import datetime
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from usage_client import connect, increments, requests
from usage_client.errors import UsageError, key_in_error
from usage_client.key import new_key
from usage_client.proto import (
    access_service_pb2_grpc,
    account_service_pb2,
    account_service_pb2_grpc,
    operations_service_pb2_grpc,
    usage_report_pb2,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from usage_client.recorder import Recorder
from usage_client.refused import RefusedUsage
from usage_client.retry import Attempts, Retry, call_with_retry
from usage_client.status import from_rpc_error

if TYPE_CHECKING:
    from types import TracebackType

_Q = TypeVar("_Q")
_A = TypeVar("_A")

DEFAULT_TIMEOUT = 10.0
MAX_TIMEOUT = 86_400.0


class Services:
    """The generated services of one server: `usage`, `accounts`, `operations` and `access`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.usage = usage_service_pb2_grpc.UsageServiceStub(channel)
        self.accounts = account_service_pb2_grpc.AccountServiceStub(channel)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
        self.access = access_service_pb2_grpc.AccessServiceStub(channel)


class UsageClient:
    """A connection to usage-billing, for any number of threads.

    It connects with its first call, so the server may start later. A lost connection is made again by the next call, and
    failed calls are retried, see `Retry`. Make it after a fork, not before: gRPC's threads do not come along.

    Times are in seconds. Every call takes a `timeout` of its own; every failed one raises a `UsageError`.
    """

    def __init__(
        self,
        server: str | Sequence[str] = connect.DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry = Retry(),
        ca_certificate: bytes | None = None,
        client_certificate: tuple[bytes, bytes] | None = None,
        domain_name: str | None = None,
    ) -> None:
        """Configures a client.

        `server` is `http://HOST:PORT`, `https://HOST:PORT`, or several of them, up to 64, which take turns.
        `api_key` is sent with each call; `api_key_file` is read once, now.
        `timeout` is the deadline of each call, including all retries: at most a day.
        `ca_certificate` is the authority to trust, `client_certificate` a certificate and its key, all in PEM.
        `domain_name` is the name in the servers' certificates, if it differs from their addresses.
        """
        connection = connect.from_arguments(server, api_key, api_key_file, ca_certificate, client_certificate, domain_name)
        self._set_up(connection, timeout, retry)

    @classmethod
    def from_env(cls, *, timeout: float = DEFAULT_TIMEOUT, retry: Retry = Retry()) -> UsageClient:
        """A client of the servers, the API key and the TLS files that the environment names.

        `USAGE_SERVER` (one address, or several separated by commas), `USAGE_API_KEY` or `USAGE_API_KEY_FILE`, and
        `USAGE_TLS_CA`, `USAGE_TLS_CERT`, `USAGE_TLS_KEY` (files) and `USAGE_TLS_DOMAIN`: the variables of `usagectl`.
        """
        client = cls.__new__(cls)
        client._set_up(connect.from_env(), timeout, retry)
        return client

    def _set_up(self, connection: connect.Connection, timeout: float, retry: Retry) -> None:
        self._connection = connection
        self._timeout = timeout
        self._retry = retry
        self._metadata = connection.metadata()
        self._channels = connection.channels()
        self._services = [Services(channel) for channel in self._channels]
        self._turn = itertools.count()

    def __repr__(self) -> str:
        return f"UsageClient({', '.join(self._connection.servers)})"

    def close(self) -> None:
        """Ends all connections. Close recorders first."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> UsageClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Counting

    def increment(
        self,
        account_id: str,
        *,
        meter: str = "",
        quantity: int | None = None,
        key: str | None = None,
        timestamp: datetime.datetime | None = None,
        timeout: float | None = None,
    ) -> increments.Counted:
        """Counts one increment: by default one unit of the default meter. It returns after a durable commit.

        Within an account, a key is counted once. Use a name that the usage already has, such as the id of the request that
        caused it; without one, the client makes a key for the call. See `Increment` for the limits.
        """
        key = new_key() if key is None else key
        request = increments.Increment(account_id, meter, quantity, key, timestamp).to_message()
        with key_in_error(key):
            answer = self.call(lambda to: to.usage.Increment, request, repeatable=True, timeout=timeout)
        return increments.Counted(answer.duplicate, key)

    def increment_batch(
        self,
        batch: Iterable[increments.Increment | str],
        *,
        key: str | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> increments.BatchOutcome:
        """Counts up to 1,000 increments in one transaction, with one answer each. A refused one does not affect the others.

        A text is an account id. With `dry_run`, nothing is counted, and the answers are those that the batch would have.
        """
        key, items = new_key() if key is None else key, list(batch)
        request = increments.to_batch(items, key, dry_run)
        with key_in_error(key):
            answer = self.call(lambda to: to.usage.IncrementBatch, request, repeatable=True, timeout=timeout)
            return increments.from_batch(answer, len(items), key)

    def recorder(
        self,
        meters: Iterable[str],
        *,
        interval: float = 1.0,
        batch_size: int = increments.MAX_BATCH,
        capacity: int = 100_000,
        exit_timeout: float = 10.0,
        on_sigterm: bool = True,
        on_refused: Callable[[RefusedUsage], None] | None = None,
        on_wrong_meters: Callable[[UsageError], None] | None = None,
    ) -> Recorder:
        """Starts a `Recorder`, which counts without making its caller wait.

        `meters` are those that the program counts; an empty name is the server's default meter. The server is asked for
        them in the background: one that is not counted is logged as an error and told to `on_wrong_meters`, once.
        `interval` is the longest time that usage waits before it is sent, `batch_size` the most sums in a batch, `capacity`
        the most sums (one per account, meter and second) in memory. With a quarter of it, usage does not wait either.
        At the end of the process, pending usage is sent for at most `exit_timeout`. With `on_sigterm` that is so after
        SIGTERM too, see `exit_on_sigterm`.
        `on_refused` is called with usage that will not be counted, by the thread that sends or by one that flushes; it must be
        quick.
        """
        return Recorder(
            self,
            meters,
            interval=interval,
            batch_size=batch_size,
            capacity=capacity,
            exit_timeout=exit_timeout,
            on_sigterm=on_sigterm,
            on_refused=on_refused,
            on_wrong_meters=on_wrong_meters,
        )

    # Showing

    def get(
        self,
        account_id: str,
        *,
        meter: str = "",
        start: datetime.datetime | None = None,
        end: datetime.datetime | None = None,
        granularity: usage_service_pb2.Granularity.ValueType = usage_service_pb2.GRANULARITY_TOTAL,
        time_zone: str = "",
        round_outward: bool = False,
        timeout: float | None = None,
    ) -> usage_service_pb2.GetResponse:
        """Returns an account's usage in a period: all meters in the current billing period by default."""
        request = requests.get_request(account_id, meter, start, end, granularity, time_zone, round_outward)
        return self.call(lambda to: to.usage.Get, request, repeatable=True, timeout=timeout)

    def list_meters(self, *, timeout: float | None = None) -> list[usage_service_pb2.Meter]:
        """The meters that are counted and that the API key may use."""
        request = usage_service_pb2.ListMetersRequest()
        return list(self.call(lambda to: to.usage.ListMeters, request, repeatable=True, timeout=timeout).meters)

    def check_meters(self, meters: Iterable[str], *, timeout: float | None = None) -> None:
        """Raises an error of the kind `INVALID` that names the first meter that is not counted, or that the key may not use."""
        requests.check(meters, self.list_meters(timeout=timeout))

    def list_reports(
        self, filter: usage_service_pb2.ListReportsRequest, *, timeout: float | None = None
    ) -> Iterator[usage_report_pb2.UsageReport]:
        """All usage reports that match, newest first, with as many calls as that takes. The timeout applies to each."""
        request = requests.first_page(filter)
        while True:
            page = self.call(lambda to: to.usage.ListReports, request, repeatable=True, timeout=timeout)
            yield from page.reports
            if not requests.turn_page(request, page):
                return

    # Billing

    def put_account(
        self, account: account_service_pb2.PutAccountRequest, *, timeout: float | None = None
    ) -> account_service_pb2.PutAccountResponse:
        """Links an account to a Stripe customer, or marks it as free."""
        # A first attempt that took effect would have changed the etag.
        repeatable = not account.etag
        return self.call(lambda to: to.accounts.PutAccount, account, repeatable=repeatable, timeout=timeout)

    def get_account(self, account_id: str, *, timeout: float | None = None) -> account_service_pb2.GetAccountResponse:
        """Returns one account; an error of the kind `NOT_FOUND` if it was never put."""
        request = account_service_pb2.GetAccountRequest(account_id=account_id)
        return self.call(lambda to: to.accounts.GetAccount, request, repeatable=True, timeout=timeout)

    def correct(
        self,
        account_id: str,
        quantity: int,
        reason: str,
        *,
        meter: str = "",
        requested_by: str = "",
        key: str | None = None,
        timestamp: datetime.datetime | None = None,
        timeout: float | None = None,
    ) -> usage_service_pb2.CorrectResponse:
        """Enters a correction: a separate report. A negative quantity takes back what was counted."""
        key = new_key() if key is None else key
        request = requests.correct_request(account_id, quantity, reason, meter, requested_by, key, timestamp)
        with key_in_error(key):
            return self.call(lambda to: to.usage.Correct, request, repeatable=True, timeout=timeout)

    # Any other call

    def call(
        self,
        method: Callable[[Services], grpc.UnaryUnaryMultiCallable[_Q, _A]],
        request: _Q,
        *,
        repeatable: bool,
        timeout: float | None = None,
    ) -> _A:
        """Sends any message of the contract that has one answer, with this client's deadline, retries and errors.

        `repeatable` says whether the call can be repeated after it may have taken effect: because it changes nothing, or
        has a key.
        """
        timeout = min(self._timeout if timeout is None else timeout, MAX_TIMEOUT)

        def attempt(remaining: float) -> _A:
            services = self._services[next(self._turn) % len(self._services)]
            try:
                return method(services)(request, timeout=remaining, metadata=self._metadata)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error

        return call_with_retry(Attempts(self._retry, timeout, repeatable), attempt)

    def stream(
        self,
        method: Callable[[Services], grpc.UnaryStreamMultiCallable[_Q, _A]],
        request: _Q,
        *,
        repeatable: bool,
        timeout: float | None = None,
    ) -> Iterator[_A]:
        """Sends a message that has many answers, such as those of `ForceReport` and `ExportAccount`, and returns them.

        The deadline and the retries are those of the first answer, which has arrived when this returns. The others take as long
        as they take; an error of theirs is raised where they are read. Close the iterator to read no more.
        """
        timeout = min(self._timeout if timeout is None else timeout, MAX_TIMEOUT)

        def attempt(remaining: float) -> Iterator[_A]:
            services = self._services[next(self._turn) % len(self._services)]
            answers = method(services)(request, metadata=self._metadata)
            # gRPC's own deadline would be one of the whole stream.
            limit = threading.Timer(remaining, answers.cancel)
            limit.daemon = True
            limit.start()
            try:
                first = next(answers, None)
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                if failure.code is grpc.StatusCode.CANCELLED:
                    failure.message = f"no answer within {remaining:.1f} s"
                raise failure from error
            finally:
                limit.cancel()
            return iter(()) if first is None else _rest(first, answers)

        return call_with_retry(Attempts(self._retry, timeout, repeatable), attempt)


def _rest(first: _A, answers: grpc._CallIterator[_A]) -> Iterator[_A]:
    """The first answer and the ones after it."""
    try:
        yield first
        yield from answers
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    finally:
        answers.cancel()
