import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Bucket, bucketsOf } from '../../src/reports/buckets.ts';
import { chooseStep, formatStep, parseStep } from '../../src/reports/steps.ts';
import { type Zone, zoneOf } from '../../src/reports/zone.ts';

const HOUR = 3_600_000;

function zone(name: string): Zone {
  const found = zoneOf(name);
  assert.ok(found, name);
  return found;
}

function buckets(zoneName: string, from: string, to: string, step: string): Bucket[] {
  const parsed = parseStep(step);
  assert.ok(parsed !== undefined && parsed.kind !== 'raw');
  return bucketsOf(zone(zoneName), Date.parse(from), Date.parse(to), parsed, 10_000);
}

const hours = (list: Bucket[]): number[] =>
  list.map((bucket) => (bucket.end - bucket.start) / HOUR);
const starts = (name: string, list: Bucket[]): string[] =>
  list.map((bucket) => zone(name).iso(bucket.start));

describe('zones', () => {
  test('offsets on both sides of a change, and to the millisecond', () => {
    const berlin = zone('Europe/Berlin');
    const change = Date.parse('2026-03-29T01:00:00Z');
    assert.equal(berlin.iso(change - 1), '2026-03-29T01:59:59.999+01:00');
    assert.equal(berlin.iso(change), '2026-03-29T03:00:00+02:00');
    assert.equal(berlin.changeIn(change - HOUR, change + HOUR), change);
    assert.equal(berlin.changeIn(change, change + HOUR), undefined);
    assert.equal(berlin.changeIn(change - HOUR, change), change);
    assert.equal(zone('Asia/Kolkata').iso(0), '1970-01-01T05:30:00+05:30');
    assert.equal(
      zone('America/St_Johns').iso(Date.parse('2026-01-01T00:00:00Z')),
      '2025-12-31T20:30:00-03:30',
    );
    assert.equal(zone('UTC').iso(1), '1970-01-01T00:00:00.001Z');
  });

  test('a local time that comes twice is the earlier, one that is skipped is moved on', () => {
    const berlin = zone('Europe/Berlin');
    const at = (local: string): string => berlin.iso(berlin.instant(Date.parse(`${local}Z`)));
    assert.equal(at('2026-10-25T02:30:00'), '2026-10-25T02:30:00+02:00');
    assert.equal(at('2026-10-25T03:00:00'), '2026-10-25T03:00:00+01:00');
    assert.equal(at('2026-03-29T02:30:00'), '2026-03-29T03:30:00+02:00');
    const york = zone('America/New_York');
    assert.equal(
      york.iso(york.instant(Date.parse('2026-07-01T00:00:00Z'))),
      '2026-07-01T00:00:00-04:00',
    );
  });

  test('agrees with Intl on every hour of a year', () => {
    for (const name of [
      'Europe/Berlin',
      'America/New_York',
      'Australia/Lord_Howe',
      'Asia/Kolkata',
    ]) {
      const format = new Intl.DateTimeFormat('sv-SE', {
        timeZone: name,
        dateStyle: 'short',
        timeStyle: 'medium',
      });
      const subject = zone(name);
      for (let at = Date.UTC(2026, 0, 1); at < Date.UTC(2027, 0, 1); at += HOUR / 2) {
        const local = new Date(subject.local(at)).toISOString();
        assert.equal(`${local.slice(0, 10)} ${local.slice(11, 19)}`, format.format(at));
      }
    }
  });

  test('refuses what is no zone', () => {
    for (const name of [
      '',
      'Mars/Olympus',
      '+05:30',
      'Europe/Berlin ',
      '__proto__',
      'x'.repeat(99),
    ]) {
      assert.equal(zoneOf(name), undefined, name);
    }
    assert.equal(zoneOf('europe/berlin')?.name, 'Europe/Berlin');
  });
});

