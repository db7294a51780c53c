/** The device type of the load generator. */
export const BENCH_TYPES = {
  bench: {
    metrics: {
      temperature: { kind: 'float', unit: '°C', min: -40, max: 85, required: true },
      humidity: { kind: 'float', unit: '%', min: 0, max: 100 },
      pressure: { kind: 'float', unit: 'hPa', min: 300, max: 1_100 },
      battery: { kind: 'float', unit: 'V', min: 0 },
      heating: { kind: 'bool' },
    },
    pastMax: '7d',
    futureMax: '1d',
  },
};
