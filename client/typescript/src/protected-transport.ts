// A transport of Connect whose calls have the API key, one idempotency key for all attempts, retries, a deadline, and
// errors of this client.

import { create, type DescMessage, type DescMethod, type Message, type MessageInitShape } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { createContextKey, createContextValues, type CallOptions, type Transport } from "@connectrpc/connect";
import { UsageError } from "./error.js";
import { newKey, type RandomBytes } from "./key.js";
import { callWithRetry, type Retry } from "./retry.js";

/** What calls are made with. */
export interface CallSettings {
  readonly apiKey: string | undefined;
  readonly timeoutMs: number;
  readonly retry: Retry;
  readonly random: RandomBytes;
}

/** Changing calls that change nothing when they are repeated. Of any other one that is not known to be safe, it is not assumed. */
const REPEATABLE = new Set([
  "ResolveReport",
  "AcknowledgeDifference",
  "ChangePlan",
  "CancelSubscription",
  "AbortSubscriptionChange",
  "ExportAccount",
  "DeleteAccount",
  "RevokeKey",
  "SwitchBilling",
]);

/** The longest deadline, in milliseconds: a day. */
const MAX_TIMEOUT_MS = 86_400_000;

const withoutKey = createContextKey(false, { description: "whether the call is sent without an idempotency key" });

const background = createContextKey(false, { description: "whether waiting for another attempt keeps a process alive" });

/** The options of a call whose pauses between attempts do not keep a process of Node alive. */
export function inBackground(options: CallOptions): CallOptions {
  return { ...options, contextValues: (options.contextValues ?? createContextValues()).set(background, true) };
}

/** The options of a call that is sent without an idempotency key. */
export function sentWithoutKey(options: CallOptions | undefined): CallOptions {
  return { ...options, contextValues: (options?.contextValues ?? createContextValues()).set(withoutKey, true) };
}

/** Protects the calls of a transport. */
export function protectTransport(inner: Transport, settings: CallSettings): Transport {
  return {
    async unary(method, signal, timeoutMs, header, input, contextValues) {
      const request = withKey(method, input, settings.random, contextValues?.get(withoutKey) === true);
      const key = textField(request, "idempotencyKey");
      const headers = withApiKey(header, settings.apiKey);
      try {
        return await callWithRetry({
          retry: settings.retry,
          timeoutMs: checkedTimeout(timeoutMs ?? settings.timeoutMs),
          isRepeatable: isRepeatable(method, request),
          signal,
          isInBackground: contextValues?.get(background) === true,
          attempt: (remainingMs) => inner.unary(method, signal, remainingMs, headers, request, contextValues),
        });
      } catch (error) {
        throw error instanceof UsageError && key !== undefined ? error.withKey(key) : error;
      }
    },
    async stream(method, signal, timeoutMs, header, input, contextValues) {
      const limitMs = checkedTimeout(timeoutMs ?? settings.timeoutMs);
      const headers = withApiKey(header, settings.apiKey);
      // All streams of the contract are of answers: there is one request.
      const requests: MessageInitShape<typeof method.input>[] = [];
      for await (const message of input) {
        requests.push(message);
      }
      const [request] = requests.map((message) => create(method.input as DescMessage, message));
      const opened = await callWithRetry({
        retry: settings.retry,
        timeoutMs: limitMs,
        isRepeatable: request !== undefined && isRepeatable(method, request),
        signal,
        attempt: async (remainingMs) => {
          // The deadline is for the first message: a run may take longer than a call.
          const ended = new AbortController();
          const end = (): void => ended.abort(signal?.reason);
          signal?.addEventListener("abort", end);
          if (signal?.aborted === true) {
            end();
          }
          let isLate = false;
          const timer = setTimeout(() => {
            isLate = true;
            ended.abort();
          }, remainingMs);
          try {
            const response = await inner.stream(method, ended.signal, undefined, headers, each(requests), contextValues);
            const messages = response.message[Symbol.asyncIterator]();
            return { response, messages, first: await messages.next(), end };
          } catch (failure) {
            signal?.removeEventListener("abort", end);
            throw isLate ? deadline(limitMs) : failure;
          } finally {
            clearTimeout(timer);
          }
        },
      });
      return { ...opened.response, message: rest(opened.first, opened.messages, limitMs, () => signal?.removeEventListener("abort", opened.end)) };
    },
  };
}

async function* each<M>(messages: readonly M[]): AsyncGenerator<M> {
  yield* messages;
}

/** The first message, which was awaited, and those after it. */
async function* rest<M>(
  first: IteratorResult<M>,
  messages: AsyncIterator<M>,
  limitMs: number,
  ended: () => void,
): AsyncGenerator<M> {
  try {
    for (let next = first; next.done !== true; next = await messages.next()) {
      yield next.value;
    }
  } catch (failure) {
    throw UsageError.from(failure, limitMs);
  } finally {
    ended();
  }
}

function deadline(limitMs: number): UsageError {
  return new UsageError("deadline", `no response within ${limitMs} ms`, { mayHaveTakenEffect: true });
}

function checkedTimeout(timeoutMs: number): number {
  if (!(timeoutMs >= 1 && timeoutMs <= MAX_TIMEOUT_MS)) {
    throw UsageError.invalid("timeoutMs", `${timeoutMs} is not 1 to ${MAX_TIMEOUT_MS}`);
  }
  return timeoutMs;
}

/** The request, with a key if its message has one: it is the same for all attempts. */
function withKey<I extends DescMessage>(
  method: { readonly input: I },
  input: MessageInitShape<I>,
  random: RandomBytes,
  isWithout: boolean,
): MessageInitShape<I> & Message {
  const request = create(method.input as DescMessage, input) as Message & Record<string, unknown>;
  if (request["idempotencyKey"] === "" && !isWithout && request["dryRun"] !== true) {
    request["idempotencyKey"] = newKey(random);
  }
  return request as MessageInitShape<I> & Message;
}

function isRepeatable(method: DescMethod, request: Message): boolean {
  return (
    method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS ||
    method.idempotency === MethodOptions_IdempotencyLevel.IDEMPOTENT ||
    REPEATABLE.has(method.name) ||
    textField(request, "idempotencyKey") !== undefined ||
    (request as Message & Record<string, unknown>)["dryRun"] === true ||
    // Watching a run changes nothing.
    (method.name === "ForceReport" && textField(request, "runId") !== undefined) ||
    // With an etag the repetition of a change that was made would fail.
    (method.name === "PutAccount" && textField(request, "etag") === undefined)
  );
}

function textField(message: Message, name: string): string | undefined {
  const value = (message as Message & Record<string, unknown>)[name];
  return typeof value === "string" && value !== "" ? value : undefined;
}

function withApiKey(header: HeadersInit | undefined, apiKey: string | undefined): Headers {
  const headers = new Headers(header);
  if (apiKey !== undefined && !headers.has("authorization")) {
    headers.set("authorization", `Bearer ${apiKey}`);
  }
  return headers;
}
