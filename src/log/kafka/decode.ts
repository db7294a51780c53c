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
 * makes a gap. Throws LOG_CORRUPT for damage.
 */
export async function decodeBatches(
  partition: number,
  raws: readonly RawBatch[],
  from: number,
  lines: boolean,
): Promise<Decoded> {
  const runs = new Runs(partition, lines);
  for (const raw of raws) {
    if (isControl(raw)) continue;
    const where = `partition ${partition}, offset ${raw.baseOffset}`;
    if (!isIntact(raw)) throw corrupt(where, 'its checksum does not match');
    let cursor: RecordCursor;
    try {
      cursor = new RecordCursor(await decompress(packedRecords(raw), raw.attributes));
      while (cursor.next()) {
        const offset = raw.baseOffset + cursor.offsetDelta;
        if (offset >= from) runs.add(cursor, offset, raw.timestamp);
      }
    } catch (cause) {
      throw cause instanceof RangeError ? corrupt(where, 'it does not unpack', cause) : cause;
    }
  }
  return { batches: runs.batches, unreadable: runs.unreadable };
}

interface Run extends LogBatch {
  sources: RecordSource[];
  lines?: string[];
}

class Runs {
  readonly batches: Run[] = [];
  unreadable = 0;
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
    cursor.headers(this.names, this.texts);
    const [source = '', number = ''] = this.texts;
    // Who sends no number may repeat itself, and nobody can tell.
    run.sources.push({ source, number: number === '' ? offset : Number(number) });
    run.nextOffset = offset + 1;
    run.appendedAt = timestamp;
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
    const record = JSON.parse(value) as LogRecord | null;
    return typeof record?.kind === 'string' ? record : undefined;
  } catch {
    return undefined;
  }
}
