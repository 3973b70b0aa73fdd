// The recorder.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { createUsageClient, startRecorder, UsageError } from "usage-billing-client";
import { startProxy } from "./support/proxy.js";
import { startServer } from "./support/server.js";
import { failure, Told, total, until } from "./support/usage.js";

const LIMIT = { timeout: 120_000 };
const QUICK = { firstMs: 5, longestMs: 20 };
/** Longer than a test: only a flush or a full batch sends. */
const NEVER_MS = 3_600_000;
const silent = (): void => undefined;

test("recorded usage is summed, and counted once over lost answers", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  const client = createUsageClient({ server: proxy.url, retry: QUICK });
  const recorder = startRecorder(client, { meters: [], intervalMs: NEVER_MS, log: silent });
  for (let call = 0; call < 500; call += 1) {
    recorder.record("acct", "tokens", 2);
    recorder.record("acct", "", 1n);
  }
  assert.deepEqual(recorder.stats().pending, { calls: 1_000, units: 1_500n });
  proxy.next.push("refuse", "lose_answer");
  const figures = await recorder.shutdown(30_000);
  assert.ok(figures.isComplete);
  assert.deepEqual(figures.counted, { calls: 1_000, units: 1_500n });
  assert.equal(proxy.calls.length, 3);
  assert.equal(new Set(proxy.calls.map((call) => call.body["idempotencyKey"])).size, 1);
  assert.ok((proxy.calls[0]?.body["increments"] as unknown[]).length < 50, "sums, not calls, are sent");
  assert.equal(await total(client, "acct", "tokens"), 1_000n);
  assert.equal(await total(client, "acct"), 500n);
});

test("a full batch is sent before the interval ends", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  const client = createUsageClient({ server: proxy.url });
  const recorder = startRecorder(client, { meters: [], intervalMs: NEVER_MS, batchSize: 10 });
  for (let number = 0; number < 10; number += 1) {
    recorder.record(`acct-${number}`, "tokens");
  }
  await until("all is counted", () => recorder.stats().pending.calls === 0);
  assert.equal(proxy.calls.length, 1);
  assert.ok((await recorder.shutdown(30_000)).isComplete);
});

test("usage is sent after the interval", LIMIT, async (t) => {
  const server = await startServer(t);
  const client = createUsageClient({ server: server.url });
  const recorder = startRecorder(client, { meters: ["tokens"], intervalMs: 10 });
  recorder.record("acct", "tokens", 4);
  await until("it is counted", () => recorder.stats().counted.units === 4n);
  assert.equal(await total(client, "acct", "tokens"), 4n);
  await recorder.shutdown(30_000);
});

test("refused_usage_is_told", LIMIT, async (t) => {
  const server = await startServer(t);
  const client = createUsageClient({ server: server.url });
  const told = new Told();
  const onRefused = (usage: (typeof told.all)[number]): void => {
    told.tell(usage);
    // An error of the program stops nothing.
    throw new Error("of the program");
  };
  const lines: string[] = [];
  const log = (line: string): void => void lines.push(line);
  const recorder = startRecorder(client, { meters: [], intervalMs: NEVER_MS, onRefused, log });
  recorder.record("acct", "unknown", 5);
  recorder.record("acct", "tokens", 6);
  recorder.record("a b", "tokens", 7);
  const figures = await recorder.flush(30_000);
  await told.calls(2);
  assert.deepEqual(
    told.all.map((usage) => [usage.accountId, usage.meter, usage.units, usage.calls, usage.reason]),
    [
      ["acct", "unknown", 5n, 1, "UNKNOWN_METER"],
      ["a b", "tokens", 7n, 1, "INVALID_FIELD"],
    ],
  );
  assert.ok(told.all.every((usage) => usage.why !== "" && Math.abs(Date.now() - usage.at.getTime()) < 60_000));
  assert.deepEqual(figures.refused, { calls: 2, units: 12n });
  assert.deepEqual(figures.counted, { calls: 1, units: 6n });
  assert.equal(figures.isComplete, false);
  assert.ok(lines.some((line) => line.includes("UNKNOWN_METER")));
  await recorder.shutdown(30_000);
});

