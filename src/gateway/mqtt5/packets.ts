import mqtt, { type Packet } from 'mqtt-packet';

/** One whole packet of MQTT 5; undefined when it is malformed. Not for publishes: they are many. */
export function readPacket(bytes: Buffer): Packet | undefined {
  // A parser for each: one that has met an error keeps what it has read so far.
  const parser = mqtt.parser({ protocolVersion: 5 });
  let packet: Packet | undefined;
  let failed = false;
  parser.on('packet', (read: Packet) => {
    packet = read;
  });
  parser.on('error', () => {
    failed = true;
  });
  try {
    // What is left would be a packet that is longer than its header says.
    if (parser.parse(bytes) > 0) return undefined;
  } catch {
    return undefined;
  }
  return failed ? undefined : packet;
}

/** Throws when the packet can't be said in that version. */
export function writePacket(packet: Packet, protocolVersion: 4 | 5): Buffer {
  return mqtt.generate(packet, { protocolVersion });
}

/** The length of a packet or of properties [MQTT5 1.5.5]; at most four bytes. */
export function variableBytes(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low | 0x80 : low);
  } while (rest > 0);
  return bytes;
}

/** A packet of parts: the first byte of its header, then its body. */
export function packetOf(first: number, ...parts: Buffer[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([Buffer.from([first, ...variableBytes(length)]), ...parts]);
}
