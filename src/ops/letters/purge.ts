import type { Clock } from '../../core/clock.ts';
import type { LetterPurge } from '../../core/nouns.ts';
import type { AppendRequest } from '../../log/contract.ts';
import { encodeRecord, NO_TALLY } from '../../log/record.ts';
import type { StoreReader } from '../../store/contract.ts';
import type { Append, Selection } from './letter.ts';
import { selectLetters } from './select.ts';

/**
 * Purges dead letters: an event for each device goes into the log, and the store's writer removes what it
 * names. The ledger goes on to say that they were there.
 */
export interface PurgeOptions {
  store: Pick<StoreReader, 'deadLetters' | 'groupDeadLetters'>;
  selection: Selection;
  append: Append;
  clock: Clock;
}

/** What is going to be purged. */
export interface Purged {
  letters: number;
  devices: number;
}

/** Events of one append. */
const EVENTS_MAX = 500;
/** Letters that one event names. */
const NAMED_MAX = 1_000;

/** Resolves when the order is durable. Throws what store and log throw. */
export async function purgeLetters(options: PurgeOptions): Promise<Purged> {
  const { selection, clock, append } = options;
  const { tenant } = selection;
  const received = clock.now();
  // What comes later is not meant, even if the order is carried out again after a crash.
  const range = { from: selection.from, to: Math.min(selection.to, received + 1) };
  const { purges, letters } =
    selection.letters === undefined ? await byDevice(options, range) : await byName(options, range);
  let request: AppendRequest = { records: [], tallyKeys: [] };
  for (const [device, data] of purges) {
    const event = 'lettersPurged';
    request.records.push(encodeRecord({ kind: 'event', tenant, device, received, event, data }));
    request.tallyKeys.push(NO_TALLY);
    if (request.records.length < EVENTS_MAX) continue;
    await append(request);
    request = { records: [], tallyKeys: [] };
  }
  if (request.records.length > 0) await append(request);
  return { letters, devices: new Set(purges.map(([device]) => device)).size };
}

type Purges = { purges: [device: string, purge: LetterPurge][]; letters: number };

async function byDevice(
  { store, selection }: PurgeOptions,
  range: { from: number; to: number },
): Promise<Purges> {
  const { code, type, typeVersion, state } = selection;
  const data: LetterPurge = {
    ...range,
    ...(code !== undefined && { code }),
    ...(type !== undefined && { type }),
    ...(typeVersion !== undefined && { typeVersion }),
    ...(state !== undefined && { state }),
  };
  const devices = new Set<string>();
  let letters = 0;
  for (const group of await store.groupDeadLetters({ ...selection, ...range })) {
    devices.add(group.device);
    letters += group.count;
  }
  return { purges: [...devices].map((device) => [device, data]), letters };
}

async function byName(
  { store, selection }: PurgeOptions,
  range: { from: number; to: number },
): Promise<Purges> {
  const named = new Map<string, [number, number][]>();
  let letters = 0;
  for await (const page of selectLetters(store, { ...selection, ...range })) {
    for (const { device, partition, offset } of page) {
      const places = named.get(device) ?? [];
      named.set(device, places);
      places.push([partition, offset]);
      letters += 1;
    }
  }
  const purges: Purges['purges'] = [];
  for (const [device, places] of named) {
    for (let at = 0; at < places.length; at += NAMED_MAX) {
      purges.push([device, { ...range, letters: places.slice(at, at + NAMED_MAX) }]);
    }
  }
  return { purges, letters };
}
