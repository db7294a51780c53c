import type { Values } from './models.ts';

/** Readings in one message at most. */
export const BATCH_MAX = 100;

/** One device's measurements at one time, as the device sees it. */
export interface Reading {
  /** The device that measured: its name without the tenant. */
  device: string;
  /** ms since the epoch by the device's own clock. */
  ts: number;
  seq: number;
  values: Values;
}

/**
 * The payload of one message.
 *
 * @param readings 1 to BATCH_MAX, oldest first
 * @param flat leave out time and number (`{metric: value}`); only for a single reading that is fresh, as
 *   the gateway then has to take its own time
 * @param gateway write `{"devices": {<device>: …}}`
 */
export function encodeReadings(
  readings: readonly Reading[],
  { flat, gateway }: { flat: boolean; gateway: boolean },
): string {
  if (!gateway) return JSON.stringify(form(readings, flat));
  const byDevice = new Map<string, Reading[]>();
  for (const reading of readings) {
    const own = byDevice.get(reading.device);
    if (own === undefined) byDevice.set(reading.device, [reading]);
    else own.push(reading);
  }
  const devices: Record<string, unknown> = {};
  for (const [device, own] of byDevice) devices[device] = form(own, flat);
  return JSON.stringify({ devices });
}

/** Spaces behind a JSON text change nothing but its size, bytes. */
export function pad(text: string, bytesMin: number): string {
  const missing = bytesMin - Buffer.byteLength(text);
  return missing > 0 ? text + ' '.repeat(missing) : text;
}

function form(readings: readonly Reading[], flat: boolean): unknown {
  const [only] = readings;
  if (readings.length === 1 && only !== undefined) return flat ? only.values : stamped(only);
  return readings.map(stamped);
}

function stamped({ ts, seq, values }: Reading) {
  return { ts, seq, values };
}
