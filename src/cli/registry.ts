import { deviceTypes } from '../config/device-types.ts';
import type { Config } from '../config/schema.ts';
import { parseDefinition } from '../config/type-definitions.ts';
import { systemClock } from '../core/clock.ts';
import { SpillwayError } from '../core/errors.ts';
import { openRegistry } from '../engines.ts';
import { IN_MEMORY, Registry } from '../tenants/registry.ts';

/** How long a command waits for Kafka. */
const PATIENCE_MS = 20_000;

/** What the registry holds, and where commands of the command line put what they change. */
export interface OpenRegistry {
  registry: Registry;
  /** Device types by name, in the form of the configuration. */
  types: Config['types'];
  /** Changes entries of a shared registry; throws CONFIG_INVALID on one machine's own. */
  change(key: string, value: unknown): void;
}

/**
 * Calls with the registry of the configuration: this machine's, or a copy of the shared one whose changes
 * are in Kafka when this resolves. Throws LOG_UNAVAILABLE when Kafka is away.
 */
export async function withRegistry<T>(
  config: Config,
  call: (open: OpenRegistry) => T | Promise<T>,
): Promise<T> {
  if (config.log.engine === 'kafka') return withShared(config, call);
  const registry = openRegistry(config);
  try {
    return await call({ registry, types: config.types, change: notShared });
  } finally {
    registry.close();
  }
}

function notShared(): never {
  throw new SpillwayError(
    'CONFIG_INVALID',
    'with `log.engine: embedded` device types are in the configuration alone',
    { next: 'Change `types` in the file that --config names, and restart.' },
  );
}

async function withShared<T>(
  config: Config,
  call: (open: OpenRegistry) => T | Promise<T>,
): Promise<T> {
  const { openTable } = await import('../engines/kafka.ts');
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const silent = { debug: () => {}, info: () => {}, warn: () => {} };
  const table = await openTable(config, 'registry', { logger: silent, signal: patience });
  try {
    await before(patience, table.ready());
    const types = { ...config.types };
    const changes = new Map<string, unknown>();
    for (const [key, definition] of table.entries()) {
      const name = /^type\/(.+)$/.exec(key)?.[1];
      const parsed = name === undefined ? undefined : parseDefinition(definition);
      if (name !== undefined && parsed !== undefined) types[name] = parsed;
    }
    const registry = new Registry({
      dir: IN_MEMORY,
      types: new Set(deviceTypes({ types }).keys()),
      clock: systemClock,
      onChange: (key, value) => changes.set(key, value),
    });
    registry.replaceAll(table.entries());
    const result = await call({
      registry,
      types,
      change: (key, value) => changes.set(key, value),
    });
    if (changes.size > 0) await before(patience, table.putAll(changes));
    registry.close();
    return result;
  } finally {
    await table.close();
  }
}

async function before<T>(patience: AbortSignal, work: Promise<T>): Promise<T> {
  const late = new Promise<never>((_, reject) => {
    const give = () =>
      reject(
        new SpillwayError('LOG_UNAVAILABLE', 'Kafka did not answer in time; see what it holds'),
      );
    if (patience.aborted) give();
    patience.addEventListener('abort', give, { once: true });
  });
  return Promise.race([work, late]);
}
