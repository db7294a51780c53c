/** `npm run soak`: ten minutes, or `-- --minutes N`. A short one runs with the tests (test/system/soak.test.ts). */
import { test } from 'node:test';
import { parseArgs } from 'node:util';
import { soak } from './run.ts';

const { values } = parseArgs({
  options: { minutes: { type: 'string', default: '10' }, help: { type: 'boolean' } },
});
if (values.help === true) {
  process.stdout.write('npm run soak -- [options]\n  --minutes N  at least 0.5 (default: 10)\n');
  process.exit(0);
}
const seconds = 60 * Number(values.minutes);
if (!(seconds >= 30)) throw new Error(`--minutes: expected at least 0.5, got ${values.minutes}`);

test(
  `${values.minutes} minutes of churn leave nothing behind`,
  {
    timeout: (seconds + 300) * 1_000,
  },
  (t) => soak(t, seconds),
);
