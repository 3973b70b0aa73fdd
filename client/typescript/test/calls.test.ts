// Calls: keys, retries, deadlines and errors.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createUsageClient, UsageError } from "usage-billing-client";
import { startProxy } from "./support/proxy.js";
import { startServer } from "./support/server.js";
import { failure, total, until } from "./support/usage.js";

/** So quick that a test does not wait. */
const QUICK = { firstMs: 5, longestMs: 20 };
const LIMIT = { timeout: 120_000 };

test("counted_once_when_the_answer_is_lost", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  const client = createUsageClient({ server: proxy.url, retry: QUICK });
  proxy.next.push("lose_answer");
  const counted = await client.increment({ accountId: "acct", quantity: 7n });
  assert.equal(counted.duplicate, true, "the first attempt was counted");
  assert.equal(proxy.calls.length, 2);
  assert.equal(await total(client, "acct"), 7n);

  proxy.next.push("lose_answer");
  const batch = await client.incrementBatch([{ accountId: "acct", quantity: 5 }]);
  assert.equal(batch.duplicate, true);
  assert.equal(await total(client, "acct"), 12n);

  proxy.next.push("lose_answer");
  const corrected = await client.correct({ accountId: "acct", quantity: -2n, reason: "counted twice" });
  assert.equal(corrected.duplicate, true);
  assert.equal(corrected.report.quantity, -2n);
  assert.equal(await total(client, "acct"), 10n);
});

test("a call without a key is not repeated after it may have been counted", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  const client = createUsageClient({ server: proxy.url, retry: QUICK });
  proxy.next.push("lose_answer");
  const error = await failure(client.increment({ accountId: "acct", key: null }));
  assert.equal(error.kind, "transport");
  assert.equal(error.mayHaveTakenEffect, true);
  assert.equal(error.idempotencyKey, undefined);
  assert.equal(proxy.calls.length, 1);
  assert.equal(proxy.calls[0]?.body["idempotencyKey"], undefined);
  assert.equal(await total(client, "acct"), 1n);
});

test("key_is_kept_over_retries", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  const client = createUsageClient({ server: proxy.url, retry: QUICK });
  proxy.next.push("refuse", "lose_answer", "refuse");
  const first = await client.increment("acct");
  const second = await client.increment("acct");
  // Calls of the services keep one too.
  proxy.next.push("lose_answer");
  await client.usage.increment({ accountId: "acct" });
  const keys = proxy.calls.map((call) => call.body["idempotencyKey"]);
  assert.equal(keys.length, 7);
  assert.deepEqual(keys.slice(0, 5), [first.key, first.key, first.key, first.key, second.key]);
  assert.equal(keys[5], keys[6]);
  assert.equal(new Set(keys).size, 3);
  for (const key of keys) {
    assert.match(String(key), /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  }
  assert.equal(await total(client, "acct"), 3n);

  proxy.others = "refuse";
  const given = await failure(client.increment({ accountId: "acct", key: "request-1" }, { timeoutMs: 100 }));
  assert.equal(given.idempotencyKey, "request-1");
});

test("errors_carry_reason_and_request_id", LIMIT, async (t) => {
  const server = await startServer(t);
  const client = createUsageClient({ server: server.url });
  const headers = { "x-request-id": "call-1" };
  const error = await failure(client.increment({ accountId: "a b" }, { headers }));
  assert.equal(error.kind, "invalid");
  assert.equal(error.reason, "INVALID_FIELD");
  assert.equal(error.requestId, "call-1");
  assert.equal(error.violations[0]?.field, "account_id");
  assert.notEqual(error.violations[0]?.description, "");
  assert.equal(error.mayHaveTakenEffect, false);
  assert.equal(error.isRetryable, false);
  assert.match(error.message, /^INVALID_FIELD: /);

  const missing = await failure(client.accounts.getAccount({ accountId: "unknown" }));
  assert.equal(missing.kind, "not_found");
  assert.equal(missing.reason, "ACCOUNT_NOT_FOUND");
  assert.notEqual(missing.requestId, undefined);

  // Errors of streams are the same.
  const run = async (): Promise<void> => {
    for await (const message of client.usage.forceReport({ all: true })) {
      assert.fail(`a server without Stripe sent ${message.event.case}`);
    }
  };
  const disabled = await failure(run());
  assert.equal(disabled.kind, "reporting_disabled");
  assert.equal(disabled.reason, "REPORTING_DISABLED");
});

