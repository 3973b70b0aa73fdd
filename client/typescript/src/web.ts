// The entry for browsers, and for every other place with `fetch`. It must import nothing of Node.

import { createConnectTransport } from "@connectrpc/connect-web";
import { UsageClient, type ClientOptions } from "./client.js";
import { serverAddress } from "./server-address.js";

export * from "./contract.js";

/** How a client in a browser calls. */
export interface WebClientOptions extends ClientOptions {
  /** The server's address of HTTP, such as `https://usage.example.com`. */
  readonly server: string;
  /** Another `fetch`. */
  readonly fetch?: typeof globalThis.fetch;
}

/** Makes a client. Nothing is sent yet. */
export function createUsageClient(options: WebClientOptions): UsageClient {
  const transport = createConnectTransport({
    baseUrl: serverAddress(options.server),
    ...(options.fetch === undefined ? {} : { fetch: options.fetch }),
  });
  return new UsageClient(transport, options, (bytes) => void crypto.getRandomValues(bytes));
}
