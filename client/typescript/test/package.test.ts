// The package as it is installed.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { createUsageClient } from "usage-billing-client/web";
import { startServer } from "./support/server.js";
import { total } from "./support/usage.js";

const here = dirname(fileURLToPath(import.meta.url));
const installed = resolve(here, "../node_modules/usage-billing-client");

test("each behaviour of the shared list has a test", () => {
  const list = readFileSync(resolve(here, "../behaviours.txt"), "utf8").split("\n");
  const wanted = list.filter((line) => line !== "").map((line) => line.split(":")[0] ?? "");
  assert.ok(wanted.length >= 13);
  const files = readdirSync(here).filter((name) => name.endsWith(".test.js"));
  const tests = files.flatMap((name) => {
    const text = readFileSync(join(here, name), "utf8");
    return [...text.matchAll(/^test\("([a-z_]+)",/gm)].map((found) => found[1]);
  });
  assert.deepEqual(wanted.filter((name) => !tests.includes(name)), []);
});

test("the entry for browsers imports nothing of Node", () => {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string): void => {
    if (seen.has(file)) {
      return;
    }
    seen.add(file);
    for (const [, name = ""] of readFileSync(file, "utf8").matchAll(/^(?:import|export)\b[^;]*?from "([^"]+)";/gm)) {
      if (name.startsWith(".")) {
        visit(resolve(dirname(file), name));
      } else {
        packages.add(name);
      }
    }
  };
  visit(join(installed, "dist/web.js"));
  assert.ok(seen.size > 5, "its modules are found");
  const allowed = /^(@bufbuild\/protobuf(\/.*)?|@connectrpc\/connect|@connectrpc\/connect-web)$/;
  assert.deepEqual([...packages].filter((name) => !allowed.test(name)), []);
});

test("the entry for browsers counts and shows over fetch", { timeout: 120_000 }, async (t) => {
  const server = await startServer(t);
  const sent: string[] = [];
  const client = createUsageClient({
    server: server.url,
    fetch: (input, init) => {
      sent.push(String(input));
      return fetch(input, init);
    },
  });
  await client.increment({ accountId: "acct", quantity: 3n });
  assert.equal(await total(client, "acct"), 3n);
  assert.equal(sent.length, 2);
  const error = await client.increment("a b").catch((thrown: unknown) => thrown as { reason: string });
  assert.ok("reason" in error && error.reason === "INVALID_FIELD");
});

test("the tarball has the contract, its types and no sources or tests", () => {
  const files = readdirSync(installed, { recursive: true }).map(String).filter((name) => !name.startsWith("node_modules"));
  for (const wanted of ["LICENSE", "README.md", "dist/gen/usage/v1/usage_service_pb.js", "dist/node.d.ts", "dist/web.d.ts"]) {
    assert.ok(files.includes(wanted), wanted);
  }
  assert.deepEqual(files.filter((name) => /^(src|test)\b|\.tgz$/.test(name)), []);
});
