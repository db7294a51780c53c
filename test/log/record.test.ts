import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  decodeRecord,
  encodeReading,
  parseTallyKey,
  readingPrefix,
  tallyKey,
} from '../../src/log/record.ts';

const name = fc.stringMatching(/^[A-Za-z0-9_-]{1,64}$/);
const value = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }).filter((n) => !Object.is(n, -0)),
  fc.boolean(),
  fc.string({ unit: 'binary' }),
);

test('a reading is one line of JSON, whatever its values', () => {
  fc.assert(
    fc.property(
      name,
      name,
      fc.nat(),
      fc.option(fc.maxSafeNat(), { nil: undefined }),
      fc.dictionary(
        name.filter((key) => key !== '__proto__'),
        value,
        { noNullPrototype: true },
      ),
      (tenant, device, ts, seq, values) => {
        const line = encodeReading(readingPrefix(tenant, device, 't'), ts, ts + 1, seq, values);
        assert.ok(!/[\n\r]/.test(line));
        assert.deepEqual(decodeRecord(line), {
          kind: 'reading',
          tenant,
          device,
          type: 't',
          ts,
          received: ts + 1,
          ...(seq === undefined ? {} : { seq }),
          values,
        });
      },
    ),
  );
});

test('a tally key holds its parts, by the hour', () => {
  const hour = 3_600_000;
  const at = 5 * hour + 17;
  assert.deepEqual(parseTallyKey(tallyKey('acme', 'd1', at, 'deadLetter', 'JSON_INVALID'), 3), {
    tenant: 'acme',
    device: 'd1',
    hour: 5 * hour,
    outcome: 'deadLetter',
    code: 'JSON_INVALID',
    count: 3,
  });
  assert.equal(parseTallyKey(tallyKey('acme', 'd1', at, 'reading', ''), 1).code, '');
  assert.equal(tallyKey('a', 'b', at, 'reading', ''), tallyKey('a', 'b', 5 * hour, 'reading', ''));
  assert.notEqual(
    tallyKey('a', 'b', at, 'reading', ''),
    tallyKey('a', 'b', 6 * hour, 'reading', ''),
  );
});
