// The address of a server, as a caller gives it.

import { UsageError } from "./error.js";

/** With its scheme. */
export function serverAddress(server: string): string {
  const address = server.includes("://") ? server : `http://${server}`;
  let parsed: URL;
  try {
    parsed = new URL(address);
  } catch {
    throw UsageError.invalid("server", `\`${address}\` is not an address, such as \`http://127.0.0.1:8080\``);
  }
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:") {
    throw UsageError.invalid("server", `\`${address}\` must start with \`http://\` or \`https://\``);
  }
  return address;
}
