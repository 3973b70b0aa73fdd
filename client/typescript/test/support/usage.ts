// What tests ask a client for.

import { UsageError, type RefusedUsage, type UsageClient } from "usage-billing-client";

/** The whole usage of an account's meter. */
export async function total(client: UsageClient, accountId: string, meter = "api_calls"): Promise<bigint> {
  const { meters } = await client.get({ accountId, meter });
  return meters[0]?.quantities?.total ?? 0n;
}

/** The error of a call that must fail. */
export async function failure(call: Promise<unknown>): Promise<UsageError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof UsageError) {
      return error;
    }
    throw error;
  }
  throw new Error("the call did not fail");
}

/** Waits until something is so, for at most a minute. */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  const end = performance.now() + 60_000;
  while (!isSo()) {
    if (performance.now() > end) {
      throw new Error(`not within a minute: ${what}`);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Collects what a recorder tells. */
export class Told {
  readonly all: RefusedUsage[] = [];
  readonly tell = (usage: RefusedUsage): void => void this.all.push(usage);

  /** Waits for so many calls of `record`. */
  async calls(wanted: number): Promise<void> {
    await until(`${wanted} calls are told`, () => this.all.reduce((sum, usage) => sum + usage.calls, 0) >= wanted);
  }
}
