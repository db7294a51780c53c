import { describe } from 'node:test';
import { logSuite } from '../suites/log.ts';
import { SKIP } from './kafka-env.ts';
import { openKafkaLog } from './kafka-log.ts';

describe('the contract', { skip: SKIP }, () => {
  logSuite('kafka', openKafkaLog);
});
