import { SpillwayError } from '../../core/errors.ts';
import type { LogRecord } from '../../core/nouns.ts';
import type { LogBatch, RecordSource } from '../contract.ts';
import { decompress } from './codecs.ts';
import { corrupt } from './errors.ts';
import { isControl, isIntact, packedRecords, type RawBatch, RecordCursor } from './record-batch.ts';
import { NUMBER, SOURCE } from './routing.ts';

export interface Decoded {
  /** In their order; a new one begins behind a gap. */
  batches: LogBatch[];
  /** Records that are none of ours; they are left out. */
  unreadable: number;
}

/**
 * The records of consecutive batches from `from` on. What others have put into our topics and is no record
 * makes a gap; behind the last record an empty batch stands for it, so that a reader comes to the end.
 * Throws LOG_CORRUPT for damage, and where the codec's package is missing.
 */
export async function decodeBatches(
  partition: number,
  raws: readonly RawBatch[],
  from: number,
  lines: boolean,
): Promise<Decoded> {
  const runs = new Runs(partition, lines);
  for (const raw of raws) {
    runs.covered = raw.lastOffset + 1;
    if (isControl(raw)) continue;
    const where = `partition ${partition}, offset ${raw.baseOffset}`;
    if (!isIntact(raw)) throw corrupt(where, 'its checksum does not match');
    try {
      const cursor = new RecordCursor(await decompress(packedRecords(raw), raw.attributes));
      while (cursor.next()) {
        const offset = raw.baseOffset + cursor.offsetDelta;
        if (offset >= from) runs.add(cursor, offset, raw.timestamp);
      }
    } catch (error) {
      if (error instanceof SpillwayError) throw error;
      // It came as it was sent, so whoever sent it can't write batches; that must not stop everybody.
      runs.unreadable += raw.count;
    }
  }
  runs.end(from);
  return { batches: runs.batches, unreadable: runs.unreadable };
}

interface Run extends LogBatch {
  sources: RecordSource[];
  lines?: string[];
}

class Runs {
  readonly batches: Run[] = [];
  unreadable = 0;
  /** Behind all that was looked at. */
  covered = 0;
  private readonly partition: number;
  private readonly asLines: boolean;
  private run: Run | undefined;
  private readonly names = [SOURCE, NUMBER];
  private readonly texts: string[] = [];

  constructor(partition: number, asLines: boolean) {
    this.partition = partition;
    this.asLines = asLines;
  }

  add(cursor: RecordCursor, offset: number, timestamp: number): void {
    const value = cursor.value();
    const record = this.asLines ? undefined : parse(value);
    if (value === null || (!this.asLines && record === undefined)) {
      this.unreadable += 1;
      this.run = undefined;
      return;
    }
    let { run } = this;
    if (run === undefined || run.nextOffset !== offset) run = this.begin(offset);
    if (record !== undefined) run.records.push(record);
    else run.lines?.push(value);
    run.sources.push(this.sourceOf(cursor, offset));
    run.nextOffset = offset + 1;
    run.appendedAt = timestamp;
  }

  /** Makes the last batch reach behind all that was looked at. */
  end(from: number): void {
    const reached = this.batches.at(-1)?.nextOffset ?? from;
    if (reached < this.covered) this.begin(reached).nextOffset = this.covered;
  }

  /** Who sends no number may repeat itself, and nobody can tell. */
  private sourceOf(cursor: RecordCursor, offset: number): RecordSource {
    cursor.headers(this.names, this.texts);
    const [source = '', text = ''] = this.texts;
    const number = text === '' ? Number.NaN : Number(text);
    return Number.isSafeInteger(number) ? { source, number } : { source: '', number: offset };
  }

  private begin(offset: number): Run {
    const run: Run = {
      partition: this.partition,
      firstOffset: offset,
      nextOffset: offset,
      records: [],
      sources: [],
      appendedAt: 0,
      ...(this.asLines ? { lines: [] } : {}),
    };
    this.batches.push(run);
    this.run = run;
    return run;
  }
}

/** Undefined for what is no record of ours. */
function parse(value: string | null): LogRecord | undefined {
  if (value === null) return undefined;
  try {
    const record: unknown = JSON.parse(value);
    return isRecord(record) ? record : undefined;
  } catch {
    return undefined;
  }
}

/** What everybody who takes records relies on; the values of a reading were checked by its gateway. */
function isRecord(record: unknown): record is LogRecord {
  const one = (record ?? {}) as Record<string, unknown>;
  if (typeof one.tenant !== 'string' || typeof one.device !== 'string') return false;
  if (!Number.isFinite(one.received)) return false;
  switch (one.kind) {
    case 'reading':
      return (
        Number.isFinite(one.ts) &&
        typeof one.type === 'string' &&
        typeof one.values === 'object' &&
        one.values !== null
      );
    case 'deadLetter':
      return typeof one.code === 'string' && typeof one.payload === 'string';
    case 'shed':
      return typeof one.code === 'string' && Number.isFinite(one.count);
    default:
      return one.kind === 'event';
  }
}
