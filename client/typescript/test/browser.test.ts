// A web page that is bundled for browsers, in a real one.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { readFileSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startServer } from "./support/server.js";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** Shows in the page what the client answers. */
function page(server: string): string {
  return `
    import { createUsageClient } from "usage-billing-client";
    const client = createUsageClient({ server: "${server}" });
    await client.increment({ accountId: "acct", quantity: 9007199254n });
    const usage = await client.get("acct");
    const error = await client.get({ accountId: "acct", meter: "unknown" }).catch((error) => error);
    document.body.textContent = usage.meters[0].quantities.total + " units, " + error.reason;
  `;
}

test("a page in a browser counts and shows", { timeout: 120_000 }, async (t) => {
  try {
    execFileSync("chromium", ["--version"], { stdio: "ignore" });
  } catch {
    assert.notEqual(process.env["CI"], "true", "there is no chromium");
    t.skip("there is no chromium");
    return;
  }
  const bundle = join(root, "page.bundle.js");
  const site = createServer((request, response) => {
    if (request.url === "/page.js") {
      response.setHeader("content-type", "text/javascript").end(readFileSync(bundle));
    } else {
      response.setHeader("content-type", "text/html").end("<body><script type=module src=/page.js></script>");
    }
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
  t.after(() => {
    site.closeAllConnections();
    site.close();
  });
  const origin = `http://127.0.0.1:${(site.address() as AddressInfo).port}`;
  const server = await startServer(t, undefined, { HTTP_CORS_ORIGINS: origin });

  const source = join(root, "page.mjs");
  writeFileSync(source, page(server.url));
  const esbuild = join(root, "node_modules/esbuild/bin/esbuild");
  execFileSync(process.execPath, [esbuild, source, "--bundle", "--format=esm", `--outfile=${bundle}`, "--log-level=error"]);
  const profile = `--user-data-dir=${join(server.folder, "profile")}`;
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", profile, "--virtual-time-budget=10000", "--dump-dom"];
  const { stdout } = await promisify(execFile)("chromium", [...flags, origin], { timeout: 90_000 });
  assert.match(stdout, /<body>9007199254 units, UNKNOWN_METER<\/body>/);
});
