import { ManualClock } from '../../src/core/clock.ts';
import { EmbeddedEngines } from '../model/engines.ts';
import type { LifeFaults, Settings } from '../model/plan.ts';
import { WorkerLife } from '../model/worker.ts';

/**
 * A process of its own with a rollup worker on the log and the store of a directory, which kills itself
 * where it is told to. Prints how many places there were when it came to the end.
 */
const [root, now, settings, faults] = process.argv.slice(2).map((text) => JSON.parse(text)) as [
  string,
  number,
  Settings,
  LifeFaults,
];
const engines = new EmbeddedEngines(settings, root);
const consumer = engines.consumer();
const ends = await consumer.bounds();
await consumer.close();
const store = await engines.store();
const kill = () => process.kill(process.pid, 'SIGKILL');
const life = new WorkerLife(engines, store, new ManualClock(now), settings, faults, kill);
await life.reaches(ends, store);
await life.stop();
if (life.failure !== undefined) throw life.failure;
console.log(JSON.stringify({ points: life.points, writes: life.writes }));
await engines.close();
