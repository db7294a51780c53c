import { readdirSync, readFileSync } from 'node:fs';
import { cpuSecondsOf } from './processes.ts';

/** CPU of a process by its threads (proc(5)). */

/** The threads that the program names, and what V8 and libuv name, by what they do. */
const STAGES: ReadonlyMap<string, string> = new Map([
  ['MainThread', 'gateway (main thread)'],
  ['log', 'log writer'],
  ['forwarder', 'forwarder'],
  ['rollup', 'rollup and store'],
  ['http', 'http'],
  ['V8Worker', 'garbage collection, compiling'],
  ['libuv-worker', 'thread pool (gzip, passwords)'],
]);
const OTHER = 'other';

/** Seconds by stage; what ended threads have used is in `other`. */
export type CpuByStage = Map<string, number>;

export function cpuByStage(pid: number): CpuByStage {
  const stages: CpuByStage = new Map([...STAGES.values(), OTHER].map((stage) => [stage, 0]));
  let named = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const path = `${pid}/task/${task}`;
    const seconds = cpuSecondsOf(path);
    const name = readFileSync(`/proc/${path}/comm`, 'utf8').trim();
    const stage = STAGES.get(name) ?? OTHER;
    stages.set(stage, (stages.get(stage) ?? 0) + seconds);
    named += seconds;
  }
  stages.set(OTHER, (stages.get(OTHER) ?? 0) + Math.max(0, cpuSecondsOf(pid) - named));
  return stages;
}

/** What was used between two looks. */
export function since(before: CpuByStage, after: CpuByStage): CpuByStage {
  return new Map([...after].map(([stage, used]) => [stage, used - (before.get(stage) ?? 0)]));
}
