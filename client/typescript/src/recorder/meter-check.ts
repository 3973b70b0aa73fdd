// Asks the server, when a recorder starts, whether it counts the meters of the program. Recording does not wait for it.

import type { UsageClient } from "../client.js";
import { UsageError } from "../error.js";
import { inBackground } from "../protected-transport.js";
import { sleep } from "../retry.js";

/** The pause before the server is asked again, if it did not answer. */
const MIN_BACKOFF_MS = 200;
const MAX_BACKOFF_MS = 30_000;

/** Asks until there is an answer, or until the recorder has stopped. Tells of a meter that is not counted. */
export async function checkMeters(
  client: UsageClient,
  meters: readonly string[],
  tell: (error: UsageError) => void,
  log: (line: string) => void,
  stopped: AbortSignal,
): Promise<void> {
  for (let pauseMs = MIN_BACKOFF_MS; !stopped.aborted; pauseMs = Math.min(MAX_BACKOFF_MS, pauseMs * 2)) {
    try {
      await client.checkMeters(meters, inBackground({ signal: stopped }));
      return;
    } catch (failure) {
      const error = UsageError.from(failure, 0);
      if (stopped.aborted) {
        return;
      }
      if (error.kind === "invalid") {
        log(`usage of this program will be rejected: ${error.message}`);
        tell(error);
        return;
      }
      if (!mayBeAnsweredLater(error)) {
        log(`the server does not say which meters it counts: ${error.message}`);
        return;
      }
      if (pauseMs === MIN_BACKOFF_MS) {
        log(`the meters of this program are not checked yet; the server is asked again: ${error.message}`);
      }
      await sleep(Math.max(pauseMs, Math.min(MAX_BACKOFF_MS, error.retryAfterMs ?? 0)), stopped, true);
    }
  }
}

/** Also with a key that is not valid yet: a proxy or a restored database can refuse it for a time. */
function mayBeAnsweredLater(error: UsageError): boolean {
  return error.isRetryable || error.kind === "unauthenticated" || error.kind === "permission_denied";
}
