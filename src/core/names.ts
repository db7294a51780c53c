/** Names of tenants, devices and device types: compared whole, never made into patterns. */
const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const METRIC = /^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,63}$/;

/** Words with a meaning in payloads or in JavaScript objects; never metric names. */
export const RESERVED_METRICS: ReadonlySet<string> = new Set([
  'ts',
  'seq',
  'values',
  'devices',
  '__proto__',
  'constructor',
  'prototype',
]);

export function isName(text: string): boolean {
  return NAME.test(text);
}

/** Letters, digits and `_ . : / -`, at most 64, not starting with punctuation, not reserved. */
export function isMetricName(text: string): boolean {
  return METRIC.test(text) && !RESERVED_METRICS.has(text);
}
