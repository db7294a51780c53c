import { after, test } from 'node:test';
import { openInfluxStore } from '../../src/store/influxdb/store.ts';
import { storeSuite } from '../suites/store.ts';
import { influxEnvironment, removeBuckets, SKIPPED, uniquePrefix } from './influx-env.ts';

const env = influxEnvironment();

if (env === undefined) {
  test('the store on InfluxDB', { skip: SKIPPED }, () => {});
} else {
  const run = uniquePrefix();
  after(() => removeBuckets(env, run));
  storeSuite(
    'InfluxDB store',
    async (t, { place, retention, windowsMs }) => {
      const bucketPrefix = `${run}-${place.slice(0, 8)}`;
      const store = await openInfluxStore({ ...env, bucketPrefix, retention, windowsMs });
      t.after(() => store.close());
      return store;
    },
    { retentionOnCall: false },
  );
}
