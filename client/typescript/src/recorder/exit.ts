// Sends what a recorder holds when its process ends.

import { UsageError } from "../error.js";
import type { Recorder } from "./recorder.js";

/** Signals that end a process. */
const SIGNALS = ["SIGTERM", "SIGINT"] as const;
/** The handlers of all recorders, to know those of the program from them. */
const ours = new WeakSet<(...args: never[]) => unknown>();

/**
 * Flushes the recorder before the process ends: by itself, or by a signal. Nothing can be sent during `process.exit`; what is
 * pending then is logged. Returns a function that undoes it.
 */
export function flushAtExit(
  recorder: Recorder,
  limitMs: number,
  signals: boolean,
  log: (line: string) => void,
): () => void {
  let isFlushing = false;
  let isTold = false;

  const flush = async (isEnd: boolean): Promise<void> => {
    isFlushing = true;
    try {
      await recorder.flush(limitMs);
    } catch (error) {
      if (!isEnd) {
        // The program goes on, and so does sending.
        return;
      }
      isTold = true;
      // Else its retries would keep the process alive beyond the limit.
      recorder.stop();
      log(`usage is lost at the end of the process: ${error instanceof UsageError ? error.message : String(error)}`);
    } finally {
      isFlushing = false;
    }
  };
  // It is emitted again after what it starts has ended: once told, what is left is left.
  const beforeExit = (): void => {
    if (!isFlushing && !isTold && recorder.stats().pending.calls > 0) {
      void flush(true);
    }
  };
  const exit = (): void => {
    const { calls, units } = recorder.stats().pending;
    if (calls > 0 && !isTold) {
      log(`usage is lost at the end of the process: ${units} units of ${calls} calls are pending`);
    }
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    const isHandled = process.listeners(signal).some((listener) => !ours.has(listener));
    // A second signal during the flush is not waited for.
    const done = isFlushing ? Promise.resolve() : flush(!isHandled);
    void done.then(() => {
      if (isHandled) {
        return;
      }
      remove();
      // Ends as without this handler, once other recorders are done too.
      if (process.listenerCount(signal) === 0) {
        process.kill(process.pid, signal);
      }
    });
  };
  const remove = (): void => {
    process.off("beforeExit", beforeExit);
    process.off("exit", exit);
    for (const signal of SIGNALS) {
      process.off(signal, onSignal);
    }
  };
  process.on("beforeExit", beforeExit);
  process.on("exit", exit);
  if (signals) {
    ours.add(onSignal);
    for (const signal of SIGNALS) {
      process.on(signal, onSignal);
    }
  }
  return remove;
}
