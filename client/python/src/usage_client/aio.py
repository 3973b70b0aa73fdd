"""The client for asyncio: the same calls, settings, retries and errors as `UsageClient`, to be awaited."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from usage_client import connect, increments, requests
from usage_client.client import DEFAULT_TIMEOUT, MAX_TIMEOUT
from usage_client.errors import ErrorKind, UsageError, key_in_error
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
from usage_client.retry import Attempts, Retry
from usage_client.status import from_rpc_error

if TYPE_CHECKING:
    from types import TracebackType

_Q = TypeVar("_Q")
_A = TypeVar("_A")


class AsyncServices:
    """The generated services of one server: `usage`, `accounts`, `operations` and `access`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.usage = usage_service_pb2_grpc.UsageServiceStub(channel)
        self.accounts = account_service_pb2_grpc.AccountServiceStub(channel)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
        self.access = access_service_pb2_grpc.AccessServiceStub(channel)


class AsyncUsageClient:
    """A connection to usage-billing for one event loop; make it in that loop. `UsageClient` describes the settings.

    A call that is cancelled may have taken effect. A `Recorder` never makes its caller wait, so programs with asyncio use that
    of a `UsageClient`, with `asyncio.to_thread` for its `flush` and `close`.
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
        """Configures a client."""
        connection = connect.from_arguments(server, api_key, api_key_file, ca_certificate, client_certificate, domain_name)
        self._set_up(connection, timeout, retry)

    @classmethod
    def from_env(cls, *, timeout: float = DEFAULT_TIMEOUT, retry: Retry = Retry()) -> AsyncUsageClient:
        """A client of the servers, the API key and the TLS files that the environment names."""
        client = cls.__new__(cls)
        client._set_up(connect.from_env(), timeout, retry)
        return client

    def _set_up(self, connection: connect.Connection, timeout: float, retry: Retry) -> None:
        self._connection = connection
        self._timeout = timeout
        self._retry = retry
        self._metadata = connection.metadata()
        self._channels = connection.aio_channels()
        self._services = [AsyncServices(channel) for channel in self._channels]
        self._turn = itertools.count()

    def __repr__(self) -> str:
        return f"AsyncUsageClient({', '.join(self._connection.servers)})"

    async def close(self) -> None:
        """Ends all connections."""
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> AsyncUsageClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def increment(
        self,
        account_id: str,
        *,
        meter: str = "",
        quantity: int | None = None,
        key: str | None = None,
        timestamp: datetime.datetime | None = None,
        timeout: float | None = None,
    ) -> increments.Counted:
        """Counts one increment, as `UsageClient.increment` does."""
        key = new_key() if key is None else key
        request = increments.Increment(account_id, meter, quantity, key, timestamp).to_message()
        with key_in_error(key):
            answer = await self.call(lambda to: to.usage.Increment, request, repeatable=True, timeout=timeout)
        return increments.Counted(answer.duplicate, key)

    async def increment_batch(
        self,
        batch: Iterable[increments.Increment | str],
        *,
        key: str | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> increments.BatchOutcome:
        """Counts up to 1,000 increments, as `UsageClient.increment_batch` does."""
        key, items = new_key() if key is None else key, list(batch)
        request = increments.to_batch(items, key, dry_run)
        with key_in_error(key):
            answer = await self.call(lambda to: to.usage.IncrementBatch, request, repeatable=True, timeout=timeout)
            return increments.from_batch(answer, len(items), key)

    async def get(
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
        return await self.call(lambda to: to.usage.Get, request, repeatable=True, timeout=timeout)

    async def list_meters(self, *, timeout: float | None = None) -> list[usage_service_pb2.Meter]:
        """The meters that are counted and that the API key may use."""
        request = usage_service_pb2.ListMetersRequest()
        return list((await self.call(lambda to: to.usage.ListMeters, request, repeatable=True, timeout=timeout)).meters)

    async def check_meters(self, meters: Iterable[str], *, timeout: float | None = None) -> None:
        """Raises an error of the kind `INVALID` that names the first meter that is not counted, or that the key may not use."""
        requests.check(meters, await self.list_meters(timeout=timeout))

    async def list_reports(
        self, filter: usage_service_pb2.ListReportsRequest, *, timeout: float | None = None
    ) -> AsyncIterator[usage_report_pb2.UsageReport]:
        """All usage reports that match, newest first, with as many calls as that takes. The timeout applies to each."""
        request = requests.first_page(filter)
        while True:
            page = await self.call(lambda to: to.usage.ListReports, request, repeatable=True, timeout=timeout)
            for report in page.reports:
                yield report
            if not requests.turn_page(request, page):
                return

    async def put_account(
        self, account: account_service_pb2.PutAccountRequest, *, timeout: float | None = None
    ) -> account_service_pb2.PutAccountResponse:
        """Links an account to a Stripe customer, or marks it as free."""
        # A first attempt that took effect would have changed the etag.
        repeatable = not account.etag
        return await self.call(lambda to: to.accounts.PutAccount, account, repeatable=repeatable, timeout=timeout)

    async def get_account(
        self, account_id: str, *, timeout: float | None = None
    ) -> account_service_pb2.GetAccountResponse:
        """Returns one account; an error of the kind `NOT_FOUND` if it was never put."""
        request = account_service_pb2.GetAccountRequest(account_id=account_id)
        return await self.call(lambda to: to.accounts.GetAccount, request, repeatable=True, timeout=timeout)

    async def correct(
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
            return await self.call(lambda to: to.usage.Correct, request, repeatable=True, timeout=timeout)

    async def call(
        self,
        method: Callable[[AsyncServices], grpc.aio.UnaryUnaryMultiCallable[_Q, _A]],
        request: _Q,
        *,
        repeatable: bool,
        timeout: float | None = None,
    ) -> _A:
        """Sends any message of the contract that has one answer, as `UsageClient.call` does."""
        timeout = min(self._timeout if timeout is None else timeout, MAX_TIMEOUT)
        attempts = Attempts(self._retry, timeout, repeatable)
        while True:
            try:
                return await self._attempt(method, request, attempts.remaining())
            except UsageError as error:
                pause = attempts.pause_after(error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def stream(
        self,
        method: Callable[[AsyncServices], grpc.aio.UnaryStreamMultiCallable[_Q, _A]],
        request: _Q,
        *,
        repeatable: bool,
        timeout: float | None = None,
    ) -> AsyncIterator[_A]:
        """Sends a message that has many answers, as `UsageClient.stream` does."""
        timeout = min(self._timeout if timeout is None else timeout, MAX_TIMEOUT)
        attempts = Attempts(self._retry, timeout, repeatable)
        while True:
            try:
                return await self._open(method, request, attempts.remaining())
            except UsageError as error:
                pause = attempts.pause_after(error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _open(
        self,
        method: Callable[[AsyncServices], grpc.aio.UnaryStreamMultiCallable[_Q, _A]],
        request: _Q,
        remaining: float,
    ) -> AsyncIterator[_A]:
        services = self._services[next(self._turn) % len(self._services)]
        answers = method(services)(request, metadata=self._metadata)
        read = aiter(answers)
        try:
            first = await asyncio.wait_for(anext(read, None), remaining)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.TimeoutError:
            answers.cancel()
            raise UsageError(ErrorKind.DEADLINE, f"no answer within {remaining:.1f} s", True) from None
        return _rest(first, read, answers)

    async def _attempt(
        self,
        method: Callable[[AsyncServices], grpc.aio.UnaryUnaryMultiCallable[_Q, _A]],
        request: _Q,
        remaining: float,
    ) -> _A:
        services = self._services[next(self._turn) % len(self._services)]
        try:
            return await method(services)(request, timeout=remaining, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


async def _rest(
    first: _A | None, read: AsyncIterator[_A], answers: grpc.aio.UnaryStreamCall[_Q, _A]
) -> AsyncIterator[_A]:
    """The first answer, if there is one, and the ones after it."""
    try:
        if first is not None:
            yield first
            async for answer in read:
                yield answer
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    finally:
        answers.cancel()
