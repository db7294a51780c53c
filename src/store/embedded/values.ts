import type { Value, Values } from '../../core/nouns.ts';

/**
 * Values as JSON text. JSON keeps strings (also lone surrogates), booleans and all finite numbers
 * exactly, but for -0, which `JSON.stringify` writes as 0 and which `-0` in the text restores.
 */

/** JSON array of the values in the order of the object's keys; undefined when one is not finite. */
export function encodeValues(values: Values): string | undefined {
  let text = '';
  for (const key in values) {
    const value = values[key];
    let item: string;
    if (typeof value === 'number') {
      if (!Number.isFinite(value)) return undefined;
      item = value === 0 && 1 / value < 0 ? '-0' : `${value}`;
    } else {
      item = JSON.stringify(value);
    }
    text += text === '' ? item : `,${item}`;
  }
  return `[${text}]`;
}

/** The values that {@link encodeValues} wrote, under their names. */
export function decodeValues(metrics: readonly string[], text: string): Values {
  const list = JSON.parse(text) as Value[];
  const values: Values = {};
  for (let i = 0; i < metrics.length; i++) {
    const metric = metrics[i];
    const value = list[i];
    if (metric !== undefined && value !== undefined) values[metric] = value;
  }
  return values;
}

/** One value for a column without type: numbers as they are, the others as JSON text. */
export function encodeValue(value: Value): number | string {
  return typeof value === 'number' ? value : JSON.stringify(value);
}

export function decodeValue(stored: number | string): Value {
  return typeof stored === 'number' ? stored : (JSON.parse(stored) as Value);
}