test("recorder_is_bounded", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url, "refuse");
  const client = createUsageClient({ server: proxy.url, retry: QUICK, timeoutMs: 50 });
  const told = new Told();
  const recorder = startRecorder(client, { meters: [], intervalMs: 10, capacity: 10, onRefused: told.tell, log: silent });
  for (let number = 0; number < 50; number += 1) {
    recorder.record(`acct-${number}`, "tokens", 2);
  }
  const late = await failure(recorder.flush(100));
  assert.equal(late.kind, "deadline");
  assert.deepEqual(late.figures?.pending, { calls: 10, units: 20n });
  assert.deepEqual(late.figures.dropped, { calls: 40, units: 80n });
  await told.calls(40);
  assert.ok(told.all.every((usage) => usage.why.startsWith("dropped: the recorder is full")));
  assert.equal(told.all.reduce((units, usage) => units + usage.units, 0n), 80n);

  // What is outside the limits takes no room, and a server that answers frees it.
  recorder.record("acct", "tokens", 0);
  recorder.record("acct", "tokens", 1.5);
  recorder.record("", "tokens", 1);
  proxy.others = "pass";
  await recorder.flush(60_000);
  recorder.record("acct-50", "tokens", 2);
  const figures = await recorder.shutdown(60_000);
  assert.deepEqual(figures.counted, { calls: 11, units: 22n });
  assert.equal(figures.dropped.calls, 43);
  assert.deepEqual(figures.pending, { calls: 0, units: 0n });
  assert.equal(await total(client, "acct-0", "tokens"), 2n);
  recorder.record("acct-51", "tokens");
  await told.calls(44);
  assert.match(told.all.at(-1)?.why ?? "", /after the recorder's shutdown/);
});

test("wrong_meter_is_told_at_start", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url);
  // It is asked until it answers.
  proxy.next.push("refuse", "refuse");
  const client = createUsageClient({ server: proxy.url, retry: { attempts: 1 } });
  const error = await new Promise<UsageError>((resolve) => {
    const recorder = startRecorder(client, { meters: ["tokens", "", "tokns"], onWrongMeters: resolve, log: silent });
    t.after(() => recorder.shutdown(1_000));
  });
  assert.equal(error.kind, "invalid");
  assert.match(error.message, /`tokns`.*api_calls, tokens/);
  assert.equal(proxy.calls.length, 3);
  await client.checkMeters(["tokens", ""]);
});

test("recorder_flushes_at_exit", LIMIT, async (t) => {
  const server = await startServer(t);
  const client = createUsageClient({ server: server.url });
  const program = fileURLToPath(new URL("support/exiting.js", import.meta.url));
  for (const how of ["end", "signal"]) {
    const child = spawn(process.execPath, [program, server.url, how, how, "20000"], { stdio: ["ignore", "pipe", "inherit"] });
    t.after(() => child.kill("SIGKILL"));
    const exited = once(child, "exit");
    if (how === "signal") {
      await once(child.stdout, "data");
      child.kill("SIGTERM");
    }
    const [code, signal] = (await exited) as [number | null, string | null];
    // The signal still ends the program.
    assert.deepEqual([code, signal], how === "signal" ? [null, "SIGTERM"] : [0, null]);
    assert.equal(await total(client, how, "tokens"), 300n, how);
  }
});

test("the flush at exit has a limit", LIMIT, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, server.url, "refuse");
  const program = fileURLToPath(new URL("support/exiting.js", import.meta.url));
  const child = spawn(process.execPath, [program, proxy.url, "end", "acct", "500"], { stdio: ["ignore", "ignore", "pipe"] });
  t.after(() => child.kill("SIGKILL"));
  let text = "";
  child.stderr.on("data", (part) => (text += String(part)));
  const began = performance.now();
  const [code] = (await once(child, "close")) as [number | null];
  assert.equal(code, 0);
  assert.match(text, /usage is lost at the end of the process: 300 units of 100 calls/);
  // The client's own deadline is 10 seconds: its retries are ended too.
  assert.ok(performance.now() - began < 8_000);
});
