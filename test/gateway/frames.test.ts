import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type FrameLimits, FrameReader, PUBLISH } from '../../src/gateway/frames.ts';

const LIMITS = { publishMax: 5_000, controlMax: 300, bufferedMax: 200, keptMax: 50 };

const limits: FrameLimits = {
  bodyMax: (type) => (type === PUBLISH ? LIMITS.publishMax : LIMITS.controlMax),
  bufferedMax: LIMITS.bufferedMax,
  keptMax: LIMITS.keptMax,
};

interface Frame {
  type: number;
  body: Buffer;
  bodyLength: number;
}

function packet(first: number, body: Buffer): Buffer {
  const length: number[] = [];
  for (let left = body.length; ; ) {
    const low = left % 128;
    left = Math.floor(left / 128);
    length.push(left > 0 ? low | 0x80 : low);
    if (left === 0) return Buffer.concat([Buffer.from([first, ...length]), body]);
  }
}

class Sink {
  readonly frames: Frame[] = [];
  readonly violations: string[] = [];
  isReady: () => boolean = () => true;

  ready(): boolean {
    return this.isReady();
  }

  frame(bytes: Buffer, start: number, body: number, end: number, bodyLength: number): void {
    const type = (bytes[start] as number) >> 4;
    this.frames.push({ type, body: Buffer.from(bytes.subarray(body, end)), bodyLength });
  }

  violation(reason: string): void {
    this.violations.push(reason);
  }
}

/** Packets with bodies of counting bytes, publishes beyond what is buffered among them. */
const packets = fc.array(
  fc
    .oneof(
      fc.record({ type: fc.integer({ min: 1, max: 14 }), length: fc.nat(300) }),
      fc.record({ type: fc.constant(PUBLISH), length: fc.integer({ min: 190, max: 5_000 }) }),
    )
    .map(({ type, length }) => ({
      type,
      body: Buffer.from(Array.from({ length }, (_, i) => (i * 7 + length) & 0xff)),
    })),
  { maxLength: 12 },
);
const cuts = fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 40 });

function chunks(bytes: Buffer, sizes: number[]): Buffer[] {
  const out: Buffer[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] as number;
    out.push(bytes.subarray(at, at + size));
    at += size;
  }
  return out;
}

function check(frames: Frame[], sent: { type: number; body: Buffer }[]): void {
  assert.equal(frames.length, sent.length);
  for (const [i, { type, body }] of sent.entries()) {
    const frame = frames[i] as Frame;
    assert.equal(frame.type, type);
    assert.equal(frame.bodyLength, body.length);
    // What came at once need not be cut.
    const cut = frame.body.length < body.length;
    if (cut) {
      assert.ok(type === PUBLISH && body.length > LIMITS.bufferedMax);
      assert.equal(frame.body.length, LIMITS.keptMax);
    }
    assert.ok(frame.body.equals(body.subarray(0, frame.body.length)));
  }
}

test('any split of a stream gives the same packets, and bounded bytes wait', () => {
  fc.assert(
    fc.property(packets, cuts, (sent, sizes) => {
      const sink = new Sink();
      const reader = new FrameReader(limits, sink);
      const stream = Buffer.concat(sent.map(({ type, body }) => packet(type << 4, body)));
      for (const chunk of chunks(stream, sizes)) {
        // A socket's buffer may be used again for the next read.
        const once = Buffer.from(chunk);
        assert.equal(reader.feed(once), true);
        once.fill(0xee);
        assert.ok(reader.buffered <= LIMITS.controlMax + 5, `${reader.buffered} bytes wait`);
      }
      assert.deepEqual(sink.violations, []);
      check(sink.frames, sent);
      assert.equal(reader.buffered, 0);
    }),
    { numRuns: 500 },
  );
});

test('a sink that is not ready gets the same packets later', () => {
  fc.assert(
    fc.property(packets, cuts, fc.array(fc.boolean(), { minLength: 1 }), (sent, sizes, turns) => {
      const sink = new Sink();
      const reader = new FrameReader(limits, sink);
      let turn = 0;
      sink.isReady = () => turns[turn++ % turns.length] as boolean;
      const stream = Buffer.concat(sent.map(({ type, body }) => packet(type << 4, body)));
      for (const chunk of chunks(stream, sizes)) {
        if (reader.feed(chunk)) continue;
        // While bytes wait, the socket is not read: it is asked again with nothing.
        sink.isReady = () => true;
        assert.equal(reader.feed(Buffer.alloc(0)), true);
        sink.isReady = () => turns[turn++ % turns.length] as boolean;
      }
      check(sink.frames, sent);
    }),
    { numRuns: 300 },
  );
});

test('any bytes at all end in packets or in one violation, never in an exception', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 })), (parts) => {
      const sink = new Sink();
      const reader = new FrameReader(limits, sink);
      for (const part of parts) reader.feed(Buffer.from(part));
      assert.ok(sink.violations.length <= 1);
      assert.ok(reader.buffered <= LIMITS.controlMax + 5);
    }),
    { numRuns: 500 },
  );
});

test('a length beyond four bytes is malformed, as soon as it is seen', () => {
  const sink = new Sink();
  const reader = new FrameReader(limits, sink);
  for (const byte of [0x30, 0x80, 0x80, 0x80]) reader.feed(Buffer.from([byte]));
  assert.deepEqual(sink.violations, []);
  reader.feed(Buffer.from([0x80]));
  assert.deepEqual(sink.violations, ['PACKET_MALFORMED']);
  reader.feed(packet(0xc0, Buffer.alloc(0)));
  assert.deepEqual(sink.frames, []);
  assert.equal(reader.buffered, 0);
});

test('a packet beyond its limit is refused by its header alone', () => {
  for (const [first, length] of [
    [0x30, LIMITS.publishMax + 1],
    [0x80, LIMITS.controlMax + 1],
  ] as const) {
    const sink = new Sink();
    const reader = new FrameReader(limits, sink);
    reader.feed(packet(first, Buffer.alloc(length)).subarray(0, 3));
    assert.deepEqual(sink.violations, ['PACKET_TOO_LARGE']);
  }
  const closed = new Sink();
  new FrameReader({ ...limits, bodyMax: () => -1 }, closed).feed(Buffer.from([0xc0, 0]));
  assert.deepEqual(closed.violations, ['PACKET_UNEXPECTED']);
});

test('a sink that is asked often costs no copy of what waits', () => {
  const sink = new Sink();
  sink.isReady = () => false;
  const reader = new FrameReader({ ...limits, bodyMax: () => 2 ** 20 }, sink);
  reader.feed(packet(0xc0, Buffer.alloc(2 ** 20)));
  const before = process.memoryUsage().arrayBuffers;
  for (let i = 0; i < 200; i++) reader.feed(Buffer.alloc(0));
  assert.ok(process.memoryUsage().arrayBuffers - before < 16 * 2 ** 20);
});
