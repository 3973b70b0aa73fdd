// Repeats calls that failed. What a failure means is in error.ts.

import { UsageError } from "./error.js";

/** How failed calls are retried: with exponential backoff and jitter, until the call's deadline. */
export interface Retry {
  /** The maximum number of attempts, including the first; at least 1. Unlimited by default. */
  readonly attempts?: number;
  /** The first delay in milliseconds: 100 by default. Jitter makes each delay up to twice as long. */
  readonly firstMs?: number;
  /** The longest delay in milliseconds: 5,000 by default. */
  readonly longestMs?: number;
}

/** One call, with what its retries need to know. */
export interface Call<A> {
  readonly retry: Retry;
  /** For all attempts together, in milliseconds. */
  readonly timeoutMs: number;
  /** Whether it can be repeated after it may have taken effect. If not, it is only repeated if it certainly had none. */
  readonly isRepeatable: boolean;
  readonly signal: AbortSignal | undefined;
  /** Whether pauses do not keep a process of Node alive. */
  readonly isInBackground?: boolean;
  /** Makes an attempt, within the remaining time. */
  readonly attempt: (remainingMs: number) => Promise<A>;
}

/** Repeats a call until it succeeds, cannot succeed, or its time is over. It throws only `UsageError`. */
export async function callWithRetry<A>(call: Call<A>): Promise<A> {
  const began = performance.now();
  const remaining = (): number => call.timeoutMs - (performance.now() - began);
  const attempts = Math.max(1, call.retry.attempts ?? Number.POSITIVE_INFINITY);
  let mayHaveTakenEffect = false;
  for (let made = 1; ; made += 1) {
    let error: UsageError;
    try {
      return await call.attempt(Math.max(1, Math.ceil(remaining())));
    } catch (failure) {
      error = UsageError.from(failure, call.timeoutMs).orEarlierEffect(mayHaveTakenEffect);
    }
    mayHaveTakenEffect = error.mayHaveTakenEffect;
    const isSafe = call.isRepeatable || !mayHaveTakenEffect;
    const delay = Math.max(backoffMs(call.retry, made), error.retryAfterMs ?? 0);
    if (made >= attempts || !isSafe || !error.isRetryable || delay >= remaining()) {
      throw error;
    }
    await sleep(delay, call.signal, call.isInBackground);
    if (call.signal?.aborted === true) {
      throw error;
    }
  }
}

/** The delay after this many attempts. */
function backoffMs(retry: Retry, made: number): number {
  const first = retry.firstMs ?? 100;
  const longest = Math.max(first, retry.longestMs ?? 5_000);
  return Math.min(longest, first * 2 ** (made - 1)) * (1 + Math.random());
}

/** Waits, and no longer than until the signal. In the background it does not keep a process of Node alive. */
export function sleep(ms: number, signal?: AbortSignal, isInBackground = false): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) {
      resolve();
      return;
    }
    const end = (): void => {
      clearTimeout(timer as NodeJS.Timeout);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer: unknown = setTimeout(end, ms);
    if (isInBackground && typeof timer === "object" && timer !== null && "unref" in timer) {
      (timer as NodeJS.Timeout).unref();
    }
    signal?.addEventListener("abort", end);
  });
}
