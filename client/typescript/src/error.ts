// The error of this client, and how it is read from one of Connect. Retries are in retry.ts.

import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { ErrorReason } from "./gen/usage/v1/error_reason_pb.js";
import type { RecorderStats } from "./recorder/stats.js";

const ERROR_DOMAIN = "usage-billing";
const CAUSE_ID = "cause_id";

/**
 * What a failure means for the caller.
 *
 * - `invalid`: the call can never succeed; see `violations` and `reason`.
 * - `key_reused`: the idempotency key was used before with different content. Nothing was counted.
 * - `customer_taken`: the Stripe customer is linked to another account.
 * - `etag_mismatch`: the account has changed since its etag was read.
 * - `not_found`: the account, report or run does not exist.
 * - `overloaded`: nothing was done; call again after `retryAfterMs`.
 * - `unavailable`: the server cannot do it now.
 * - `reporting_disabled`: the server has no Stripe key.
 * - `precondition`: not possible in the current state. Nothing was changed.
 * - `unauthenticated`: the call has no valid API key. Nothing was done.
 * - `permission_denied`: the API key does not allow the call. Nothing was done.
 * - `deadline`: no response before the deadline.
 * - `canceled`: the caller's own `signal` ended it.
 * - `unimplemented`: the server does not know the call.
 * - `internal`: a bug in the server, whose log contains the cause.
 * - `transport`: the connection failed, or was lost before the response.
 * - `malformed`: the response does not conform to the contract.
 */
export type ErrorKind =
  | "invalid"
  | "key_reused"
  | "customer_taken"
  | "etag_mismatch"
  | "not_found"
  | "overloaded"
  | "unavailable"
  | "reporting_disabled"
  | "precondition"
  | "unauthenticated"
  | "permission_denied"
  | "deadline"
  | "canceled"
  | "unimplemented"
  | "internal"
  | "transport"
  | "malformed";

/** The name of a reason, such as `KEY_REUSED`: stable, and perhaps newer than this client. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED"> | (string & {});

/** An invalid field of a call. */
export interface FieldViolation {
  /** The path of the field, such as `quantity`. */
  readonly field: string;
  /** What is wrong, with the value and the limit. */
  readonly description: string;
}

/** What an error says besides its message. */
interface Details {
  reason?: Reason | undefined;
  violations?: readonly FieldViolation[];
  retryAfterMs?: number | undefined;
  mayHaveTakenEffect?: boolean;
  idempotencyKey?: string | undefined;
  requestId?: string | undefined;
  causeId?: string | undefined;
  figures?: RecorderStats | undefined;
  cause?: unknown;
}

/** Why a call failed. Every call of this client that fails throws one. */
export class UsageError extends Error {
  override readonly name = "UsageError";
  /** What the failure means for the caller. */
  readonly kind: ErrorKind;
  /** The server's reason; absent if the server was not reached or gave none. */
  readonly reason: Reason | undefined;
  /** The invalid fields of the call; empty for most errors. */
  readonly violations: readonly FieldViolation[];
  /** The delay in milliseconds that the server requests before the next attempt. */
  readonly retryAfterMs: number | undefined;
  /** Whether the call may have taken effect although it failed. False is certain. */
  readonly mayHaveTakenEffect: boolean;
  /** The key that the failed call was sent with, also if the client made it. The next attempt must use the same one. */
  readonly idempotencyKey: string | undefined;
  /** The id of the failed call, also in the server's log and audit; absent if no server answered. */
  readonly requestId: string | undefined;
  /** The field `cause_id` of the line in the server's log that has the cause; absent if the log has none. */
  readonly causeId: string | undefined;
  /** What a recorder had done when the time of its `flush` or `shutdown` was over. */
  readonly figures: RecorderStats | undefined;

  /** Made by this client. */
  constructor(kind: ErrorKind, message: string, details: Details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.kind = kind;
    this.reason = details.reason;
    this.violations = details.violations ?? [];
    this.retryAfterMs = details.retryAfterMs;
    this.mayHaveTakenEffect = details.mayHaveTakenEffect ?? false;
    this.idempotencyKey = details.idempotencyKey;
    this.requestId = details.requestId;
    this.causeId = details.causeId;
    this.figures = details.figures;
  }

  /** Whether the same call, with the same key, can succeed later. */
  get isRetryable(): boolean {
    return ["overloaded", "unavailable", "deadline", "transport"].includes(this.kind);
  }

  /** An argument that is rejected before anything is sent. @internal */
  static invalid(field: string, description: string): UsageError {
    const violations = [{ field, description }];
    return new UsageError("invalid", `${field}: ${description}`, { violations });
  }

