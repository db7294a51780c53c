import { logSuite } from '../suites/log.ts';
import { openEmbedded } from './embedded-log.ts';

logSuite('embedded log', (t) => openEmbedded(t));
logSuite('embedded log without compression, commits of 7 records', (t) =>
  openEmbedded(t, { compression: 'none', commitRecordsMax: 7 }),
);