test("deadline_is_kept", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url, "hang");
  const client = createUsageClient({ server: proxy.url, timeoutMs: 300 });
  const calls = [
    () => client.increment("acct"),
    () => client.accounts.exportAccount({ accountId: "acct" })[Symbol.asyncIterator]().next(),
  ];
  for (const call of calls) {
    const began = performance.now();
    const error = await failure(call());
    const tookMs = performance.now() - began;
    assert.equal(error.kind, "deadline");
    assert.match(error.message, /300 ms/);
    assert.equal(error.mayHaveTakenEffect, true);
    assert.ok(tookMs >= 250 && tookMs < 5_000, `it took ${tookMs} ms`);
  }
  // One call can have another one, and the server is told of it.
  await failure(client.increment("acct", { timeoutMs: 100 }));
  const told = Number(proxy.calls.at(-1)?.headers["connect-timeout-ms"]);
  assert.ok(told > 0 && told <= 100, `${told}`);
  assert.equal((await failure(client.increment("acct", { timeoutMs: 0 }))).kind, "invalid");
});

test("a call ends with the caller's signal", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url, "refuse");
  const client = createUsageClient({ server: proxy.url, retry: { firstMs: 60_000, longestMs: 60_000 }, timeoutMs: 80_000_000 });
  const ended = new AbortController();
  const call = failure(client.increment("acct", { signal: ended.signal }));
  await until("the call came", () => proxy.calls.length > 0);
  ended.abort();
  assert.ok(["unavailable", "canceled"].includes((await call).kind));
  assert.equal(proxy.calls.length, 1);
});

test("retries_stop_at_the_deadline", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url, "refuse");
  const timeoutMs = 800;
  const client = createUsageClient({ server: proxy.url, retry: QUICK, timeoutMs });
  const began = performance.now();
  const error = await failure(client.increment("acct"));
  const ended = performance.now();
  assert.equal(error.kind, "unavailable");
  assert.ok(proxy.calls.length > 2, `${proxy.calls.length} attempts`);
  for (const call of proxy.calls) {
    const left = Number(call.headers["connect-timeout-ms"]);
    assert.ok(left <= timeoutMs - (call.at - began) + 100, `an attempt had ${left} ms left`);
    assert.ok(call.at <= began + timeoutMs + 100, "an attempt began after the deadline");
  }
  assert.ok(ended - began < timeoutMs + 1_000);
  // Fewer attempts can be asked for.
  const twice = createUsageClient({ server: proxy.url, retry: { ...QUICK, attempts: 2 } });
  proxy.calls.length = 0;
  await failure(twice.increment("acct"));
  assert.equal(proxy.calls.length, 2);
});

test("no_retry_of_what_cannot_succeed", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  const client = createUsageClient({ server: proxy.url, retry: QUICK });
  await client.increment({ accountId: "acct", key: "k" });
  const calls: [string, () => Promise<unknown>][] = [
    ["INVALID_FIELD", () => client.increment({ accountId: "acct", quantity: 0 })],
    ["UNKNOWN_METER", () => client.increment({ accountId: "acct", meter: "unknown" })],
    ["KEY_REUSED", () => client.increment({ accountId: "acct", quantity: 2, key: "k" })],
    ["RUN_NOT_FOUND", () => client.usage.forceReport({ runId: "0" })[Symbol.asyncIterator]().next()],
  ];
  for (const [reason, call] of calls) {
    proxy.calls.length = 0;
    const error = await failure(call());
    assert.ok(error.reason === reason || error.reason === "REPORTING_DISABLED", `${error.reason} for ${reason}`);
    assert.equal(proxy.calls.length, 1, reason);
  }
  // What is known here to be wrong is not sent at all.
  proxy.calls.length = 0;
  assert.equal((await failure(client.increment({ accountId: "acct", quantity: 2 ** 60 }))).kind, "invalid");
  assert.equal((await failure(client.increment({ accountId: "acct", at: new Date(Number.NaN) }))).kind, "invalid");
  assert.equal((await failure(client.incrementBatch([]))).kind, "invalid");
  assert.equal(proxy.calls.length, 0);
});

