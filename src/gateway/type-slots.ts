import type { DeviceType } from '../core/nouns.ts';
import { compileValidation, type Validate } from './validation.ts';

/** How readings of a type are checked now; all are undefined while nobody declares the type. */
export interface TypeSlot {
  validate: Validate | undefined;
  /** `DeviceType.version`. */
  version: string | undefined;
  /** The metrics that the type declares, where it keeps others as well. */
  declared: ReadonlySet<string> | undefined;
}

/** By name of a type; a session keeps the slot, so that a change reaches it. */
export class TypeSlots {
  private readonly limits: { metricsMax: number; textMax: number };
  private readonly slots = new Map<string, TypeSlot>();

  constructor(limits: { metricsPerReadingMax: number; textMax: number }) {
    this.limits = { metricsMax: limits.metricsPerReadingMax, textMax: limits.textMax };
  }

  of(type: string): TypeSlot {
    let slot = this.slots.get(type);
    if (slot === undefined) {
      slot = { validate: undefined, version: undefined, declared: undefined };
      this.slots.set(type, slot);
    }
    return slot;
  }

  /** These are declared from now on, and no others. */
  set(types: ReadonlyMap<string, DeviceType>): void {
    for (const [name, slot] of this.slots) {
      if (!types.has(name)) Object.assign(slot, { validate: undefined, version: undefined });
    }
    for (const [name, type] of types) {
      const slot = this.of(name);
      slot.version = type.version;
      slot.validate = compileValidation(type, this.limits);
      slot.declared =
        type.unknownMetrics === 'keep' ? new Set(Object.keys(type.metrics)) : undefined;
    }
  }
}
