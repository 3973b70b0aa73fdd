// A program that records usage and ends, as `recorder_flushes_at_exit` starts it: by itself, or by a signal.
//
//     node exiting.js URL end|signal ACCOUNT LIMIT_MS

import { createUsageClient, startRecorder } from "usage-billing-client";

const [, , server = "", how, account = "", limitMs] = process.argv;
const recorder = startRecorder(createUsageClient({ server }), {
  meters: ["tokens"],
  // Longer than the program runs.
  intervalMs: 3_600_000,
  exitTimeoutMs: Number(limitMs),
});
for (let call = 0; call < 100; call += 1) {
  recorder.record(account, "tokens", 3);
}
if (how === "signal") {
  // Waits for the signal.
  setInterval(() => undefined, 3_600_000);
  process.stdout.write("recorded\n");
}