  /** The failure of an attempt within this time. @internal */
  static from(failure: unknown, timeoutMs: number): UsageError {
    return failure instanceof UsageError ? failure : fromConnect(ConnectError.from(failure), timeoutMs);
  }

  /** The same error, after an earlier attempt that may have taken effect. @internal */
  orEarlierEffect(earlier: boolean): UsageError {
    return earlier && !this.mayHaveTakenEffect ? this.with({ mayHaveTakenEffect: true }) : this;
  }

  /** The same error, of a call with this key. @internal */
  withKey(idempotencyKey: string | undefined): UsageError {
    return this.with({ idempotencyKey });
  }

  private with(more: Details): UsageError {
    return new UsageError(this.kind, this.message, { ...this, cause: this.cause, ...more });
  }
}

function fromConnect(error: ConnectError, timeoutMs: number): UsageError {
  const info = error.findDetails(ErrorInfoSchema).find((found) => found.domain === ERROR_DOMAIN);
  const kind = kindOf(error, info?.reason);
  const violations = error.findDetails(BadRequestSchema)[0]?.fieldViolations ?? [];
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const id = error.findDetails(RequestInfoSchema)[0]?.requestId;
  const isLocalDeadline = kind === "deadline" && info === undefined;
  return new UsageError(kind, isLocalDeadline ? `no response within ${timeoutMs} ms` : messageOf(error, info?.reason), {
    reason: info?.reason,
    violations: violations.map(({ field, description }) => ({ field, description })),
    retryAfterMs: delay && Number(delay.seconds) * 1_000 + Math.ceil(delay.nanos / 1_000_000),
    mayHaveTakenEffect: mayTakeEffect(kind) && !wasNeverSent(error),
    // A server in between may have given another id in the headers.
    requestId: id || error.metadata.get("x-request-id") || undefined,
    causeId: info?.metadata[CAUSE_ID] || undefined,
    cause: error,
  });
}

/** The server's words with its reason, or those of the system about a connection. */
function messageOf(error: ConnectError, reason: string | undefined): string {
  return reason === undefined ? error.rawMessage : `${reason}: ${error.rawMessage}`;
}

/** Uses the reason if it determines the kind, else the code: reasons can be unknown, and proxies send none. */
function kindOf(error: ConnectError, reason: string | undefined): ErrorKind {
  switch (reason) {
    case "KEY_REUSED":
      return "key_reused";
    case "CUSTOMER_TAKEN":
      return "customer_taken";
    case "ETAG_MISMATCH":
      return "etag_mismatch";
    case "REPORTING_DISABLED":
      return "reporting_disabled";
    case "MESSAGE_TOO_LARGE":
      // It has the code of an overload, but the same message is never accepted.
      return "invalid";
  }
  if (reason === undefined && isOfConnection(error)) {
    return "transport";
  }
  switch (error.code) {
    case Code.InvalidArgument:
    case Code.OutOfRange:
    case Code.AlreadyExists:
    case Code.Aborted:
      return "invalid";
    case Code.FailedPrecondition:
      return "precondition";
    case Code.NotFound:
      return "not_found";
    case Code.ResourceExhausted:
      return "overloaded";
    case Code.Unavailable:
      return "unavailable";
    case Code.Unauthenticated:
      return "unauthenticated";
    case Code.PermissionDenied:
      return "permission_denied";
    case Code.DeadlineExceeded:
      return "deadline";
    case Code.Canceled:
      return "canceled";
    case Code.Unimplemented:
      return "unimplemented";
    default:
      return "internal";
  }
}

function mayTakeEffect(kind: ErrorKind): boolean {
  return ["unavailable", "deadline", "canceled", "internal", "transport", "malformed"].includes(kind);
}

/** The errors behind this one, the innermost last. */
function causes(error: unknown): Error[] {
  const chain: Error[] = [];
  for (let next = error; next instanceof Error && chain.length < 8; next = next.cause) {
    chain.push(next);
  }
  return chain;
}

function codeOf(error: Error): string | undefined {
  return "code" in error && typeof error.code === "string" ? error.code : undefined;
}

/**
 * Whether the connection failed: Node's errors have a code in capitals, those of `fetch` are a `TypeError`. An answer that
 * ends too early is cut off by the connection as well.
 */
function isOfConnection(error: ConnectError): boolean {
  return causes(error.cause).some((cause) => codeOf(cause)?.startsWith("E") === true || cause instanceof TypeError);
}

/** Whether no byte of the call can have reached a server. */
function wasNeverSent(error: ConnectError): boolean {
  const codes = causes(error.cause).map(codeOf);
  return codes.some((code) => code === "ECONNREFUSED" || code === "ENOTFOUND" || code === "EAI_AGAIN");
}
