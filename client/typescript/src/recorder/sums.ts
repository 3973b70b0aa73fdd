// Sums of recorded usage that is not in a batch yet, per account, meter and second.

/** The largest quantity that the server accepts in one increment. */
export const MAX_QUANTITY = 1_000_000_000_000;

/** An account's usage of one meter within one second. */
export interface Sum {
  readonly accountId: string;
  readonly meter: string;
  /** Seconds of Unix time. */
  readonly second: number;
  /** At most `MAX_QUANTITY`, so a `number` holds it exactly. */
  quantity: number;
  /** The calls of `record` that were added up. */
  calls: number;
}

export class Sums {
  readonly #capacity: number;
  #open = new Map<string, Sum>();
  /** Sums to which nothing can be added. */
  #full: Sum[] = [];
  /** Those here, and those that were taken and not yet released. */
  #inUse = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** The number of sums that were not taken yet. */
  get waiting(): number {
    return this.#open.size + this.#full.length;
  }

  /** Adds to a sum. False if a new one is needed and the capacity is used up. */
  add(accountId: string, meter: string, second: number, quantity: number): boolean {
    // No NUL is in an account id or a meter's name that the server counts.
    const place = `${second}\0${accountId}\0${meter}`;
    const sum = this.#open.get(place);
    if (sum !== undefined && sum.quantity + quantity <= MAX_QUANTITY) {
      sum.quantity += quantity;
      sum.calls += 1;
      return true;
    }
    if (this.#inUse >= this.#capacity) {
      return false;
    }
    if (sum !== undefined) {
      this.#full.push(sum);
    }
    this.#open.set(place, { accountId, meter, second, quantity, calls: 1 });
    this.#inUse += 1;
    return true;
  }

  /** Takes all sums. They count towards the capacity until they are released. */
  take(): Sum[] {
    const taken = [...this.#full, ...this.#open.values()];
    this.#full = [];
    this.#open = new Map();
    return taken;
  }

  /** Frees the capacity of this many taken sums. */
  release(sums: number): void {
    this.#inUse -= sums;
  }
}

/** The calls and units of some sums. */
export function totals(sums: readonly Sum[]): { calls: number; units: bigint } {
  let [calls, units] = [0, 0n];
  for (const sum of sums) {
    calls += sum.calls;
    units += BigInt(sum.quantity);
  }
  return { calls, units };
}
