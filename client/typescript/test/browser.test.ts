// Web pages that are bundled for browsers, in a real one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createUsageClient } from "usage-billing-client";
import { hasChromium, startSite } from "./support/chromium.js";
import { createKey, folderFor, startServer } from "./support/server.js";
import { total } from "./support/usage.js";

const LIMIT = { timeout: 240_000 };
const CLIENT = 'import { createUsageClient } from "usage-billing-client";';
/** What a program looks at in an error. */
const FAILED = "const failed = ({ kind, reason, requestId }) => ({ kind, reason, hasRequestId: requestId !== undefined });";

test("a page in a browser counts and shows", LIMIT, async (t) => {
  if (!hasChromium(t)) {
    return;
  }
  const site = await startSite(t);
  const server = await startServer(t, undefined, { HTTP_CORS_ORIGINS: site.origin });
  const found = await site.show(CLIENT, `
    const client = createUsageClient({ server: "${server.url}" });
    await client.increment({ accountId: "acct", quantity: 9007199254n });
    const usage = await client.get("acct");
    const error = await client.get({ accountId: "acct", meter: "unknown" }).catch((error) => error);
    show([usage.meters[0].quantities.total, error.reason]);
  `);
  assert.deepEqual(found, ["9007199254", "UNKNOWN_METER"]);
});

test("a page with a key may do what its role may, and sees why it may not", LIMIT, async (t) => {
  if (!hasChromium(t)) {
    return;
  }
  const folder = folderFor(t);
  const [admin, writer, reader] = ["admin", "writer", "reader"].map((role) => createKey(folder, role));
  const site = await startSite(t);
  const server = await startServer(t, folder, { HTTP_CORS_ORIGINS: site.origin });
  await createUsageClient({ server: server.url, apiKey: writer ?? "" }).increment({ accountId: "acct", quantity: 7n });
  const refused = (kind: string, reason: string): object => ({ kind, reason, hasRequestId: true });

  // The key is a header that a browser first asks about.
  const found = await site.show(CLIENT, `
    ${FAILED}
    const server = "${server.url}";
    const client = createUsageClient({ server, apiKey: "${reader}" });
    const usage = await client.get("acct");
    const count = await client.increment("acct").catch(failed);
    const unknown = await client.get({ accountId: "acct", meter: "unknown" }).catch(failed);
    const keyless = await createUsageClient({ server }).get("acct").catch(failed);
    const wrong = await createUsageClient({ server, apiKey: "${reader}x" }).get("acct").catch(failed);
    const bare = await fetch(server + "/usage.v1.UsageService/Get", {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer wrong" },
      body: JSON.stringify({ accountId: "acct" }),
    });
    const { code } = await bare.json();
    const requestId = bare.headers.get("x-request-id");
    show({ total: usage.meters[0].quantities.total, count, unknown, keyless, wrong, bare: [bare.status, code, requestId] });
  `) as Record<string, unknown>;
  const { bare, ...others } = found;
  assert.deepEqual(others, {
    total: "7",
    count: refused("permission_denied", "PERMISSION_DENIED"),
    unknown: refused("invalid", "UNKNOWN_METER"),
    keyless: refused("unauthenticated", "UNAUTHENTICATED"),
    wrong: refused("unauthenticated", "UNAUTHENTICATED"),
  });
  const [status, code, requestId] = bare as unknown[];
  assert.deepEqual([status, code], [401, "unauthenticated"]);
  assert.match(String(requestId), /^\S{8,}$/);
  const admins = createUsageClient({ server: server.url, apiKey: admin ?? "" });
  assert.equal(await total(admins, "acct"), 7n, "nothing of the page was counted");
});

