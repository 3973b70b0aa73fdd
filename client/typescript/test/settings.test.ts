// Where a client's settings come from.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";
import { createUsageClient, usageClientFromEnv, UsageError, type UsageClient } from "usage-billing-client";
import { createKey, folderFor, startServer } from "./support/server.js";
import { failure } from "./support/usage.js";

test("api_key_from_environment_and_file", { timeout: 120_000 }, async (t) => {
  const folder = folderFor(t);
  const admin = createKey(folder, "admin");
  const reader = createKey(folder, "reader");
  const server = await startServer(t, folder);
  const file = join(folder, "usage.key");
  writeFileSync(file, `${reader}\n`);
  const at = { USAGE_HTTP_SERVER: server.url };

  const none = usageClientFromEnv({}, { ...at, USAGE_API_KEY: "", USAGE_API_KEY_FILE: "" });
  const refused = await failure(none.get("acct"));
  assert.equal(refused.kind, "unauthenticated", inspect(refused));

  const mayCount = async (client: UsageClient): Promise<boolean> => {
    await client.get("acct");
    const counted = await client.increment("acct").catch((error: unknown) => error);
    if (counted instanceof UsageError) {
      assert.equal(counted.kind, "permission_denied");
      return false;
    }
    return true;
  };
  const inFile = { ...at, USAGE_API_KEY_FILE: file };
  assert.equal(await mayCount(createUsageClient({ server: server.url, apiKey: admin })), true);
  assert.equal(await mayCount(createUsageClient({ server: server.url, apiKeyFile: file })), false);
  assert.equal(await mayCount(usageClientFromEnv({}, inFile)), false);
  // The key itself comes before the file, and an option before both.
  assert.equal(await mayCount(usageClientFromEnv({}, { ...inFile, USAGE_API_KEY: ` ${admin} ` })), true);
  assert.equal(await mayCount(usageClientFromEnv({ apiKeyFile: file }, { ...at, USAGE_API_KEY: admin })), false);

  // It is never printed.
  const client = createUsageClient({ server: server.url, apiKey: reader });
  const error = await failure(client.increment("acct"));
  for (const shown of [client, error, error.cause]) {
    assert.ok(!inspect(shown, { depth: 20, showHidden: true }).includes(reader));
  }
  const damaged = `${reader}\u00e9`;
  assert.throws(
    () => createUsageClient({ apiKey: damaged }),
    (thrown) => thrown instanceof UsageError && !inspect(thrown).includes(reader),
  );
});

test("a file that has no key is named", (t) => {
  const empty = join(folderFor(t), "empty.key");
  writeFileSync(empty, "\n");
  for (const path of [empty, "/nowhere/usage.key"]) {
    assert.throws(
      () => usageClientFromEnv({}, { USAGE_API_KEY_FILE: path }),
      (error) => error instanceof UsageError && error.kind === "invalid" && error.message.includes(path),
    );
  }
});
