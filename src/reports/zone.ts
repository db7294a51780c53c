import { DAY_MS } from './steps.ts';

/**
 * Time zones by `Intl`, without a date library. An offset is that of local time from UTC in ms, rounded
 * to whole minutes (as ISO 8601 writes it; the zones of today need no more). Asking `Intl` takes 6 µs,
 * so what was found is kept for each UTC day: 100,000 rows of one day cost two or three questions.
 */

/** What is known of one UTC day: one offset, or one before and one after the change of the clock. */
interface ZoneDay {
  before: number;
  after: number;
  /** First instant of `after`; Infinity without a change. */
  change: number;
}

const DAYS_KEPT_MAX = 4_096;
const ZONES_KEPT_MAX = 64;
const MINUTE_MS = 60_000;

export class Zone {
  readonly name: string;
  private readonly format: Intl.DateTimeFormat;
  private readonly days = new Map<number, ZoneDay>();

  /** Throws RangeError when `Intl` does not know the zone. */
  constructor(name: string) {
    this.format = new Intl.DateTimeFormat('en-US', { timeZone: name, timeZoneName: 'longOffset' });
    this.name = this.format.resolvedOptions().timeZone;
  }

  private ask(at: number): number {
    const text = this.format.formatToParts(at).find((part) => part.type === 'timeZoneName')?.value;
    const match = /^GMT(?:([+-])(\d{2}):(\d{2})(?::(\d{2}))?)?$/.exec(text ?? '');
    if (match?.[1] === undefined) return 0;
    const seconds = Number(match[2]) * 3_600 + Number(match[3]) * 60 + Number(match[4] ?? 0);
    return Math.round(seconds / 60) * MINUTE_MS * (match[1] === '-' ? -1 : 1);
  }

  private day(at: number): ZoneDay {
    const number = Math.floor(at / DAY_MS);
    const known = this.days.get(number);
    if (known !== undefined) return known;
    const start = number * DAY_MS;
    const before = this.ask(start);
    const after = this.ask(start + DAY_MS - 1);
    const day: ZoneDay = { before, after, change: Number.POSITIVE_INFINITY };
    if (before !== after) {
      let low = start;
      let high = start + DAY_MS - 1;
      while (high - low > 1) {
        const middle = Math.floor((low + high) / 2);
        if (this.ask(middle) === before) low = middle;
        else high = middle;
      }
      day.change = high;
    }
    if (this.days.size >= DAYS_KEPT_MAX) this.days.clear();
    this.days.set(number, day);
    return day;
  }

  /** Offset from UTC that is in force at an instant, ms. */
  offset(at: number): number {
    const day = this.day(at);
    return at >= day.change ? day.after : day.before;
  }

  /** Local time as if it were UTC, ms. */
  local(at: number): number {
    return at + this.offset(at);
  }

  /** The first change of the clock in `(after, until]`, if there is one. */
  changeIn(after: number, until: number): number | undefined {
    for (let at = after; at <= until; at = (Math.floor(at / DAY_MS) + 1) * DAY_MS) {
      const start = Math.floor(at / DAY_MS) * DAY_MS;
      const day = this.day(at);
      if (start > after && this.offset(start - 1) !== day.before) return start;
      if (day.change > after && day.change <= until) return day.change;
    }
    return undefined;
  }

  /**
   * The instant of a local time (ms as if it were UTC). Of a local time that comes twice, the earlier;
   * one that the clock skips counts as if the clock had not been changed yet.
   */
  instant(local: number): number {
    const before = this.offset(local - DAY_MS);
    const after = this.offset(local + DAY_MS);
    const candidates = [local - before, local - after].filter((at) => this.local(at) === local);
    return candidates.length === 0 ? local - before : Math.min(...candidates);
  }

  /** ISO 8601 with the zone's offset; milliseconds only where there are any. */
  iso(at: number): string {
    const offset = this.offset(at);
    const text = new Date(at + offset).toISOString();
    const head = at % 1_000 === 0 ? text.slice(0, -5) : text.slice(0, -1);
    if (offset === 0) return `${head}Z`;
    const minutes = Math.abs(offset) / MINUTE_MS;
    const pad = (value: number): string => String(value).padStart(2, '0');
    return `${head}${offset < 0 ? '-' : '+'}${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}`;
  }
}

const zones = new Map<string, Zone>();

/** The zone of an IANA name, or undefined when `Intl` does not know it. */
export function zoneOf(name: string): Zone | undefined {
  const known = zones.get(name);
  if (known !== undefined) return known;
  if (!/^[A-Za-z][A-Za-z0-9_+/-]{0,63}$/.test(name)) return undefined;
  try {
    const zone = new Zone(name);
    if (zones.size >= ZONES_KEPT_MAX) zones.clear();
    zones.set(name, zone);
    return zone;
  } catch {
    return undefined; // RangeError: not an IANA name
  }
}
