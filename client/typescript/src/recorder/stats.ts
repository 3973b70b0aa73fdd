// The figures of a recorder.

/** Calls of `record`, and the units in them. */
export interface Recorded {
  /** The number of calls. */
  readonly calls: number;
  /** The number of units. */
  readonly units: bigint;
}

/** What a recorder has done so far: `recorded = counted + pending + refused + dropped`. */
export interface RecorderStats {
  /** All recorded usage. */
  readonly recorded: Recorded;
  /** Usage that the server has counted durably. */
  readonly counted: Recorded;
  /** Usage that the server has not answered yet. */
  readonly pending: Recorded;
  /** Usage that the server rejected permanently, such as usage of an unknown meter. */
  readonly refused: Recorded;
  /** Usage that did not fit into memory, or was outside the limits of the server. */
  readonly dropped: Recorded;
  /** Whether all recorded usage is counted: nothing is pending, refused or dropped. */
  readonly isComplete: boolean;
}

/** Calls and units, added up. */
export class Tally {
  #calls = 0;
  #units = 0n;

  add(calls: number, units: bigint): void {
    this.#calls += calls;
    this.#units += units;
  }

  read(): Recorded {
    return { calls: this.#calls, units: this.#units };
  }
}
