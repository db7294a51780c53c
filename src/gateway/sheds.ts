import type { Clock } from '../core/clock.ts';
import type { LogAppender } from '../log/contract.ts';
import { encodeRecord, tallyKey } from '../log/record.ts';

const FLUSH_MS = 1_000;
/** Different (device, reason) pairs that wait for their record; beyond, the device's name is dropped. */
const KEYS_MAX = 10_000;

interface Shed {
  tenant: string;
  device: string;
  code: string;
}

/**
 * Messages that were dropped under overload, counted by device and reason: one record of each a second goes into
 * the log, whatever the flood, so that the account of a device still adds up.
 */
export class Sheds {
  private readonly appender: LogAppender;
  private readonly clock: Clock;
  private readonly counted = new Map<string, Shed & { count: number }>();
  private readonly timer: NodeJS.Timeout;

  constructor(appender: LogAppender, clock: Clock) {
    this.appender = appender;
    this.clock = clock;
    this.timer = setInterval(() => this.flush(), FLUSH_MS);
  }

  count(shed: Shed, count: number): void {
    const { tenant, code } = shed;
    const name = `${tenant}/${shed.device}/${code}`;
    const room = this.counted.size < KEYS_MAX || this.counted.has(name);
    const device = room ? shed.device : '_other';
    const key = room ? name : `${tenant}/_other/${code}`;
    const known = this.counted.get(key);
    if (known === undefined) this.counted.set(key, { tenant, device, code, count });
    else known.count += count;
  }

  close(): void {
    clearInterval(this.timer);
    this.flush();
  }

  private flush(): void {
    const { appender, counted } = this;
    if (counted.size === 0 || appender.full) return;
    const received = this.clock.now();
    const request = { records: [] as string[], tallyKeys: [] as string[], counts: [] as number[] };
    const flushed = [...counted.values()];
    counted.clear();
    for (const { tenant, device, code, count } of flushed) {
      request.records.push(encodeRecord({ kind: 'shed', tenant, device, received, code, count }));
      request.tallyKeys.push(tallyKey(tenant, device, received, 'shed', code));
      request.counts.push(count);
    }
    appender.append(request, (error) => {
      if (error !== null) for (const { count, ...shed } of flushed) this.count(shed, count);
    });
  }
}