describe('days', () => {
  test('Europe/Berlin: 23, 24 and 25 hours', () => {
    const spring = buckets(
      'Europe/Berlin',
      '2026-03-28T00:00:00+01:00',
      '2026-03-31T00:00:00+02:00',
      '1d',
    );
    assert.deepEqual(hours(spring), [24, 23, 24]);
    const autumn = buckets(
      'Europe/Berlin',
      '2026-10-24T00:00:00+02:00',
      '2026-10-27T00:00:00+01:00',
      '1d',
    );
    assert.deepEqual(hours(autumn), [24, 25, 24]);
  });

  test('Asia/Kolkata begins at half past UTC', () => {
    const list = buckets(
      'Asia/Kolkata',
      '2026-05-01T00:00:00+05:30',
      '2026-05-03T00:00:00+05:30',
      '1d',
    );
    assert.deepEqual(
      list.map((b) => new Date(b.start).toISOString()),
      ['2026-04-30T18:30:00.000Z', '2026-05-01T18:30:00.000Z'],
    );
  });

  test('America/New_York', () => {
    const list = buckets(
      'America/New_York',
      '2026-03-07T00:00:00-05:00',
      '2026-03-10T00:00:00-04:00',
      '1d',
    );
    assert.deepEqual(hours(list), [24, 23, 24]);
  });

  test('Australia/Lord_Howe changes by half an hour', () => {
    const autumn = buckets(
      'Australia/Lord_Howe',
      '2026-04-05T00:00:00+11:00',
      '2026-04-06T00:00:00+10:30',
      '1d',
    );
    assert.deepEqual(hours(autumn), [24.5]);
    const spring = buckets(
      'Australia/Lord_Howe',
      '2026-10-04T00:00:00+10:30',
      '2026-10-05T00:00:00+11:00',
      '1d',
    );
    assert.deepEqual(hours(spring), [23.5]);
  });

  test('a day that begins at 01:00 because midnight is skipped', () => {
    const list = buckets(
      'Asia/Beirut',
      '2026-03-28T00:00:00+02:00',
      '2026-03-30T00:00:00+03:00',
      '1d',
    );
    assert.deepEqual(hours(list), [24, 23]);
    assert.equal(starts('Asia/Beirut', list)[1], '2026-03-29T01:00:00+03:00');
  });

  test('a day that a zone left out', () => {
    const list = buckets(
      'Pacific/Apia',
      '2011-12-29T00:00:00-10:00',
      '2012-01-01T00:00:00+14:00',
      '1d',
    );
    assert.deepEqual(starts('Pacific/Apia', list), [
      '2011-12-29T00:00:00-10:00',
      '2011-12-31T00:00:00+14:00',
    ]);
  });
});

describe('weeks and months', () => {
  test('weeks begin on Monday', () => {
    const list = buckets(
      'Europe/Berlin',
      '2026-03-23T00:00:00+01:00',
      '2026-04-06T00:00:00+02:00',
      '1w',
    );
    assert.deepEqual(hours(list), [167, 168]);
    assert.equal(new Date(zone('Europe/Berlin').local(list[0]?.start ?? 0)).getUTCDay(), 1);
  });

  test('months of the calendar, both ends cut to the range', () => {
    const list = buckets(
      'America/New_York',
      '2026-01-10T12:00:00-05:00',
      '2026-04-02T00:00:00-04:00',
      '1mo',
    );
    assert.deepEqual(starts('America/New_York', list), [
      '2026-01-10T12:00:00-05:00',
      '2026-02-01T00:00:00-05:00',
      '2026-03-01T00:00:00-05:00',
      '2026-04-01T00:00:00-04:00',
    ]);
    assert.equal(list.at(-1)?.end, Date.parse('2026-04-02T00:00:00-04:00'));
  });

  test('quarters begin in January', () => {
    const list = buckets('UTC', '2026-02-01T00:00:00Z', '2026-08-01T00:00:00Z', '3mo');
    assert.deepEqual(starts('UTC', list), [
      '2026-02-01T00:00:00Z',
      '2026-04-01T00:00:00Z',
      '2026-07-01T00:00:00Z',
    ]);
  });
});

