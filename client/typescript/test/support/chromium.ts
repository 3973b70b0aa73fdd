// Web pages in a real browser: Chromium without a window.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { dirname, join, resolve } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { folderFor } from "./server.js";

/** How long a page may take. */
const SHOWN_MS = 90_000;
/** Where packages are installed, so that the bundle finds them. */
const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");

/** Whether there is a browser. Without one the test is skipped; in CI it fails. */
export function hasChromium(t: TestContext): boolean {
  try {
    execFileSync("chromium", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    assert.notEqual(process.env["CI"], "true", "there is no chromium");
    t.skip("there is no chromium");
    return false;
  }
}

export interface Site {
  readonly origin: string;
  /** Opens its page in a browser with a script, which is bundled, and returns what the script passes to `show`. */
  show(imports: string, script: string): Promise<unknown>;
}

/** Starts a web site with one page, which ends after the test. */
export async function startSite(t: TestContext): Promise<Site> {
  let bundle: Buffer | undefined;
  let tell: (shown: string) => void = () => undefined;
  const server = createServer((request, response) => {
    if (request.method === "POST") {
      request.setEncoding("utf8");
      let body = "";
      request.on("data", (part: string) => (body += part));
      request.on("end", () => tell(body));
      response.end();
    } else if (request.url === "/page.js") {
      response.setHeader("content-type", "text/javascript").end(bundle);
    } else {
      response.setHeader("content-type", "text/html").end("<body><script type=module src=/page.js></script>");
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const show = async (imports: string, script: string): Promise<unknown> => {
    bundle = bundled(t, imports, script);
    const told = new Promise<string>((resolve) => (tell = resolve));
    const close = open(t, origin);
    const timer = new AbortController();
    const late = setTimeout(SHOWN_MS, undefined, { signal: timer.signal }).then(() => {
      throw new Error("the page shows nothing");
    });
    const shown = await Promise.race([told, late]);
    timer.abort();
    await late.catch(() => undefined);
    await close();
    return JSON.parse(shown);
  };
  return { origin, show };
}

/** A script that tells the site what it passes to `show`, or what it throws. */
function bundled(t: TestContext, imports: string, script: string): Buffer {
  const [source, file] = [join(root, "page.mjs"), join(folderFor(t), "page.js")];
  writeFileSync(
    source,
    `
    ${imports}
    const asText = (_, value) => (typeof value === "bigint" ? String(value) : value);
    const show = (value) => fetch("/", { method: "POST", body: JSON.stringify(value, asText) });
    try {
      ${script}
    } catch (error) {
      show(String(error.stack));
    }
    `,
  );
  const esbuild = join(root, "node_modules/esbuild/bin/esbuild");
  const flags = ["--bundle", "--format=esm", `--outfile=${file}`, "--log-level=error"];
  execFileSync(process.execPath, [esbuild, source, ...flags]);
  return readFileSync(file);
}

/** Opens a page in a new browser, and returns what closes it. */
function open(t: TestContext, url: string): () => Promise<void> {
  const profile = `--user-data-dir=${join(folderFor(t), "profile")}`;
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", profile];
  const browser = spawn("chromium", [...flags, url], { stdio: "ignore" });
  const exited = new Promise<void>((resolve) => browser.once("exit", () => resolve()));
  const close = async (): Promise<void> => {
    browser.kill();
    await exited;
  };
  t.after(close);
  return close;
}
