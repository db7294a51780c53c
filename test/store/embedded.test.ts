import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { openEmbeddedStore } from '../../src/store/embedded/store.ts';
import { storeSuite } from '../suites/store.ts';

const root = await mkdtemp(join(tmpdir(), 'spillway-store-'));
after(() => rm(root, { recursive: true, force: true }));

storeSuite('embedded store', async (t, { place, retention, windowsMs }) => {
  const store = openEmbeddedStore({ dir: join(root, place), retention, windowsMs });
  t.after(() => store.close());
  return store;
});
