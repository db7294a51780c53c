import type { Origin, RefusedReading, StoredReading } from '../contract.ts';
import { TIME_MAX } from './flux.ts';
import {
  FieldPrefixes,
  fieldKeys,
  fieldValue,
  isTooLong,
  kindOf,
  textValue,
} from './line-protocol.ts';
import type { Admit, LineWriter } from './line-writer.ts';
import type { Queries } from './queries.ts';
import { type ExistingRow, existingRows, keyText } from './raw-existing.ts';
import { type RawKeys, seriesOf } from './raw-keys.ts';
import { formatCreator, formatMerged, isLater, MERGED_FIELD, ORIGIN_FIELD } from './raw-origin.ts';

/** A row that several readings may make up. */
interface Draft {
  readings: StoredReading[];
  row: ExistingRow;
  /** Its creator has to be written: it is new, or another record claims it. */
  isNew: boolean;
  /** Field key → `key=value`, to be written. */
  changed: Map<string, string>;
}

export interface RawWriterOptions {
  queries: Queries;
  lines: LineWriter;
  keys: RawKeys;
  bucket: string;
}

/** Writes raw readings: new rows blindly, readings whose key may exist after a look at their row. */
export class RawWriter {
  private readonly options: RawWriterOptions;
  private readonly prefixes = new FieldPrefixes();
  /**
   * New rows of the call before, when that failed. Its repetition may write them blindly again: what
   * was written of them is the same.
   */
  private unsure: ReadonlySet<StoredReading> = new Set();

  constructor(options: RawWriterOptions) {
    this.options = options;
  }

  async write(readings: readonly StoredReading[], admit: Admit): Promise<RefusedReading[]> {
    const { keys, lines, bucket } = this.options;
    const refused: RefusedReading[] = [];
    const { unsure } = this;
    await keys.learn(readings);
    this.unsure = new Set();
    const fresh: StoredReading[] = [];
    const texts: string[] = [];
    const known: StoredReading[] = [];
    for (const reading of readings) {
      const { tenant, device, type, ts, partition } = reading;
      const rows = keys.find(tenant, device);
      const series = rows?.series(tenant, device, type);
      if (rows !== undefined) rows.partition = partition;
      const fields = this.fieldsOf(reading);
      if (rows === undefined || series === undefined) {
        refused.push({ reading, message: 'tenant, device or type is no legal name' });
      } else if (!fields.startsWith(' ')) {
        refused.push({ reading, message: fields });
      } else if (rows.claim(ts) || unsure.has(reading)) {
        fresh.push(reading);
        texts.push(`${series}${fields},${ORIGIN_FIELD}=${formatCreator(reading)} ${ts}`);
      } else {
        known.push(reading);
      }
    }
    keys.shrink();
    try {
      for (const { index, message } of await lines.write(bucket, 'ms', texts, admit)) {
        const reading = fresh[index];
        if (reading !== undefined) refused.push({ reading, message });
      }
      // Afterwards, so that a key that came twice in this batch has its row in the store.
      if (known.length > 0) refused.push(...(await this.merge(known, admit)));
    } catch (error) {
      this.unsure = new Set(fresh);
      throw error;
    }
    return refused;
  }

  private async merge(readings: readonly StoredReading[], admit: Admit): Promise<RefusedReading[]> {
    const { queries, lines, bucket, keys } = this.options;
    const existing = await existingRows(queries, bucket, readings, (key) => keys.gapMs(key));
    const drafts = new Map<string, Draft>();
    for (const reading of readings) {
      const key = keyText(reading);
      let draft = drafts.get(key);
      if (draft === undefined) {
        const row = existing.get(key);
        draft = {
          readings: [],
          row: row ?? {
            type: reading.type,
            creator: reading,
            fields: new Set(),
            merged: new Map(),
          },
          isNew: row === undefined,
          changed: new Map(),
        };
        drafts.set(key, draft);
      }
      this.add(draft, reading);
    }
    const written = [...drafts.values()].filter(({ changed, isNew }) => changed.size > 0 || isNew);
    const rejected = await lines.write(bucket, 'ms', written.map(lineOf), admit);
    return rejected.flatMap(({ index, message }) =>
      (written[index]?.readings ?? []).map((reading) => ({ reading, message })),
    );
  }

  private add(draft: Draft, reading: StoredReading): void {
    const { row } = draft;
    draft.readings.push(reading);
    if (reading.claims === true && !isSame(reading, row.creator)) {
      const { partition, offset } = row.creator;
      for (const key of row.fields) {
        if (!row.merged.has(key)) row.merged.set(key, { partition, offset });
      }
      row.creator = reading;
      draft.isNew = true;
    }
    for (const [metric, value] of Object.entries(reading.values)) {
      const latest = latestSource(row, metric);
      // What came from this very record is written again: a replay makes good what it has undone.
      if (latest !== undefined && isLater(latest, reading)) continue;
      const prefix = this.prefixes.get(metric, kindOf(value)) ?? '';
      const key = prefix.slice(0, -1);
      row.fields.add(key);
      if (isSame(reading, row.creator)) row.merged.delete(key);
      else row.merged.set(key, { partition: reading.partition, offset: reading.offset });
      draft.changed.set(key, `${prefix}${fieldValue(value)}`);
    }
  }

  /** ` a=1,b@bool=true` for line protocol, else why the reading can never be stored. */
  private fieldsOf(reading: StoredReading): string {
    const { ts, received, seq = 0, partition, offset, values } = reading;
    let fields = '';
    for (const metric in values) {
      const value = values[metric];
      if (value === undefined) continue;
      const prefix = this.prefixes.get(metric, kindOf(value));
      if (prefix === undefined) return `the metric name ${JSON.stringify(metric)} is not legal`;
      if (typeof value === 'string' && isTooLong(value)) return `the text of ${metric} is too long`;
      const text = fieldValue(value);
      if (text === undefined) return 'a value is not a finite number';
      fields += fields === '' ? ` ${prefix}${text}` : `,${prefix}${text}`;
    }
    if (fields === '') return 'the reading has no metric';
    if (!Number.isSafeInteger(ts) || ts < 0 || ts > TIME_MAX) {
      return `ts ${ts} is not a whole number of ms between 0 and ${TIME_MAX}`;
    }
    const isWhole =
      Number.isSafeInteger(received) &&
      Number.isSafeInteger(seq) &&
      Number.isSafeInteger(partition) &&
      Number.isSafeInteger(offset);
    if (!isWhole) return 'received, seq, partition or offset is not a whole number';
    return fields;
  }
}

/** A row keeps the type that it was created with: else one key had two rows. */
function lineOf({ readings, row, isNew, changed }: Draft): string {
  const [reading] = readings;
  if (reading === undefined) return '';
  const fields = [...changed.values()];
  if (row.merged.size > 0) fields.push(`${MERGED_FIELD}=${textValue(formatMerged(row.merged))}`);
  if (isNew) fields.push(`${ORIGIN_FIELD}=${formatCreator(row.creator)}`);
  return `${seriesOf(reading.tenant, reading.device, row.type) ?? ''} ${fields.join()} ${reading.ts}`;
}

/** Where the newest value of a metric came from, over its fields of all kinds. */
function latestSource(row: ExistingRow, metric: string): Origin | undefined {
  let latest: Origin | undefined;
  for (const key of fieldKeys(metric)) {
    if (!row.fields.has(key)) continue;
    const source = row.merged.get(key) ?? row.creator;
    if (latest === undefined || isLater(source, latest)) latest = source;
  }
  return latest;
}

function isSame(a: Origin, b: Origin): boolean {
  return a.partition === b.partition && a.offset === b.offset;
}
