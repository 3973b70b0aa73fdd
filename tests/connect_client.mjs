// Connect's own client, against a server that is running: by Connect with JSON and with protobuf, and by gRPC-Web, over
// HTTP/1.1 and HTTP/2.
//
//     node connect_client.mjs URL MODULES DESCRIPTORS
//
// MODULES is a folder with the packages, DESCRIPTORS a file with the contract's FileDescriptorSet: no code is generated.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [baseUrl, modules, descriptors] = process.argv.slice(2);
const require = createRequire(`${modules}/package.json`);
const { createFileRegistry, fromBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { Code, ConnectError, createClient } = require("@connectrpc/connect");
const { createConnectTransport, createGrpcWebTransport } = require("@connectrpc/connect-node");

const files = fromBinary(FileDescriptorSetSchema, readFileSync(descriptors));
const registry = createFileRegistry(files);
const service = registry.getService("usage.v1.UsageService");
const ErrorInfo = registry.getMessage("google.rpc.ErrorInfo");
assert.ok(service, "the contract has the service");

const transports = {};
for (const httpVersion of ["1.1", "2"]) {
  for (const useBinaryFormat of [false, true]) {
    const format = useBinaryFormat ? "protobuf" : "json";
    const options = { baseUrl, httpVersion, useBinaryFormat, jsonOptions: { registry } };
    transports[`connect-${format}-http${httpVersion}`] = createConnectTransport(options);
  }
  transports[`grpc-web-http${httpVersion}`] = createGrpcWebTransport({ baseUrl, httpVersion });
}
const byGet = { baseUrl, httpVersion: "1.1", useHttpGet: true, useBinaryFormat: true };
transports["connect-get"] = createConnectTransport(byGet);

for (const [name, transport] of Object.entries(transports)) {
  const client = createClient(service, transport);
  const accountId = name;
  const headers = { "x-request-id": name };

  const increment = { accountId, quantity: 7n, idempotencyKey: "k" };
  let echoed;
  const first = await client.increment(increment, {
    headers,
    onHeader: (found) => (echoed = found.get("x-request-id")),
  });
  assert.equal(first.duplicate, false, name);
  assert.equal(echoed, name);
  assert.equal((await client.increment(increment)).duplicate, true, name);

  const usage = await client.get({ accountId });
  assert.equal(usage.meters[0].quantities.total, 7n, name);

  const events = [];
  for await (const message of client.forceReport({ all: true })) {
    events.push(message.event.case);
  }
  assert.equal(events[0], "started", name);
  assert.equal(events.at(-1), "summary", name);

  const refused = await client.increment({ accountId: "a b" }, { headers }).catch((error) => error);
  assert.ok(refused instanceof ConnectError, name);
  assert.equal(refused.code, Code.InvalidArgument, name);
  assert.equal(refused.findDetails(ErrorInfo)[0].reason, "INVALID_FIELD", name);
  console.log(`${name}: ok`);
}
// Connections over HTTP/2 are kept open.
process.exit(0);
