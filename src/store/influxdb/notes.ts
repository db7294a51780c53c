import { FluxQuery } from './flux.ts';
import { encodeTag, textValue } from './line-protocol.ts';
import type { Admit, LineWriter } from './line-writer.ts';
import { place, type Queries } from './queries.ts';
import { writeAll } from './sessions.ts';

/**
 * What consumers note before they write: one series for each partition of a group, the number of the note as
 * its time in ms. With fewer notes than before the last ones stay; that is allowed.
 */
const MEASUREMENT = 'note';
const FIELD = 'text';
const NS_PER_MS = '000000';

export async function writeNotes(
  lines: LineWriter,
  bucket: string,
  group: string,
  partition: number,
  notes: readonly string[],
  admit: Admit,
): Promise<void> {
  const series = `${MEASUREMENT},group=${encodeTag(group)},partition=${partition}`;
  const texts = notes.map(
    (text, number) => `${series} ${FIELD}=${textValue(text)} ${number}${NS_PER_MS}`,
  );
  await writeAll(lines, bucket, texts, admit);
}

export async function queryNotes(
  queries: Queries,
  bucket: string,
  group: string,
): Promise<Map<number, string[]>> {
  const query = new FluxQuery();
  query.flux = `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(Number.NEGATIVE_INFINITY)}, stop: ${query.time(Number.POSITIVE_INFINITY)})
    |> filter(fn: (r) => r._measurement == ${query.text(MEASUREMENT)}
      and r._field == ${query.text(FIELD)} and r.group == ${query.text(encodeTag(group))})
    |> keep(columns: ["_value", "partition"])`;
  const rows = await queries.rows(query, (columns) => {
    const [value, partition] = [place(columns, '_value'), place(columns, 'partition')];
    return (cells) => ({ partition: Number(cells[partition]), text: cells[value] ?? '' });
  });
  const notes = new Map<number, string[]>();
  for (const { partition, text } of rows) {
    notes.set(partition, [...(notes.get(partition) ?? []), text]);
  }
  return notes;
}
