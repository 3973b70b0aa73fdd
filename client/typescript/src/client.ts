// The client: the calls that have a form of their own here, and the services of the contract for all others.

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { createClient, type CallOptions, type Client, type Transport } from "@connectrpc/connect";
import { UsageError, type Reason } from "./error.js";
import { AccessService } from "./gen/usage/v1/access_service_pb.js";
import { AccountService } from "./gen/usage/v1/account_service_pb.js";
import { ErrorReason } from "./gen/usage/v1/error_reason_pb.js";
import { OperationsService } from "./gen/usage/v1/operations_service_pb.js";
import type { UsageReport } from "./gen/usage/v1/usage_report_pb.js";
import {
  IncrementOutcome,
  IncrementRequestSchema,
  UsageService,
  type GetResponse,
  type Granularity,
  type Meter,
  type IncrementResult as WireResult,
} from "./gen/usage/v1/usage_service_pb.js";
import { newKey, type RandomBytes } from "./key.js";
import { protectTransport, sentWithoutKey } from "./protected-transport.js";
import type { Retry } from "./retry.js";

/** The most increments of a batch. */
export const MAX_BATCH = 1_000;

/** How a client calls. */
export interface ClientOptions {
  /** The API key, `ub_...`, which is sent with each call. It is not encrypted over `http://`, and never printed. */
  readonly apiKey?: string;
  /** The deadline of each call in milliseconds, including all retries: 10,000 by default. */
  readonly timeoutMs?: number;
  /** How failed calls are retried. */
  readonly retry?: Retry;
}

/** A whole number. A `number` must be a safe integer. */
export type Quantity = bigint | number;

/** Usage to count. */
export interface Increment {
  /** Your own id of who used it: 1 to 128 characters from `A-Z a-z 0-9 . _ : @ / + = -`. */
  readonly accountId: string;
  /** What was used: a meter of the server. Absent: its default meter. */
  readonly meter?: string;
  /** How much, in the meter's unit: 1 to 1,000,000,000,000. Absent: 1. */
  readonly quantity?: Quantity;
  /**
   * The idempotency key, 1 to 255 bytes. Absent: one is made; an increment of a batch has none, because the batch has one.
   * `null`: none; the call may then not be repeated safely.
   */
  readonly key?: string | null;
  /** When it was used: at most 34 days ago. Absent: now, by the server's clock. */
  readonly at?: Date;
}

/** An increment that was counted. */
export interface Counted {
  /** Whether the key was counted before: this call added nothing. */
  readonly duplicate: boolean;
  /** The key it was counted with; absent if without one. */
  readonly key: string | undefined;
}

/** How a batch is counted. */
export interface BatchOptions extends CallOptions {
  /** The idempotency key of the whole batch. Absent: one is made. */
  readonly key?: string;
  /** Counts nothing, and returns the results that the batch would have. */
  readonly dryRun?: boolean;
}

/** The result of one increment of a batch. */
export type BatchResult =
  | { readonly outcome: "counted" | "duplicate" }
  | {
      readonly outcome: "refused";
      /** Why, the same as in the error of a single increment. */
      readonly reason: Reason;
      /** The invalid field, such as `quantity`. */
      readonly field: string;
      /** What is wrong, with the value and the limit. */
      readonly message: string;
    };

/** The results of a batch. */
export interface BatchOutcome {
  /** One for each increment, in their order. */
  readonly results: readonly BatchResult[];
  /** Whether the key was used before: the results are the stored ones. */
  readonly duplicate: boolean;
  /** The batch's key; absent in a dry run without one. */
  readonly key: string | undefined;
}

/** What to read. */
export interface Get {
  /** The account. */
  readonly accountId: string;
  /** One meter. Absent: all. */
  readonly meter?: string;
  /** From its start until before its end. Absent: the current billing period. */
  readonly period?: { readonly start: Date; readonly end: Date };
  /** How to split the period. Absent: one total. */
  readonly granularity?: Granularity;
  /** The IANA time zone in which days and months start. Absent: UTC. */
  readonly timeZone?: string;
  /** Moves a start or end inside a slot outward. */
  readonly roundOutward?: boolean;
}

