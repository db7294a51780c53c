import type { EventRecord, LetterPurge, LetterReplay } from '../core/nouns.ts';
import type { DevicePurge, LetterMark, StoreWriter } from '../store/contract.ts';

/**
 * What became of dead letters that the store has: events of the log that change them. Both kinds may be
 * applied again, so a crash before the position moves is made good by the replay of the log.
 */
export class LetterChanges {
  private marks: LetterMark[] = [];
  private purges: DevicePurge[] = [];

  get size(): number {
    return this.marks.length + this.purges.length;
  }

  /** Takes events of these two kinds and passes over all others. */
  take({ event, data, tenant, device, received }: EventRecord): void {
    if (event === 'letterReplayed' && isReplay(data)) {
      const { taken, ...mark } = data;
      this.marks.push({ ...mark, tenant, device, ...(taken && { replayed: received }) });
    } else if (event === 'lettersPurged' && isPurge(data)) {
      this.purges.push({ ...data, tenant, device, purged: received });
    }
  }

  /** After the dead letters themselves. Throws what the store throws; all of it is tried again then. */
  async write(store: Pick<StoreWriter, 'markDeadLetters' | 'purgeDeadLetters'>): Promise<void> {
    if (this.marks.length > 0) await store.markDeadLetters(this.marks);
    for (const purge of this.purges) await store.purgeDeadLetters(purge);
    this.marks = [];
    this.purges = [];
  }
}

function isReplay(data: unknown): data is LetterReplay {
  const { partition, offset, received, attempt } = (data ?? {}) as Partial<LetterReplay>;
  return [partition, offset, received, attempt].every(Number.isSafeInteger);
}

function isPurge(data: unknown): data is LetterPurge {
  const { from, to } = (data ?? {}) as Partial<LetterPurge>;
  return Number.isFinite(from) && Number.isFinite(to);
}
