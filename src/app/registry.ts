import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Config } from '../config/schema.ts';
import { definitionOf, isSameDefinition, parseDefinition } from '../config/type-definitions.ts';
import type { EngineLogger } from '../engines.ts';
import type { Registry } from '../tenants/registry.ts';
import { typeKey } from '../tenants/registry-entries.ts';

/** How long a start waits for the shared registry when this machine has an older copy of it. */
const PATIENCE_MS = 5_000;

export interface SharedRegistry {
  /** Device types as they are in effect now. */
  types: Config['types'];
  close(): Promise<void>;
}

/**
 * Keeps this machine's registry a copy of the one that all processes share in Kafka. Resolves when the
 * copy is right, or when there is an older one and Kafka is away: it becomes right later then.
 */
export async function shareRegistry(
  config: Config,
  registry: Registry,
  logger: Logger,
  onTypes: (types: Config['types']) => void,
): Promise<SharedRegistry> {
  const closing = new AbortController();
  const sharing = new Sharing(config, registry, logger, onTypes);
  const opening = sharing.open(closing.signal);
  opening.catch((err: unknown) => {
    if (!closing.signal.aborted) logger.error({ err }, 'the shared registry can not be read');
  });
  if (!registry.isCopy) await opening;
  else {
    const late = new AbortController();
    await Promise.race([opening, sleep(PATIENCE_MS, undefined, { signal: late.signal })]).finally(
      () => late.abort(),
    );
    if (!sharing.isOpen)
      logger.warn('the shared registry is away; an older copy is used meanwhile');
  }
  return {
    types: sharing.types(),
    async close() {
      closing.abort();
      await sharing.close();
    },
  };
}

type Table = Awaited<ReturnType<typeof import('../engines/kafka.ts').openTable>>;

class Sharing {
  private readonly config: Config;
  private readonly registry: Registry;
  private readonly logger: Logger;
  private readonly onTypes: (types: Config['types']) => void;
  private table: Table | undefined;
  private changes = new Map<string, unknown>();
  private flushing: NodeJS.Immediate | undefined;
  isOpen = false;

  constructor(
    config: Config,
    registry: Registry,
    logger: Logger,
    onTypes: (types: Config['types']) => void,
  ) {
    this.config = config;
    this.registry = registry;
    this.logger = logger;
    this.onTypes = onTypes;
  }

  async open(signal: AbortSignal): Promise<void> {
    const { openTable } = await import('../engines/kafka.ts');
    const table = await openTable(this.config, 'registry', {
      logger: this.engineLogger(),
      signal,
      onChange: (key, value) => this.changed(key, value),
    });
    this.table = table;
    await table.ready();
    this.complain(this.registry.replaceAll(table.entries()));
    this.isOpen = true;
    await this.publishTypes(table);
    this.onTypes(this.types());
  }

  /** The registry's types, and those of the configuration that it does not have. */
  types(): Config['types'] {
    const types = { ...this.config.types };
    for (const [name, definition] of this.registry.typeDefinitions()) {
      const parsed = parseDefinition(definition);
      if (parsed !== undefined) types[name] = parsed;
      else
        this.logger.warn({ type: name }, 'a device type of the shared registry is not understood');
    }
    return types;
  }

  async close(): Promise<void> {
    if (this.flushing !== undefined) clearImmediate(this.flushing);
    await this.table?.close();
  }

  /** What the registry does not know comes from this configuration; what it knows, it knows better. */
  private async publishTypes(table: Table): Promise<void> {
    const absent: [string, unknown][] = [];
    for (const [name, type] of Object.entries(this.config.types)) {
      const known = table.get(typeKey(name));
      const own = definitionOf(type);
      if (known === undefined) absent.push([typeKey(name), own]);
      else if (!isSameDefinition(known, own)) {
        this.logger.warn(
          { type: name },
          'the shared registry defines a device type otherwise than this configuration, and counts; `spillway type apply` changes it',
        );
      }
    }
    if (absent.length > 0) await table.putAll(absent);
  }

  private changed(key: string, value: unknown): void {
    this.changes.set(key, value ?? null);
    this.flushing ??= setImmediate(() => this.flush());
  }

  private flush(): void {
    this.flushing = undefined;
    const { changes } = this;
    this.changes = new Map();
    this.complain(this.registry.apply(changes));
    if ([...changes.keys()].some((key) => key.startsWith('type/'))) this.onTypes(this.types());
  }

  private complain(strange: string[]): void {
    if (strange.length === 0) return;
    this.logger.warn(
      { entries: strange.length, first: strange[0] },
      'the shared registry holds entries that are not understood; they are left out',
    );
  }

  private engineLogger(): EngineLogger {
    return this.logger.child({ part: 'registry' });
  }
}
