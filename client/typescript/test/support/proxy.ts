// A proxy in front of a server that loses answers, refuses calls or never answers.

import { createServer, request, type IncomingMessage, type ServerResponse } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

/** What is done with a call: passed on; done, and its answer lost; refused as by a proxy; or left without an answer. */
export type Fate = "pass" | "lose_answer" | "refuse" | "hang";

/** A call that came to the proxy. */
export interface SeenCall {
  /** Such as `Increment`. */
  readonly method: string;
  /** The JSON of its request. */
  readonly body: Record<string, unknown>;
  readonly headers: IncomingMessage["headers"];
  /** When it came, by `performance.now()`. */
  readonly at: number;
}

export interface Proxy {
  readonly url: string;
  /** All calls, the oldest first. */
  readonly calls: SeenCall[];
  /** The fates of the next calls; then `others`. */
  readonly next: Fate[];
  others: Fate;
}

/** Starts a proxy that ends after the test. */
export async function startProxy(t: TestContext, target: string, others: Fate = "pass"): Promise<Proxy> {
  const server = createServer((incoming, response) => {
    void forward(incoming, response).catch((error: unknown) => response.destroy(error as Error));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const proxy: Proxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls: [],
    next: [],
    others,
  };

  async function forward(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await read(incoming);
    const method = incoming.url?.split("/").at(-1) ?? "";
    // The request of a stream is in an envelope: a byte of flags, and four of its length.
    const isStream = incoming.headers["content-type"]?.startsWith("application/connect+") === true;
    const text = body.subarray(isStream ? 5 : 0).toString("utf8");
    const seen = JSON.parse(text) as Record<string, unknown>;
    proxy.calls.push({ method, body: seen, headers: incoming.headers, at: performance.now() });
    const fate = proxy.next.shift() ?? proxy.others;
    if (fate === "hang") {
      return;
    }
    if (fate === "refuse") {
      response.writeHead(503, { "content-type": "text/plain" }).end("no server is ready");
      return;
    }
    const passed = request(target + incoming.url, { method: incoming.method, headers: incoming.headers });
    passed.end(body);
    const [answer] = (await once(passed, "response")) as [IncomingMessage];
    const answered = await read(answer);
    if (fate === "lose_answer") {
      // The server has done it.
      response.destroy();
      return;
    }
    response.writeHead(answer.statusCode ?? 500, answer.headers).end(answered);
  }
  return proxy;
}

async function read(message: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of message) {
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts);
}
