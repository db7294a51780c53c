import { test } from 'node:test';
import { soak } from '../soak/run.ts';

const SECONDS = 48;

/** The long one is `npm run soak`. */
test('churn leaves nothing behind', { timeout: 360_000 }, (t) => soak(t, SECONDS));
