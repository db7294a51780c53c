import { join } from 'node:path';
import { ROOT } from './spillway-process.ts';

/** A year of a weather station: hourly normals of three metrics. */
export const RECORDING = join(ROOT, 'firmware-sim/recordings/seattle-weather-hourly-normals.csv');
export const RECORDING_MAP = join(
  ROOT,
  'firmware-sim/recordings/seattle-weather-hourly-normals.map.yaml',
);
export const RECORDED_ROWS = 8_759;
export const RECORDED_ZONE = 'America/Los_Angeles';
export const STATISTICS = 'count sum min max mean stddev first last p50 p90 p99'.split(' ');

/** A configuration that takes the recording, with the device type `station`. */
export const RECORDING_SETTINGS = {
  logging: { format: 'json' },
  rollup: { baseWindow: '1m' },
  store: { retention: { raw: '0ms', base: '0ms', hour: '0ms', day: '0ms' } },
  types: {
    station: {
      period: '1h',
      pastMax: '20000d',
      metrics: {
        temperature: { kind: 'float', unit: '°C', min: -60, max: 60 },
        pressure: { kind: 'float', unit: 'hPa', min: 800, max: 1_100 },
        wind_speed: { kind: 'float', unit: 'm/s', min: 0, max: 120 },
      },
    },
  },
};