/** Usage to correct. */
export interface Correction {
  /** The account. */
  readonly accountId: string;
  /** The meter. Absent: the server's default meter. */
  readonly meter?: string;
  /** What to add, or to subtract if negative; not 0. */
  readonly quantity: Quantity;
  /** Why: 1 to 500 characters. */
  readonly reason: string;
  /** When it applies. Absent: now. */
  readonly at?: Date;
  /** Who enters it. */
  readonly requestedBy?: string;
  /** The idempotency key. Absent: one is made. */
  readonly key?: string;
}

/** A correction that was entered. */
export interface Corrected {
  /** Its report. */
  readonly report: UsageReport;
  /** Whether the key was used before: this call entered nothing. */
  readonly duplicate: boolean;
  /** The key it was entered with. */
  readonly key: string;
}

/**
 * Calls a server. Made by `createUsageClient`.
 *
 * Each call has a deadline, is retried as long as that can help, keeps one idempotency key meanwhile, and fails only with a
 * `UsageError`. That is also true of the calls of `usage`, `accounts`, `operations` and `access`: the services of the
 * contract, as Connect's clients.
 */
export class UsageClient {
  /** Counts usage, shows it, and reports it. */
  readonly usage: Client<typeof UsageService>;
  /** Accounts and their subscriptions. */
  readonly accounts: Client<typeof AccountService>;
  /** The state of the service. */
  readonly operations: Client<typeof OperationsService>;
  /** API keys and the audit. */
  readonly access: Client<typeof AccessService>;
  readonly #random: RandomBytes;

  /** Over a transport of Connect. @internal */
  constructor(transport: Transport, options: ClientOptions, random: RandomBytes) {
    const { apiKey, timeoutMs = 10_000, retry = {} } = options;
    if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey)) {
      // The message must not contain the key.
      throw UsageError.invalid("apiKey", "the key must consist of visible ASCII characters");
    }
    const settings = { apiKey, timeoutMs, retry, random };
    const protectedTransport = protectTransport(transport, settings);
    this.usage = createClient(UsageService, protectedTransport);
    this.accounts = createClient(AccountService, protectedTransport);
    this.operations = createClient(OperationsService, protectedTransport);
    this.access = createClient(AccessService, protectedTransport);
    this.#random = random;
  }

  /** Counts one increment. An account id alone counts one unit of the default meter. The answer comes after a durable commit. */
  async increment(increment: Increment | string, options?: CallOptions): Promise<Counted> {
    const what = typeof increment === "string" ? { accountId: increment } : increment;
    const key = what.key === null ? undefined : this.#keyOr(what.key);
    const request = { ...wireIncrement(what), idempotencyKey: key ?? "" };
    const { duplicate } = await this.usage.increment(request, key === undefined ? sentWithoutKey(options) : options);
    return { duplicate, key };
  }

  /** Counts 1 to 1,000 increments in one transaction. A refused one does not affect the others. */
  async incrementBatch(increments: Iterable<Increment>, options: BatchOptions = {}): Promise<BatchOutcome> {
    const { key: given, dryRun = false, ...call } = options;
    const key = dryRun && given === undefined ? undefined : this.#keyOr(given);
    const wire = Array.from(increments, (increment, place) => wireIncrement(increment, `increments[${place}].`));
    if (wire.length < 1 || wire.length > MAX_BATCH) {
      throw UsageError.invalid("increments", `${wire.length} increments are not 1 to ${MAX_BATCH}`);
    }
    const response = await this.usage.incrementBatch({ increments: wire, idempotencyKey: key ?? "", dryRun }, call);
    if (response.results.length !== wire.length) {
      const message = `${response.results.length} results for ${wire.length} increments`;
      throw new UsageError("malformed", message, { mayHaveTakenEffect: true, idempotencyKey: key });
    }
    return { results: response.results.map(batchResult), duplicate: response.duplicate, key };
  }

  /** Shows an account's usage: all meters in the current billing period, unless told otherwise. */
  async get(get: Get | string, options?: CallOptions): Promise<GetResponse> {
    const { period, ...others } = typeof get === "string" ? { accountId: get, period: undefined } : get;
    const wire = period && { start: timestamp("period.start", period.start), end: timestamp("period.end", period.end) };
    return this.usage.get(wire === undefined ? others : { ...others, period: wire }, options);
  }

  /** Enters a correction: a report of its own, which Stripe is sent as a meter event of its own. */
  async correct(correction: Correction, options?: CallOptions): Promise<Corrected> {
    const { key: given, at, quantity, ...others } = correction;
    const key = this.#keyOr(given);
    const request = { ...others, quantity: wireQuantity(quantity), idempotencyKey: key };
    const when = at === undefined ? {} : { timestamp: timestamp("at", at) };
    const { report, duplicate } = await this.usage.correct({ ...request, ...when }, options);
    if (report === undefined) {
      throw new UsageError("malformed", "no report", { mayHaveTakenEffect: true, idempotencyKey: key });
    }
    return { report, duplicate, key };
  }

  /** The meters that the server counts; with a key that is limited to meters, those. */
  async listMeters(options?: CallOptions): Promise<readonly Meter[]> {
    return (await this.usage.listMeters({}, options)).meters;
  }

  /** Fails with the kind `invalid` if the server does not count one of these meters. An empty name is its default meter. */
  async checkMeters(meters: Iterable<string>, options?: CallOptions): Promise<void> {
    const known = await this.listMeters(options);
    const names = known.map((meter) => meter.name).join(", ");
    for (const name of meters) {
      const isCounted = known.some((meter) => (name === "" ? meter.isDefault : meter.name === name));
      if (!isCounted) {
        const wanted = name === "" ? "a default meter" : `the meter \`${name}\``;
        throw UsageError.invalid("meter", `the server does not count ${wanted}; it counts ${names || "none"}`);
      }
    }
  }

  /** A new idempotency key, for a call whose key is to be kept beyond it. */
  newKey(): string {
    return newKey(this.#random);
  }

  #keyOr(key: string | undefined): string {
    return key === undefined ? this.newKey() : checkedKey("idempotency_key", key);
  }
}

