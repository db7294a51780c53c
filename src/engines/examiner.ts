import type { Config } from '../config/schema.ts';
import { parseTypes } from '../config/type-definitions.ts';
import { systemClock } from '../core/clock.ts';
import type { DeviceType } from '../core/nouns.ts';
import type { Examine } from '../gateway/contract.ts';
import { Examiner } from '../gateway/examine.ts';
import type { Directory } from '../tenants/contract.ts';

/**
 * The gateway's checks for dead letters; `definitions`: other ones of some types, as they would stand in
 * the configuration. Throws QUERY_INVALID. Loaded when it is first needed: validation takes megabytes.
 */
export function openExaminer(
  config: Config,
  directory: Pick<Directory, 'device'>,
  types: ReadonlyMap<string, DeviceType>,
  definitions?: unknown,
): Examine {
  const { gateway, rollup, store } = config;
  const others = definitions === undefined ? [] : parseTypes(definitions);
  const examiner = new Examiner({
    directory,
    types: new Map([...types, ...others]),
    clock: systemClock,
    limits: {
      payloadBytesMax: gateway.payloadBytesMax,
      readingsPerMessageMax: gateway.readingsPerMessageMax,
      metricsPerReadingMax: gateway.metricsPerReadingMax,
      textMax: gateway.textCharsMax,
    },
    rawMs: store.retention.raw,
    baseWindowMs: rollup.baseWindow,
  });
  return (letter) => examiner.examine(letter);
}
