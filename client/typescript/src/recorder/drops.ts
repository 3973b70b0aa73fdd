// Usage that a recorder dropped, until the program is told of it.

import type { RefusedUsage } from "./recorder.js";

/** Sums of dropped usage that are kept; what more accounts and meters have is summed without them. */
const MAX_SUMS = 1_000;
/** Longer account ids and meters are cut: they may be why it was dropped. */
const MAX_SHOWN = 200;

/** Why usage was dropped, in words. */
export const WHY = {
  full: "dropped: the recorder is full: see its capacity, and whether the server answers",
  invalid:
    "dropped: it is outside the limits of the server: a quantity is 1 to 1,000,000,000,000, an account id 1 to 128 bytes, a meter's name at most 100",
  closed: "dropped: it was recorded after the recorder's shutdown",
} as const;

export class Drops {
  #sums = new Map<string, { -readonly [field in keyof RefusedUsage]: RefusedUsage[field] }>();

  add(why: keyof typeof WHY, accountId: string, meter: string, units: bigint): void {
    let [account, name] = [accountId.slice(0, MAX_SHOWN), meter.slice(0, MAX_SHOWN)];
    let place = JSON.stringify([why, account, name]);
    if (this.#sums.size >= MAX_SUMS && !this.#sums.has(place)) {
      [account, name] = ["", ""];
      place = JSON.stringify([why, account, name]);
    }
    const sum = this.#sums.get(place);
    if (sum === undefined) {
      this.#sums.set(place, { accountId: account, meter: name, at: new Date(), units, calls: 1, why: WHY[why] });
    } else {
      sum.units += units;
      sum.calls += 1;
    }
  }

  /** Takes all of them. */
  take(): RefusedUsage[] {
    const taken = [...this.#sums.values()];
    this.#sums = new Map();
    return taken;
  }
}