describe('buckets of elapsed time', () => {
  const day = ['2026-10-25T00:00:00+02:00', '2026-10-26T00:00:00+01:00'] as const;

  test('an hour that comes twice is two buckets', () => {
    const list = buckets('Europe/Berlin', ...day, '1h');
    assert.equal(list.length, 25);
    assert.deepEqual(starts('Europe/Berlin', list).slice(2, 4), [
      '2026-10-25T02:00:00+02:00',
      '2026-10-25T02:00:00+01:00',
    ]);
    assert.deepEqual(new Set(hours(list)), new Set([1]));
  });

  test('an hour that is skipped is none', () => {
    const list = buckets(
      'Europe/Berlin',
      '2026-03-29T00:00:00+01:00',
      '2026-03-30T00:00:00+02:00',
      '1h',
    );
    assert.equal(list.length, 23);
    assert.deepEqual(new Set(hours(list)), new Set([1]));
  });

  test('six hours stay at 0, 6, 12 and 18 of local time', () => {
    const list = buckets('Europe/Berlin', ...day, '6h');
    assert.deepEqual(hours(list), [7, 6, 6, 6]);
    assert.deepEqual(
      starts('Europe/Berlin', list).map((text) => text.slice(11, 16)),
      ['00:00', '06:00', '12:00', '18:00'],
    );
  });

  test('half an hour of change inside an hour', () => {
    const autumn = buckets(
      'Australia/Lord_Howe',
      '2026-04-05T00:00:00+11:00',
      '2026-04-06T00:00:00+10:30',
      '1h',
    );
    assert.deepEqual([autumn.length, hours(autumn)[1]], [24, 1.5]);
    const halves = buckets(
      'Australia/Lord_Howe',
      '2026-04-05T00:00:00+11:00',
      '2026-04-06T00:00:00+10:30',
      '30m',
    );
    assert.equal(halves.length, 49);
    const spring = buckets(
      'Australia/Lord_Howe',
      '2026-10-04T00:00:00+10:30',
      '2026-10-05T00:00:00+11:00',
      '1h',
    );
    assert.deepEqual(hours(spring).slice(1, 4), [1, 0.5, 1]);
  });

  test('Kolkata hours begin at half past UTC', () => {
    const list = buckets('Asia/Kolkata', '2026-05-01T00:10:00Z', '2026-05-01T02:00:00Z', '1h');
    assert.deepEqual(
      list.map((b) => new Date(b.start).toISOString().slice(11, 16)),
      ['00:10', '00:30', '01:30'],
    );
  });

  test('no gaps, no overlaps, whatever the step and the zone', () => {
    for (const name of [
      'Europe/Berlin',
      'America/New_York',
      'Australia/Lord_Howe',
      'Asia/Kolkata',
      'UTC',
    ]) {
      for (const step of ['7m', '45m', '1h', '5h', '36h', '1d', '3d', '1w', '1mo']) {
        const from = Date.parse('2026-03-01T05:17:00Z');
        const to = Date.parse('2026-04-20T00:00:00Z');
        const list = bucketsOf(
          zone(name),
          from,
          to,
          parseStep(step) as { kind: 'span'; ms: number },
          100_000,
        );
        let at = from;
        for (const bucket of list) {
          assert.equal(bucket.start, at, `${name} ${step}`);
          assert.ok(bucket.end > bucket.start);
          at = bucket.end;
        }
        assert.equal(at, to);
      }
    }
  });

  test('stops one behind the limit', () => {
    const list = bucketsOf(zone('UTC'), 0, 100 * HOUR, { kind: 'span', ms: HOUR }, 10);
    assert.equal(list.length, 11);
  });
});

describe('steps', () => {
  test('reads and writes', () => {
    for (const text of ['raw', '15m', '1h', '24h', '1d', '2w', '1mo', '12mo', '90s']) {
      const step = parseStep(text);
      assert.ok(step);
      assert.equal(formatStep(step), text);
    }
    for (const text of ['', '0m', '0d', '-1h', '1y', 'hour', '1', '1e3s', '99999d']) {
      assert.equal(parseStep(text), undefined, text);
    }
  });

  test('the default shows at most 300 points', () => {
    const chosen = (ms: number, base = 60_000): string => formatStep(chooseStep(ms, base, 300));
    assert.equal(chosen(HOUR), '1m');
    assert.equal(chosen(24 * HOUR), '5m');
    assert.equal(chosen(24 * HOUR * 30), '3h');
    assert.equal(chosen(24 * HOUR * 365), '1w');
    assert.equal(chosen(24 * HOUR * 365 * 200), '12mo');
    assert.equal(chosen(HOUR, 10_000), '20s');
    assert.equal(chosen(HOUR, 900_000), '15m');
  });
});
