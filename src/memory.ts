import { flushCompileCache } from 'node:module';
import { performance } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** How often the main thread looks whether it is idle after many connections came. */
const LOOK_MS = 2_000;
/** Connections since the last collection that make one worth its pause. */
const CONNECTIONS_MIN = 1_000;
/** Share of the time that an idle event loop may be busy. */
const IDLE_UTILIZATION = 0.1;

/**
 * Gives back what only starting, or a storm of connections, needed: they leave megabytes of garbage and a
 * large young generation, which V8 would keep until the next busy minutes. The pause is some 20 ms after
 * the start and 100 ms with 10,000 connections, so it waits for an idle moment.
 */
export function releaseMemory(): void {
  flushCompileCache();
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: {
    type: 'major';
    flavor: 'last-resort';
  }) => void;
  setFlagsFromString('--no-expose-gc');
  collect({ type: 'major', flavor: 'last-resort' });
}

/** Calls {@link releaseMemory} in the first idle moment after many connections came. */
export function releaseAfterStorms(connectionsTotal: () => number): { stop(): void } {
  let released = connectionsTotal();
  let before = performance.eventLoopUtilization();
  const timer = setInterval(() => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, before);
    before = now;
    if (connectionsTotal() - released < CONNECTIONS_MIN || utilization > IDLE_UTILIZATION) return;
    released = connectionsTotal();
    releaseMemory();
  }, LOOK_MS);
  timer.unref();
  return { stop: () => clearInterval(timer) };
}