test("empty_key_is_refused", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  const client = createUsageClient({ server: proxy.url, retry: QUICK });
  const accountId = "acct";
  const calls: [string, () => Promise<unknown>][] = [
    ["idempotency_key", () => client.increment({ accountId, key: "" })],
    ["idempotency_key", () => client.incrementBatch([{ accountId }], { key: "" })],
    ["idempotency_key", () => client.incrementBatch([{ accountId }], { key: "", dryRun: true })],
    ["increments[1].idempotency_key", () => client.incrementBatch([{ accountId }, { accountId, key: "" }])],
    ["idempotency_key", () => client.correct({ accountId, quantity: 1n, reason: "a test", key: "" })],
  ];
  for (const [field, call] of calls) {
    const error = await failure(call());
    assert.equal(error.kind, "invalid");
    const description = "the key is empty; it must have 1 to 255 bytes, or be left out";
    assert.deepEqual(error.violations, [{ field, description }]);
  }
  assert.equal(proxy.calls.length, 0);
});

test("batch_items_are_answered_each", LIMIT, async (t) => {
  const server = await startServer(t);
  const client = createUsageClient({ server: server.url });
  const increments = [
    { accountId: "acct", meter: "tokens", quantity: 1_200n, key: "row-1" },
    { accountId: "acct", meter: "unknown" },
    { accountId: "acct", meter: "tokens", quantity: 1_200n, key: "row-1" },
    { accountId: "a b" },
    { accountId: "acct" },
  ];
  const preview = await client.incrementBatch(increments, { dryRun: true });
  assert.equal(await total(client, "acct", "tokens"), 0n);
  const { results, key } = await client.incrementBatch(increments, { key: "batch-1" });
  assert.equal(key, "batch-1");
  assert.deepEqual(preview.results, results);
  assert.deepEqual(
    results.map((result) => (result.outcome === "refused" ? [result.reason, result.field] : result.outcome)),
    ["counted", ["UNKNOWN_METER", "meter"], "duplicate", ["INVALID_FIELD", "account_id"], "counted"],
  );
  assert.equal(await total(client, "acct", "tokens"), 1_200n);
  assert.equal(await total(client, "acct"), 1n);
});

test("an unreachable server has counted nothing", LIMIT, async () => {
  // No server listens on this port.
  const client = createUsageClient({ server: "http://127.0.0.1:1", retry: { attempts: 2, ...QUICK } });
  const error = await failure(client.increment("acct"));
  assert.equal(error.kind, "transport");
  assert.equal(error.mayHaveTakenEffect, false);
  assert.equal(error.isRetryable, true);
  assert.equal(error.requestId, undefined);
  assert.throws(() => createUsageClient({ server: "ftp://127.0.0.1" }), UsageError);
});

test("streams are read to their end", LIMIT, async (t) => {
  const server = await startServer(t);
  const client = createUsageClient({ server: server.url });
  await client.accounts.putAccount({ accountId: "acct", billing: { case: "free", value: {} } });
  await client.increment("acct");
  let lines = 0;
  for await (const message of client.accounts.exportAccount({ accountId: "acct" })) {
    assert.notEqual(message, undefined);
    lines += 1;
  }
  assert.ok(lines > 0);
});
