// Each snippet of the README, compiled with the strictest types and run against a server.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { createUsageClient } from "usage-billing-client";
import { startServer } from "./support/server.js";
import { total } from "./support/usage.js";

const run = promisify(execFile);
const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
/** The address of the README. */
const SERVER = "http://127.0.0.1:8080";

test("each snippet of the README compiles and runs", { timeout: 300_000 }, async (t) => {
  const readme = readFileSync(join(root, "node_modules/usage-billing-client/README.md"), "utf8");
  const snippets = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map((found) => found[1] ?? "");
  const blocks = [...readme.matchAll(/^```(\w+)$/gm)].map((found) => found[1]);
  assert.deepEqual([...new Set(blocks)].sort(), ["sh", "ts"]);
  assert.equal(snippets.length, blocks.filter((kind) => kind === "ts").length);
  assert.ok(snippets.length >= 8);

  const server = await startServer(t);
  const folder = join(root, "snippets");
  mkdirSync(folder, { recursive: true });
  const names = snippets.map((snippet, place) => {
    const name = `snippet-${place + 1}`;
    writeFileSync(join(folder, `${name}.ts`), snippet.replaceAll(SERVER, server.url));
    return name;
  });
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  const strict = ["--strict", "--target", "es2022", "--module", "nodenext", "--types", "node", "--noUnusedLocals"];
  const sources = names.map((name) => join(folder, `${name}.ts`));
  await run(process.execPath, [tsc, ...strict, ...sources]).catch((error: { stdout?: string }) => {
    assert.fail(error.stdout ?? String(error));
  });
  const env = { PATH: process.env["PATH"], USAGE_HTTP_SERVER: server.url };
  for (const name of names) {
    const { stderr } = await run(process.execPath, [join(folder, `${name}.js`)], { env, timeout: 60_000 });
    assert.ok(stderr === "" || stderr.includes("INVALID_FIELD"), `${name}: ${stderr}`);
  }
  // What the snippets count: 1,200, 12 and 3 tokens, and a correction of -2.
  const client = createUsageClient({ server: server.url });
  assert.equal(await total(client, "acct_42", "tokens"), 1_213n);
  assert.equal(await total(client, "acct_42"), 1n);
});
