// The entry for Node: settings from the environment and from files, and the recorder.

import type { Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { randomFillSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { UsageClient, type ClientOptions } from "./client.js";
import { UsageError } from "./error.js";
import { serverAddress } from "./server-address.js";

export * from "./contract.js";
export {
  startRecorder,
  type Recorder,
  type RecorderOptions,
  type RefusedUsage,
} from "./recorder/recorder.js";
export type { Recorded, RecorderStats } from "./recorder/stats.js";

const DEFAULT_SERVER = "http://127.0.0.1:8080";
/** The most connections of a client. More calls wait for one. */
const MAX_CONNECTIONS = 64;

/** How a client in Node calls. */
export interface NodeClientOptions extends ClientOptions {
  /** The server's address of HTTP: `http://127.0.0.1:8080` by default. */
  readonly server?: string;
  /** A file with the API key, which is read now. `apiKey` comes before it. */
  readonly apiKeyFile?: string;
  /** Another transport of Connect, for example with a client certificate. `server` is then not used. */
  readonly transport?: Transport;
}

/** Makes a client. Nothing is sent yet, so the server may start later. */
export function createUsageClient(options: NodeClientOptions = {}): UsageClient {
  const apiKey = options.apiKey ?? (options.apiKeyFile === undefined ? undefined : keyInFile(options.apiKeyFile));
  const transport = options.transport ?? overHttp(serverAddress(options.server ?? DEFAULT_SERVER));
  const settings = apiKey === undefined ? options : { ...options, apiKey };
  return new UsageClient(transport, settings, (bytes) => void randomFillSync(bytes));
}

/**
 * Makes a client whose server and API key are in the environment: `USAGE_HTTP_SERVER`, and `USAGE_API_KEY` or
 * `USAGE_API_KEY_FILE`. An empty variable counts as unset. Options come before variables.
 */
export function usageClientFromEnv(
  options: NodeClientOptions = {},
  environment: Readonly<Record<string, string | undefined>> = process.env,
): UsageClient {
  const variable = (name: string): string | undefined => environment[name] || undefined;
  const server = options.server ?? variable("USAGE_HTTP_SERVER");
  const isGiven = options.apiKey !== undefined || options.apiKeyFile !== undefined;
  const apiKey = isGiven ? undefined : variable("USAGE_API_KEY")?.trim();
  const apiKeyFile = isGiven || apiKey !== undefined ? undefined : variable("USAGE_API_KEY_FILE");
  return createUsageClient({
    ...options,
    ...(server === undefined ? {} : { server }),
    ...(apiKey === undefined ? {} : { apiKey }),
    ...(apiKeyFile === undefined ? {} : { apiKeyFile }),
  });
}

function overHttp(baseUrl: string): Transport {
  const limits = { keepAlive: true, maxSockets: MAX_CONNECTIONS };
  const agent = baseUrl.startsWith("https:") ? new HttpsAgent(limits) : new HttpAgent(limits);
  return createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false, nodeOptions: { agent } });
}

function keyInFile(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw UsageError.invalid("apiKeyFile", `${file}: ${why}`);
  }
  const key = text.trim();
  if (key === "") {
    throw UsageError.invalid("apiKeyFile", `${file}: the file has no API key`);
  }
  return key;
}
