import { formatDuration } from '../core/units.ts';
import type { KeyPath } from './keys.ts';
import type { Config } from './schema.ts';

const HOUR_MS = 3_600_000;

/** Two keys that don't go together: the one to blame first, then the other. */
export interface Conflict {
  paths: [KeyPath, ...KeyPath[]];
  what: string;
}

/** What no single key can know about itself. */
export function crossChecks(config: Config): Conflict[] {
  return [...baseWindow(config), ...pastMax(config), ...bounds(config)];
}

/** Hours and days are merged from base windows, so these must fill an hour exactly. */
function* baseWindow(config: Config): Generator<Conflict> {
  const { baseWindow } = config.rollup;
  if (HOUR_MS % baseWindow === 0) return;
  const what = `expected a duration that divides 1h without rest, got ${formatDuration(baseWindow)}`;
  yield { paths: [['rollup', 'baseWindow']], what };
}

/** A late reading corrects its window from the raw readings, which must still be there. */
function* pastMax(config: Config): Generator<Conflict> {
  const raw = config.store.retention.raw;
  if (raw === 0) return;
  for (const [name, type] of Object.entries(config.types)) {
    if (type.pastMax <= raw) continue;
    const bound = `store.retention.raw (${formatDuration(raw)})`;
    const what = `expected at most ${bound}, got ${formatDuration(type.pastMax)}`;
    yield {
      paths: [
        ['types', name, 'pastMax'],
        ['store', 'retention', 'raw'],
      ],
      what,
    };
  }
}

function* bounds(config: Config): Generator<Conflict> {
  for (const [name, type] of Object.entries(config.types)) {
    for (const [metric, { min, max }] of Object.entries(type.metrics)) {
      if (min === undefined || max === undefined || min <= max) continue;
      const path = ['types', name, 'metrics', metric];
      yield {
        paths: [
          [...path, 'min'],
          [...path, 'max'],
        ],
        what: `expected at most max (${max}), got ${min}`,
      };
    }
  }
}
