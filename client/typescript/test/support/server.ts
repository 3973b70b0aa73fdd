// A real server, on a new SQLite database.

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";

/** How long a server may take to start. */
const START_MS = 60_000;

export interface Server {
  /** Its address of HTTP. */
  readonly url: string;
  /** A folder that is removed after the test. */
  readonly folder: string;
}

/** The binary that is tested. */
function binary(): string {
  const path = process.env["USAGE_SERVER"];
  if (path === undefined || path === "") {
    throw new Error("USAGE_SERVER names no binary of the server");
  }
  return path;
}

/** A folder that is removed after the test. */
export function folderFor(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "usage-client-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function settings(folder: string): NodeJS.ProcessEnv {
  return { PATH: process.env["PATH"], DATABASE_URL: `sqlite://${join(folder, "usage.db")}` };
}

/** Creates a key in the database of a folder, and returns its text. */
export function createKey(folder: string, role: string): string {
  execFileSync(binary(), ["migrate"], { env: settings(folder), stdio: "ignore" });
  const created = execFileSync(binary(), ["keys", "create", "--role", role, "--name", role], {
    env: settings(folder),
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const key = /ub_\S+/.exec(created)?.[0];
  if (key === undefined) {
    throw new Error("the server printed no key");
  }
  return key;
}

/** Starts a server that is stopped after the test. Its meters are `api_calls`, the default, and `tokens`. */
export async function startServer(
  t: TestContext,
  folder: string = folderFor(t),
  more: Record<string, string> = {},
): Promise<Server> {
  const child = spawn(binary(), ["serve", "--log-json"], {
    env: {
      ...settings(folder),
      LISTEN: "127.0.0.1:0",
      HTTP_LISTEN: "127.0.0.1:0",
      METERS: "api_calls:call,tokens:token",
      DEFAULT_METER: "api_calls",
      ...more,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  t.after(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const lines: string[] = [];
  const url = await new Promise<string>((resolve, reject) => {
    const fail = (why: string): void => reject(new Error(`${why}:\n${lines.join("\n")}`));
    const timer = setTimeout(() => fail("the server did not start in time"), START_MS);
    child.once("error", (error) => fail(error.message));
    child.once("exit", () => fail("the server ended"));
    for (const output of [child.stdout, child.stderr]) {
      createInterface(output).on("line", (line) => {
        // The last lines are enough to see why it failed.
        lines.splice(0, lines.length - 50);
        lines.push(line);
        const address = /"message":"serving HTTP","address":"([^"]+)"/.exec(line)?.[1];
        if (address !== undefined) {
          clearTimeout(timer);
          resolve(`http://${address}`);
        }
      });
    }
  });
  return { url, folder };
}
