/**
 * Loaded into the program under test by `--import`, in each of its threads: on SIGUSR2 every thread collects its
 * garbage, and the main thread prints what is left as one line on stderr. The program itself knows nothing of it.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { BroadcastChannel, isMainThread, threadId, threadName } from 'node:worker_threads';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');
const name = isMainThread ? 'main' : threadName || `worker-${threadId}`;

function measure() {
  // Twice: what finalizers let go of is collected by the second.
  collect();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return { name, liveBytes: heapUsed + external };
}

const channel = new BroadcastChannel('heap-probe');
channel.unref();
if (isMainThread) {
  /** Names of the threads that run; each says so when it starts. */
  const names = new Set([name]);
  let asked = 0;
  let answers = new Map();
  const print = () => {
    if (answers.size < names.size) return;
    const line = { asked, rss: process.memoryUsage.rss(), threads: [...answers.values()] };
    process.stderr.write(`heap-probe ${JSON.stringify(line)}\n`);
  };
  channel.onmessage = ({ data }) => {
    if (data.started !== undefined) names.add(data.started);
    else if (data.asked === asked) {
      answers.set(data.of.name, data.of);
      print();
    }
  };
  process.on('SIGUSR2', () => {
    asked++;
    answers = new Map([[name, measure()]]);
    channel.postMessage({ asked });
    print();
  });
} else {
  channel.onmessage = ({ data }) => {
    if (data.asked !== undefined && data.of === undefined) {
      channel.postMessage({ asked: data.asked, of: measure() });
    }
  };
  channel.postMessage({ started: name });
}
