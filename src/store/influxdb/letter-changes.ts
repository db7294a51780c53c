import type { DevicePurge, LetterMark } from '../contract.ts';
import { queryDeadLetters, writePoints } from './dead-letters.ts';
import {
  ATTEMPT_FIELD,
  LETTER_FIELD,
  type LetterPoint,
  letterSeries,
  letterTime,
  MESSAGE_FIELD,
  PURGED_FIELD,
  REPLAYED_FIELD,
} from './letter-point.ts';
import type { LineWriter } from './line-writer.ts';
import type { Queries } from './queries.ts';

/** What happens to dead letters that are stored: further fields of their points. */

/** Letters of one purge that are read at a time. */
const PAGE = 2_000;

export async function markDeadLetters(
  lines: LineWriter,
  bucket: string,
  marks: readonly LetterMark[],
): Promise<void> {
  // Of a letter that is marked twice, the first replay that took it and the highest number stay.
  const merged = new Map<string, LetterMark>();
  for (const mark of marks) {
    const key = `${mark.partition}/${mark.offset}`;
    const known = merged.get(key);
    const replayed = known?.replayed ?? mark.replayed;
    const attempt = Math.max(known?.attempt ?? 0, mark.attempt);
    merged.set(key, { ...mark, attempt, ...(replayed !== undefined && { replayed }) });
  }
  const points = [...merged.values()];
  const texts = points.map((mark) => {
    const taken = mark.replayed === undefined ? '' : `,${REPLAYED_FIELD}=${mark.replayed}i`;
    return line(mark, `${ATTEMPT_FIELD}=${mark.attempt}i${taken}`);
  });
  await writePoints(lines, bucket, points, texts);
}

export async function purgeDeadLetters(
  queries: Queries,
  lines: LineWriter,
  bucket: string,
  { device, letters, purged, ...rest }: DevicePurge,
): Promise<void> {
  const wanted = letters && new Set(letters.map(([partition, offset]) => `${partition}/${offset}`));
  const query = { ...rest, devices: [device], oldestFirst: true, limit: PAGE };
  let after: LetterPoint | undefined;
  for (;;) {
    const page = await queryDeadLetters(queries, bucket, { ...query, ...(after && { after }) });
    const points = page.filter(
      ({ partition, offset }) => wanted === undefined || wanted.has(`${partition}/${offset}`),
    );
    const fields = `${LETTER_FIELD}="{}",${MESSAGE_FIELD}="",${PURGED_FIELD}=${purged}i`;
    await writePoints(
      lines,
      bucket,
      points,
      points.map((point) => line(point, fields)),
    );
    after = page.at(-1);
    if (page.length < PAGE) return;
  }
}

function line(point: LetterPoint, fields: string): string {
  return `${letterSeries(point)} ${fields} ${letterTime(point)}`;
}