/** An empty key means none in the contract: the program's own retry would count again. */
function checkedKey(field: string, key: string): string {
  if (key === "") {
    throw UsageError.invalid(field, "the key is empty; it must have 1 to 255 bytes, or be left out");
  }
  return key;
}

/** `within` goes before the names of its fields in errors. */
function wireIncrement(increment: Increment, within = ""): MessageInitShape<typeof IncrementRequestSchema> {
  const { accountId, meter = "", quantity, key, at } = increment;
  return create(IncrementRequestSchema, {
    accountId,
    meter,
    idempotencyKey: key === undefined || key === null ? "" : checkedKey(`${within}idempotency_key`, key),
    ...(quantity === undefined ? {} : { quantity: wireQuantity(quantity, `${within}quantity`) }),
    ...(at === undefined ? {} : { timestamp: timestamp(`${within}at`, at) }),
  });
}

/** A number that is not a safe integer has lost digits already. */
function wireQuantity(quantity: Quantity, field = "quantity"): bigint {
  if (typeof quantity === "number" && !Number.isSafeInteger(quantity)) {
    throw UsageError.invalid(field, `${quantity} is not a whole number that JavaScript holds exactly; use a bigint`);
  }
  return BigInt(quantity);
}

function timestamp(field: string, date: Date): ReturnType<typeof timestampFromDate> {
  if (Number.isNaN(date.getTime())) {
    throw UsageError.invalid(field, "the date is not valid");
  }
  return timestampFromDate(date);
}

function batchResult(result: WireResult): BatchResult {
  switch (result.outcome) {
    case IncrementOutcome.COUNTED:
      return { outcome: "counted" };
    case IncrementOutcome.DUPLICATE:
      return { outcome: "duplicate" };
    default: {
      // An outcome of a newer server is not known to be counted.
      const { reason = ErrorReason.UNSPECIFIED, field = "", message = `outcome ${result.outcome}` } = result.error ?? {};
      return { outcome: "refused", reason: ErrorReason[reason] ?? String(reason), field, message };
    }
  }
}
