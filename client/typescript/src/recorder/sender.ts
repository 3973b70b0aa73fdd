// Sends batches of a recorder until each has its final answer.

import type { BatchResult, UsageClient } from "../client.js";
import { UsageError } from "../error.js";
import { inBackground } from "../protected-transport.js";
import { sleep } from "../retry.js";
import type { RefusedUsage } from "./recorder.js";
import type { Tally } from "./stats.js";
import { totals, type Sum } from "./sums.js";

/** The backoff after a call failed despite the client's own retries. */
const MIN_BACKOFF_MS = 200;
const MAX_BACKOFF_MS = 10_000;
/** The longest delay accepted from a server. */
const MAX_RETRY_AFTER_MS = 60_000;
/** The delay, in intervals, before usage that can be counted later is sent again, and its limit. */
const LATER_INTERVALS = 30;
const MAX_LATER_MS = 60_000;
/** For how long usage is sent again that the API key may not count: the key may be replaced or given other limits. */
const DENIED_FOR_SECS = 3_600;

/** What the batches of a recorder share. */
export interface Sending {
  readonly client: UsageClient;
  readonly log: (line: string) => void;
  readonly tell: (usage: RefusedUsage) => void;
  /** Frees the memory of this many sums. */
  readonly release: (sums: number) => void;
  readonly counted: Tally;
  readonly refused: Tally;
  readonly stopped: AbortSignal;
  readonly intervalMs: number;
  /** How many more batches may be sent now. */
  free: number;
  /** Those that wait to be sent, the oldest first. */
  readonly waiting: (() => void)[];
}

/** Sends sums until each is counted or rejected, or the recorder has stopped. */
export async function sendBatch(sending: Sending, sums: readonly Sum[]): Promise<void> {
  let open = sums;
  while (open.length > 0 && !sending.stopped.aborted) {
    await takeTurn(sending);
    let later: Sum[];
    try {
      // A new key: the part that is left is another batch.
      later = await sendOnce(sending, sending.client.newKey(), open);
    } finally {
      endTurn(sending);
    }
    sending.release(open.length - later.length);
    open = later;
    if (open.length > 0) {
      await sleep(Math.min(MAX_LATER_MS, sending.intervalMs * LATER_INTERVALS), sending.stopped, true);
    }
  }
}

async function takeTurn(sending: Sending): Promise<void> {
  if (sending.free > 0) {
    sending.free -= 1;
    return;
  }
  await new Promise<void>((resolve) => sending.waiting.push(resolve));
}

/** Gives the turn to the oldest that waits. */
function endTurn(sending: Sending): void {
  const next = sending.waiting.shift();
  if (next === undefined) {
    sending.free += 1;
  } else {
    next();
  }
}

/** Sends a batch with one key until it is answered. Returns what can be counted later. */
async function sendOnce(sending: Sending, key: string, sums: readonly Sum[]): Promise<Sum[]> {
  const increments = sums.map(({ accountId, meter, second, quantity }) => ({
    accountId,
    meter,
    quantity,
    at: new Date(second * 1_000),
  }));
  for (let pauseMs = MIN_BACKOFF_MS; !sending.stopped.aborted; pauseMs = Math.min(MAX_BACKOFF_MS, pauseMs * 2)) {
    try {
      const { results } = await sending.client.incrementBatch(increments, {
        ...inBackground({ signal: sending.stopped }),
        key,
      });
      return recordResults(sending, sums, results);
    } catch (error) {
      if (!(error instanceof UsageError)) {
        throw error;
      }
      if (sending.stopped.aborted) {
        break;
      }
      if (isPermanent(error)) {
        const { calls, units } = totals(sums);
        sending.log(`a batch of ${units} units of ${calls} calls was rejected: ${error.message}`);
        for (const sum of sums) {
          refuse(sending, sum, error.reason, error.message);
        }
        return [];
      }
      sending.log(`a batch of usage was not counted and is sent again: ${error.message}`);
      const askedMs = Math.min(MAX_RETRY_AFTER_MS, error.retryAfterMs ?? 0);
      await sleep(Math.max(pauseMs, askedMs), sending.stopped, true);
    }
  }
  return [...sums];
}

function recordResults(sending: Sending, sums: readonly Sum[], results: readonly BatchResult[]): Sum[] {
  const later: Sum[] = [];
  let isLogged = false;
  sums.forEach((sum, place) => {
    const result = results[place];
    if (result === undefined) {
      throw new Error(`no result for sum ${place}`);
    }
    if (result.outcome !== "refused") {
      sending.counted.add(sum.calls, BigInt(sum.quantity));
      return;
    }
    if (canBeCountedLater(sum, result.reason)) {
      later.push(sum);
    } else {
      refuse(sending, sum, result.reason, result.message);
    }
    if (!isLogged) {
      // One line a batch: with an unknown meter, every sum is rejected.
      isLogged = true;
      sending.log(`usage of ${JSON.stringify(sum.accountId)} was not counted: ${result.reason}: ${result.message}`);
    }
  });
  return later;
}

function refuse(sending: Sending, sum: Sum, reason: string | undefined, why: string): void {
  const { accountId, meter, second, quantity, calls } = sum;
  const units = BigInt(quantity);
  sending.refused.add(calls, units);
  const named = reason === undefined ? {} : { reason };
  sending.tell({ accountId, meter, at: new Date(second * 1_000), units, calls, why, ...named });
}

/** Usage that is in the future of the server's clock, and young usage that the key may not count. */
function canBeCountedLater(sum: Sum, reason: string): boolean {
  const isYoung = Date.now() / 1_000 - sum.second < DENIED_FOR_SECS;
  return reason === "TIMESTAMP_IN_FUTURE" || (reason === "PERMISSION_DENIED" && isYoung);
}

/** Only a reason of the server itself proves that the same batch is always rejected: a proxy or a denied key can be fixed. */
function isPermanent(error: UsageError): boolean {
  const isFinal = error.kind === "invalid" || error.kind === "key_reused";
  // Without a cause it was found here, before anything was sent.
  return isFinal && (error.reason !== undefined || error.cause === undefined);
}
