import { parseUsername } from '../tenants/passwords.ts';
import type { SharedBus } from './bus.ts';

/** Sends to a device that is connected to this process; false when it is not, or does not listen. */
export type SendHere = (tenant: string, device: string, payload: string) => boolean;

/**
 * True when the command was sent to the device, or with Kafka: when it is on its way to whichever gateway
 * has the device, which nobody here can know. Without a bus it reaches the devices of this process alone.
 */
export async function sendCommand(
  sendHere: SendHere,
  bus: SharedBus | undefined,
  { tenant, device, payload }: { tenant: string; device: string; payload: string },
): Promise<boolean> {
  if (sendHere(tenant, device, payload)) return true;
  return bus?.send(tenant, device, { payload }) ?? false;
}

/** A message of the bus, if it is a command. */
export function hearCommand(
  sendHere: SendHere,
  key: string,
  { payload }: Record<string, unknown>,
): void {
  const names = parseUsername(key);
  if (names === undefined || typeof payload !== 'string') return;
  sendHere(names.tenant, names.device, payload);
}
