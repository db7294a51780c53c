import { openEmbeddedStore } from '../../src/store/embedded/store.ts';
import { letter, reading, rollup } from '../suites/store.ts';

/**
 * Writes numbered batches for ever and prints the number of each batch when all of it has resolved.
 * Arguments: directory, first batch.
 */
const [dir = '', first = '0'] = process.argv.slice(2);
const store = openEmbeddedStore({
  dir,
  retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
  windowsMs: [60_000],
});
const perBatch = 200;
for (let batch = Number(first); ; batch++) {
  const offsets = Array.from({ length: perBatch }, (_, i) => batch * perBatch + i);
  const time = (offset: number): number => Date.UTC(2026, 2, 14 + (batch % 3), 12) + offset;
  await store.writeReadings(
    offsets.map((offset) => reading({ ts: time(offset), offset, device: `dev-${offset % 7}` })),
  );
  await store.writeDeadLetters([letter({ offset: batch, received: time(batch) })]);
  await store.writeRollups([rollup({ start: time(0) - (time(0) % 60_000), revision: batch })]);
  const nextOffset = (batch + 1) * perBatch;
  const counted = {
    tenant: 'acme',
    device: 'dev-1',
    hour: 0,
    outcome: 'stored' as const,
    code: '',
    count: perBatch,
  };
  await store.commit({ group: 'g', partition: 0, nextOffset, ledger: [counted] });
  process.stdout.write(`${batch}\n`);
}
