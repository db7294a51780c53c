import type { LedgerCount, Outcome } from '../core/nouns.ts';
import { HOUR_MS, windowStart } from './windows.ts';

/** Ledger lines of one partition since its last commit. */
export class LedgerTally {
  private readonly lines = new Map<string, LedgerCount>();

  /** `received` in ms since the epoch; `count` may be negative to take back what was added since the last {@link clear}. */
  add(
    tenant: string,
    device: string,
    received: number,
    outcome: Outcome,
    code: string,
    count = 1,
  ): void {
    const hour = windowStart(received, HOUR_MS);
    const key = `${tenant}/${device}/${hour}/${outcome}/${code}`;
    const line = this.lines.get(key);
    if (line === undefined) this.lines.set(key, { tenant, device, hour, outcome, code, count });
    else line.count += count;
  }

  /** The lines whose count is not 0. */
  read(): LedgerCount[] {
    return [...this.lines.values()].filter((line) => line.count !== 0);
  }

  clear(): void {
    this.lines.clear();
  }
}
