import type { Value, Values } from './models.ts';
import { encodeReadings, type Reading } from './payload.ts';
import type { Random } from './random.ts';

/** Ways in which a device's message can be wrong. */
export const MALFORMED_KINDS = [
  'notJson',
  'wrongKind',
  'outOfBounds',
  'unknownMetric',
  'nan',
] as const;
export type MalformedKind = (typeof MALFORMED_KINDS)[number];

/** Far below every quantity that a device measures. */
const OUT_OF_BOUNDS = -1e9;
/** Stands for NaN until the text is written, which JSON can't say. */
const NAN_STAND_IN = 987654321.123;

/**
 * A message that carries `reading` wrongly.
 * `notJson`: cut short, as by a full buffer. `wrongKind`: a number is a text, a text is a number.
 * `outOfBounds`: -1e9. `unknownMetric`: one metric too many. `nan`: NaN, as C's printf writes it.
 */
export function encodeMalformed(
  reading: Reading,
  kind: MalformedKind,
  random: Random,
  style: { flat: boolean; gateway: boolean },
): string {
  const encode = (values: Values): string => encodeReadings([{ ...reading, values }], style);
  switch (kind) {
    case 'notJson': {
      const text = encode(reading.values);
      return text.slice(0, Math.max(1, Math.floor(text.length * (0.3 + 0.6 * random()))));
    }
    case 'wrongKind':
      return encode(
        replaceOne(reading.values, random, false, (value) =>
          typeof value === 'string' ? 42 : 'n/a',
        ),
      );
    case 'outOfBounds':
      return encode(replaceOne(reading.values, random, true, () => OUT_OF_BOUNDS));
    case 'unknownMetric':
      return encode({ ...reading.values, undocumented_metric: 1 });
    case 'nan':
      return encode(replaceOne(reading.values, random, true, () => NAN_STAND_IN)).replace(
        String(NAN_STAND_IN),
        'NaN',
      );
  }
}

function replaceOne(
  values: Values,
  random: Random,
  numeric: boolean,
  change: (value: Value) => Value,
): Values {
  const names = Object.keys(values);
  const numbers = names.filter((name) => typeof values[name] === 'number');
  const from = numeric && numbers.length > 0 ? numbers : names;
  const name = from[Math.floor(random() * from.length)];
  const value = name === undefined ? undefined : values[name];
  if (name === undefined || value === undefined) return values;
  return { ...values, [name]: change(value) };
}
