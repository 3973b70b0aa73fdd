// Counting without waiting: usage is summed in memory and sent in the background.
//
// sums.ts adds it up, sender.ts sends a batch until it is answered, drops.ts keeps what is to be told, exit.ts flushes at the
// end of the process, meter-check.ts asks at the start whether the meters are counted, stats.ts has the figures.

import { MAX_BATCH, type Quantity, type UsageClient } from "../client.js";
import { UsageError } from "../error.js";
import { Drops, WHY } from "./drops.js";
import { flushAtExit } from "./exit.js";
import { checkMeters } from "./meter-check.js";
import { sendBatch, type Sending } from "./sender.js";
import { Tally, type RecorderStats } from "./stats.js";
import { MAX_QUANTITY, Sums, totals, type Sum } from "./sums.js";

const MAX_ACCOUNT_BYTES = 128;
const MAX_METER_BYTES = 100;
/** The shortest time between two log lines about dropped usage. */
const LOG_INTERVAL_MS = 1_000;

/** Usage that is not counted: the server rejected it permanently, or the recorder dropped it. */
export interface RefusedUsage {
  /** The account; empty for the sum of dropped usage of too many accounts. */
  readonly accountId: string;
  /** The meter; empty for the server's default meter. */
  readonly meter: string;
  /** The second in which it was recorded; of a sum, the first one. */
  readonly at: Date;
  /** The units. */
  readonly units: bigint;
  /** The calls of `record` that they are the sum of. */
  readonly calls: number;
  /** The server's reason, such as `UNKNOWN_METER`; absent for dropped usage. */
  readonly reason?: string;
  /** Why it is not counted; of dropped usage, it begins with `dropped:`. */
  readonly why: string;
}

/** How a recorder works. */
export interface RecorderOptions {
  /** The meters of the program. The server is asked for them when the recorder starts. */
  readonly meters: readonly string[];
  /** The longest time in milliseconds that usage waits before it is sent: 1,000 by default, at least 10. */
  readonly intervalMs?: number;
  /** The most sums in a batch: 1,000 by default, which is also the limit. So many are sent before the interval ends. */
  readonly batchSize?: number;
  /** The most sums (one per account, meter and second) in memory: 100,000 by default. */
  readonly capacity?: number;
  /** How many batches are sent at the same time: 4 by default, at most 64. */
  readonly concurrency?: number;
  /** The time in milliseconds in which pending usage is sent at the end of the process: 5,000 by default; 0 sends nothing then. */
  readonly exitTimeoutMs?: number;
  /** Whether SIGTERM and SIGINT flush too: true by default. False is for a program that calls `shutdown` on them. */
  readonly flushOnSignals?: boolean;
  /** Is called with usage that will not be counted: what the server rejected, and what was dropped here. It must be quick. */
  readonly onRefused?: (usage: RefusedUsage) => void;
  /** Is called once if the server does not count one of the meters, or the API key may not use it. */
  readonly onWrongMeters?: (error: UsageError) => void;
  /** Writes a line about what went wrong: `console.error` by default. */
  readonly log?: (line: string) => void;
}

/**
 * Counts usage without making its caller wait. Made by `startRecorder`.
 *
 * Usage in memory is lost if the process is killed.
 */
export class Recorder {
  readonly #options: RecorderOptions & Required<Pick<RecorderOptions, "log">>;
  readonly #batchSize: number;
  readonly #earlyFlush: number;
  readonly #sums: Sums;
  readonly #drops = new Drops();
  readonly #sending: Sending;
  readonly #recorded = new Tally();
  readonly #dropped = new Tally();
  readonly #stopped = new AbortController();
  /** One for each batch without a final answer. */
  readonly #open = new Set<Promise<void>>();
  #loggedAt = Number.NEGATIVE_INFINITY;
  #logged = 0;
  #undoExit: () => void = () => undefined;
  #ticks: NodeJS.Timeout | undefined;
  #isClosed = false;

