import type { Retention } from '../core/nouns.ts';
import type { Config } from './schema.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 86_400_000;

/** The window sizes of rollups, ms: the base window, hours and days. */
export function windowsOf(config: Config): number[] {
  return [...new Set([config.rollup.baseWindow, HOUR_MS, DAY_MS])];
}

/** How long each kind of data is kept. */
export function retentionOf(config: Config): Retention {
  const { raw, base, hour, day, deadLetters, ledger } = config.store.retention;
  // A base window of an hour is kept as long as hours are.
  const rollupsMs = new Map([
    [config.rollup.baseWindow, base],
    [HOUR_MS, hour],
    [DAY_MS, day],
  ]);
  return { rawMs: raw, deadLettersMs: deadLetters, rollupsMs, ledgerMs: ledger };
}

/**
 * The first hour of which both accounts are sure to be kept, ms; undefined while nothing is ever dropped.
 * Each side drops what is a day older, so that none is without the other where an audit looks.
 */
export function ledgerFrom(config: Config, now: number): number | undefined {
  const { ledger } = config.store.retention;
  return ledger === 0 ? undefined : Math.ceil((now - ledger) / HOUR_MS) * HOUR_MS;
}
