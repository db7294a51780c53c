import { readFileSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { constants, getPriority, setPriority } from 'node:os';
import { type EventLoopUtilization, performance } from 'node:perf_hooks';

/** What the calling thread gets of the CPU, and what it asks for. */

/** As V8 names the threads that collect garbage beside those that make it. */
const COLLECTOR = 'V8Worker';

/**
 * Lets the threads of the gateway go first: the calling thread is `by` nicer than the process from here on, and
 * nothing makes it as it was (only root could). So are the threads of V8 that collect garbage beside all others: four
 * of them at once took turns with the gateway on a full core, for 40 ms every two seconds. On Linux alone, where
 * priorities are the threads' (setpriority(2), "C library/kernel differences"): elsewhere pid 0 is the whole process,
 * which is left as it is. Throws what the system says.
 */
export async function lowerPriority(by: number): Promise<void> {
  if (by === 0 || process.platform !== 'linux') return;
  // A thread has the priority of the one that makes it; the pool that all share has to be made before.
  await stat('/proc/self');
  // The pid is the number of the main thread.
  const priority = Math.min(constants.priority.PRIORITY_LOW, getPriority(process.pid) + by);
  setPriority(0, priority);
  for (const thread of await collectors()) setPriority(thread, priority);
}

async function collectors(): Promise<number[]> {
  const threads = await readdir('/proc/self/task');
  const names = await Promise.all(
    // One that has ended meanwhile is none of them.
    threads.map((thread) => readFile(`/proc/self/task/${thread}/comm`, 'utf8').catch(() => '')),
  );
  return threads.filter((_, index) => names[index]?.trim() === COLLECTOR).map(Number);
}

/**
 * Times of the calling thread since its start as the kernel counts them, ns: on the CPU, and waiting for it
 * (Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat").
 */
const SCHEDSTAT = '/proc/thread-self/schedstat';

/**
 * Part of the time for which the calling thread ran or would have run if the CPU had been free: near 1 for one
 * that has more to do than it can, near 0 for one that waits for an answer or a disk. Where the kernel doesn't say,
 * it is the part for which the event loop was busy, which takes a slow disk for work.
 */
export class CpuDemand {
  private readonly read: () => number | undefined;
  private wantedMs: number | undefined;
  private lookedAt = performance.now();
  private loop: EventLoopUtilization = performance.eventLoopUtilization();

  constructor(read: () => number | undefined = wantedMs) {
    this.read = read;
    this.wantedMs = read();
  }

  /** Since the call before, 0 to 1. */
  share(): number {
    const { lookedAt, loop } = this;
    const before = this.wantedMs;
    this.lookedAt = performance.now();
    this.loop = performance.eventLoopUtilization();
    this.wantedMs = this.read();
    if (before === undefined || this.wantedMs === undefined) {
      return performance.eventLoopUtilization(this.loop, loop).utilization;
    }
    return Math.min(1, (this.wantedMs - before) / Math.max(1, this.lookedAt - lookedAt));
  }
}

/** CPU time that the calling thread has had, ms. */
export function usedMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1_000;
}

/** ms; undefined where the kernel doesn't say. */
function wantedMs(): number | undefined {
  try {
    const [onCpu, waiting] = readFileSync(SCHEDSTAT, 'utf8').split(' ');
    const ms = (Number(onCpu) + Number(waiting)) / 1e6;
    return Number.isFinite(ms) ? ms : undefined;
  } catch {
    return undefined;
  }
}
