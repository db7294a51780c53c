import { formatDuration } from '../core/units.ts';
import type { KeyPath } from './keys.ts';
import { type Config, ROLES } from './schema.ts';

const HOUR_MS = 3_600_000;

/** Two keys that don't go together: the one to blame first, then the other. */
export interface Conflict {
  paths: [KeyPath, ...KeyPath[]];
  what: string;
}

/** What no single key can know about itself. */
export function crossChecks(config: Config): Conflict[] {
  return [
    ...roles(config),
    ...engines(config),
    ...baseWindow(config),
    ...pastMax(config),
    ...backfill(config),
    ...bounds(config),
  ];
}

/** What one process leaves to others has to reach them. */
function* roles({ roles, log, store }: Config): Generator<Conflict> {
  if (roles.length === 0 || new Set(roles).size < roles.length) {
    yield {
      paths: [['roles']],
      what: `expected one to three different roles, got ${roles.length}`,
    };
    return;
  }
  if (roles.length < ROLES.length && log.engine !== 'kafka') {
    const what = `expected all roles, or \`log.engine: kafka\` for processes of ${roles.join(' and ')} alone`;
    yield { paths: [['roles'], ['log', 'engine']], what };
  } else if (roles.includes('rollup') !== roles.includes('http') && store.engine === 'embedded') {
    const what = 'expected rollup and http in one process, or `store.engine: influxdb`';
    yield { paths: [['roles'], ['store', 'engine']], what };
  }
}

/** What an engine needs once it is chosen. */
function* engines({ log, store }: Config): Generator<Conflict> {
  const { brokers, sasl, tls } = log.kafka;
  if (log.engine === 'kafka') {
    if (
      brokers.length === 0 ||
      !brokers.every((one) => /^[^\s:]+:\d{1,5}$|^\[[^\s\]]+\]:\d{1,5}$/.test(one))
    ) {
      const what = 'expected a list of host:port for `log.engine: kafka`';
      yield { paths: [['log', 'kafka', 'brokers']], what };
    }
    if (
      sasl.mechanism !== 'none' &&
      (sasl.username === '' || (sasl.password === '') === (sasl.passwordFile === ''))
    ) {
      const what = 'expected a username and either a password or a passwordFile';
      yield { paths: [['log', 'kafka', 'sasl']], what };
    }
    if ((tls.certFile === '') !== (tls.keyFile === '')) {
      const what = 'expected both certFile and keyFile, or neither';
      yield {
        paths: [
          ['log', 'kafka', 'tls', 'certFile'],
          ['log', 'kafka', 'tls', 'keyFile'],
        ],
        what,
      };
    }
  }
  if (store.engine !== 'influxdb') return;
  const { url, org, token, tokenFile } = store.influxdb;
  if (!/^https?:\/\/[^\s/@]+\/?$/.test(url)) {
    const what = 'expected http://host:port or https://host:port';
    yield { paths: [['store', 'influxdb', 'url']], what };
  }
  if (org === '') {
    yield { paths: [['store', 'influxdb', 'org']], what: 'expected the name of an organisation' };
  }
  if ((token === '') === (tokenFile === '')) {
    yield {
      paths: [
        ['store', 'influxdb', 'token'],
        ['store', 'influxdb', 'tokenFile'],
      ],
      what: 'expected either a token or a tokenFile',
    };
  }
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

/** What may still be in memory is no backfill. */
function* backfill({ backfill, rollup }: Config): Generator<Conflict> {
  if (!backfill.enabled || backfill.after >= rollup.lateness) return;
  const bound = `rollup.lateness (${formatDuration(rollup.lateness)})`;
  const what = `expected at least ${bound}, got ${formatDuration(backfill.after)}`;
  yield {
    paths: [
      ['backfill', 'after'],
      ['rollup', 'lateness'],
    ],
    what,
  };
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
