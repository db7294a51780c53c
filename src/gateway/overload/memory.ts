import { totalmem } from 'node:os';
import { getHeapStatistics } from 'node:v8';

/** Of the machine's memory, where nothing says how much is the process's. */
const MACHINE_SHARE = 0.75;

/**
 * How much of its memory the process uses, from 0 to 1: of `bytesMax`, of what the container allows, or of
 * the machine's; or of the heap of this thread, whichever is fuller.
 */
export function memoryShare(bytesMax: number): number {
  const heap = getHeapStatistics();
  const allowed = bytesMax > 0 ? bytesMax : limit();
  return Math.max(process.memoryUsage.rss() / allowed, heap.used_heap_size / heap.heap_size_limit);
}

function limit(): number {
  const machine = totalmem() * MACHINE_SHARE;
  const container = process.constrainedMemory();
  return container > 0 ? Math.min(container, machine) : machine;
}
