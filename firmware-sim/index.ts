/**
 * The firmware simulator, for programs: everything that the command line does.
 * It speaks MQTT only and knows nothing of what it talks to.
 */
export type { Credential } from './credentials.ts';
export { readCredentials } from './credentials.ts';
export { createFleet, DEFAULT_URL, type Fleet, type FleetOptions } from './fleet.ts';
export type { FleetInput } from './fleet-schema.ts';
export type { RecordingMapInput } from './recording-map.ts';
export { type ReplayOptions, type ReplaySummary, replayCsv } from './replay.ts';
export { formatSummary, type Summary } from './summary.ts';
export { InputError } from './yaml-file.ts';