  /** Starts nothing. @internal */
  constructor(client: UsageClient, options: RecorderOptions) {
    const log = options.log ?? ((line: string) => console.error(line));
    const capacity = Math.max(1, options.capacity ?? 100_000);
    this.#options = { ...options, log };
    this.#batchSize = clamp(options.batchSize ?? MAX_BATCH, 1, MAX_BATCH);
    this.#earlyFlush = Math.max(1, Math.min(this.#batchSize, Math.floor(capacity / 4)));
    this.#sums = new Sums(capacity);
    this.#sending = {
      client,
      log,
      tell: (usage) => this.#tell(usage),
      release: (sums) => this.#sums.release(sums),
      counted: new Tally(),
      refused: new Tally(),
      stopped: this.#stopped.signal,
      intervalMs: Math.max(10, options.intervalMs ?? 1_000),
      free: clamp(options.concurrency ?? 4, 1, 64),
      waiting: [],
    };
  }

  /** @internal */
  start(): void {
    const { meters, exitTimeoutMs = 5_000, flushOnSignals = true, log } = this.#options;
    // It does not keep the process alive: pending usage is sent when the process ends.
    this.#ticks = setInterval(() => this.#tick(), this.#sending.intervalMs).unref();
    if (meters.length > 0) {
      const tell = (error: UsageError): void => this.#guard("onWrongMeters", () => this.#options.onWrongMeters?.(error));
      void checkMeters(this.#sending.client, meters, tell, log, this.#stopped.signal);
    }
    if (exitTimeoutMs > 0) {
      this.#undoExit = flushAtExit(this, exitTimeoutMs, flushOnSignals, log);
    }
  }

  /**
   * Counts usage of an account now, by this machine's clock. An empty meter means the server's default meter.
   *
   * Never waits or throws: usage that cannot be stored is dropped and counted in `stats`. The quantity must be a whole number,
   * 1 to 1,000,000,000,000.
   */
  record(accountId: string, meter: string, quantity: Quantity = 1): void {
    const units = Number(quantity);
    const isValid =
      Number.isInteger(units) && units >= 1 && units <= MAX_QUANTITY &&
      isWithin(accountId, 1, MAX_ACCOUNT_BYTES) && isWithin(meter, 0, MAX_METER_BYTES);
    if (!isValid) {
      this.#drop("invalid", accountId, meter, Number.isSafeInteger(units) && units > 0 ? BigInt(units) : 0n);
      return;
    }
    if (this.#isClosed) {
      this.#drop("closed", accountId, meter, BigInt(units));
      queueMicrotask(() => this.#tellDropped());
      return;
    }
    if (!this.#sums.add(accountId, meter, Math.floor(Date.now() / 1_000), units)) {
      this.#drop("full", accountId, meter, BigInt(units));
      return;
    }
    this.#recorded.add(1, BigInt(units));
    if (this.#sums.waiting >= this.#earlyFlush) {
      this.#makeBatches();
    }
  }

  /** What the recorder has done so far. */
  stats(): RecorderStats {
    const [recorded, dropped] = [this.#recorded.read(), this.#dropped.read()];
    const [counted, refused] = [this.#sending.counted.read(), this.#sending.refused.read()];
    const pending = {
      calls: recorded.calls - counted.calls - refused.calls - dropped.calls,
      units: recorded.units - counted.units - refused.units - dropped.units,
    };
    const isComplete = pending.calls === 0 && refused.calls === 0 && dropped.calls === 0;
    return { recorded, counted, pending, refused, dropped, isComplete };
  }

  /**
   * Waits until all usage recorded before this call is counted, rejected or dropped. If the time in milliseconds is over, it
   * fails with the kind `deadline`, and the figures are in the error; pending usage is still sent in the background.
   */
  async flush(timeoutMs: number): Promise<RecorderStats> {
    this.#makeBatches();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<"late">((resolve) => {
      timer = setTimeout(() => resolve("late"), timeoutMs);
    });
    const ended = await Promise.race([Promise.all(this.#open), late]);
    clearTimeout(timer);
    const figures = this.stats();
    if (ended === "late") {
      const { calls, units } = figures.pending;
      const message = `${units} units of ${calls} calls are still pending after ${timeoutMs} ms`;
      throw new UsageError("deadline", message, { mayHaveTakenEffect: true, figures });
    }
    this.#tellDropped();
    return figures;
  }

  /**
   * Sends recorded usage and waits for it, like `flush`, at the end of a program. Then sending stops, and what is recorded is
   * dropped. If the time is over, it fails like `flush`; what is pending is still sent as long as the process runs.
   */
  async shutdown(timeoutMs: number): Promise<RecorderStats> {
    this.#isClosed = true;
    clearInterval(this.#ticks);
    this.#undoExit();
    const figures = await this.flush(timeoutMs);
    this.stop();
    return figures;
  }

  /** Ends what is being sent. What is pending stays so. @internal */
  stop(): void {
    this.#stopped.abort();
  }

  #tick(): void {
    this.#makeBatches();
    this.#tellDropped();
    const dropped = this.#dropped.read();
    const now = performance.now();
    if (dropped.calls !== this.#logged && now - this.#loggedAt >= LOG_INTERVAL_MS) {
      [this.#logged, this.#loggedAt] = [dropped.calls, now];
      this.#options.log(`usage was dropped: ${dropped.units} units of ${dropped.calls} calls so far; ${WHY.full.slice(9)}`);
    }
  }

  #makeBatches(): void {
    const sums = this.#sums.take();
    for (let begin = 0; begin < sums.length; begin += this.#batchSize) {
      const batch: Sum[] = sums.slice(begin, begin + this.#batchSize);
      const sent = sendBatch(this.#sending, batch).catch((error: unknown) => {
        // Only an error of this code comes here. Its usage is not counted, so it is told.
        const { calls, units } = totals(batch);
        this.#sending.refused.add(calls, units);
        this.#options.log(`usage is lost by a bug of the recorder: ${units} units of ${calls} calls: ${String(error)}`);
      });
      const open: Promise<void> = sent.finally(() => this.#open.delete(open));
      this.#open.add(open);
    }
  }

  #drop(why: keyof typeof WHY, accountId: string, meter: string, units: bigint): void {
    this.#recorded.add(1, units);
    this.#dropped.add(1, units);
    if (this.#options.onRefused !== undefined) {
      this.#drops.add(why, accountId, meter, units);
    }
  }

  #tellDropped(): void {
    for (const usage of this.#drops.take()) {
      this.#tell(usage);
    }
  }

  #tell(usage: RefusedUsage): void {
    this.#guard("onRefused", () => this.#options.onRefused?.(usage));
  }

  /** An error in the program's code stops nothing here. */
  #guard(name: string, call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#options.log(`${name} of the program failed: ${String(error)}`);
    }
  }
}

/** Starts a recorder. It waits for nothing: the meters are checked in the background. */
export function startRecorder(client: UsageClient, options: RecorderOptions): Recorder {
  const recorder = new Recorder(client, options);
  recorder.start();
  return recorder;
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, Math.floor(value)));
}

function isWithin(text: string, least: number, most: number): boolean {
  // Most are far shorter: their bytes need not be counted.
  const bytes = text.length * 3 <= most ? text.length : Buffer.byteLength(text);
  return bytes >= least && bytes <= most;
}