test("a page watches a report run, and calls over gRPC-Web too", LIMIT, async (t) => {
  if (!hasChromium(t)) {
    return;
  }
  const folder = folderFor(t);
  const [admin, reader] = ["admin", "reader"].map((role) => createKey(folder, role));
  const site = await startSite(t);
  // Nothing is sent to Stripe: the accounts have no customers.
  const stripe = { STRIPE_SECRET_KEY: "sk_test_none", STRIPE_API_BASE: "http://127.0.0.1:9" };
  const server = await startServer(t, folder, { HTTP_CORS_ORIGINS: site.origin, ...stripe });
  const admins = createUsageClient({ server: server.url, apiKey: admin ?? "" });
  const at = new Date(Date.now() - 7_200_000);
  await admins.increment({ accountId: "acct", quantity: 7n, at });

  const imports = `
    ${CLIENT}
    import { UsageService } from "usage-billing-client";
    import { createClient, Code } from "@connectrpc/connect";
    import { createGrpcWebTransport } from "@connectrpc/connect-web";
  `;
  const found = await site.show(imports, `
    const server = "${server.url}";
    const events = async (usage, request) => {
      const seen = [];
      for await (const { event } of usage.forceReport(request)) {
        seen.push(event.case === "summary" ? [event.value.closed.reports, event.value.noCustomer.quantity] : event.case);
      }
      return seen;
    };
    const overGrpcWeb = (key) => createClient(UsageService, createGrpcWebTransport({
      baseUrl: server,
      interceptors: [(next) => (request) => {
        request.header.set("authorization", "Bearer " + key);
        return next(request);
      }],
    }));
    // The reason is a text within the detail.
    const failed = (error) => [
      Code[error.code],
      error.details.map(({ type, value }) => type + " " + new TextDecoder().decode(value).match(/[A-Z_]{5,}/)?.[0])[0],
      error.metadata.has("x-request-id"),
    ];
    const connect = createUsageClient({ server, apiKey: "${admin}" }).usage;
    const grpcWeb = overGrpcWeb("${admin}");
    const preview = await events(connect, { all: true, dryRun: true });
    const overWeb = await events(grpcWeb, { all: true, dryRun: true });
    const run = await events(connect, { all: true });
    const { meters } = await grpcWeb.listMeters({});
    const readers = overGrpcWeb("${reader}");
    const denied = await events(readers, { all: true }).catch(failed);
    const unknown = await readers.get({ accountId: "acct", meter: "unknown" }).catch(failed);
    show({ preview, overWeb, run, meters: meters.map(({ name }) => name), denied, unknown });
  `) as Record<string, unknown>;
  const { run, ...others } = found;
  const previewed = ["started", ["1", "7"]];
  assert.deepEqual(others, {
    preview: previewed,
    overWeb: previewed,
    meters: ["api_calls", "tokens"],
    denied: ["PermissionDenied", "google.rpc.ErrorInfo PERMISSION_DENIED", true],
    unknown: ["InvalidArgument", "google.rpc.ErrorInfo UNKNOWN_METER", true],
  });
  const events = run as unknown[];
  assert.deepEqual([events[0], events.at(-1)], previewed);
  assert.ok(events.includes("progress"), "it is told while the run goes on");
});

test("a page of another origin may not call", LIMIT, async (t) => {
  if (!hasChromium(t)) {
    return;
  }
  const folder = folderFor(t);
  const admin = createKey(folder, "admin");
  const [allowed, other] = [await startSite(t), await startSite(t)];
  const server = await startServer(t, folder, { HTTP_CORS_ORIGINS: allowed.origin });
  const script = `
    ${FAILED}
    const client = createUsageClient({ server: "${server.url}", apiKey: "${admin}", timeoutMs: 1000 });
    show(await client.increment("acct").then(() => "counted", failed));
  `;
  assert.equal(await allowed.show(CLIENT, script), "counted");
  assert.deepEqual(await other.show(CLIENT, script), { kind: "transport", hasRequestId: false });
  const admins = createUsageClient({ server: server.url, apiKey: admin });
  assert.equal(await total(admins, "acct"), 1n);
});
