import { deviceOf, SESSIONS_PER_DEVICE_MAX } from './session-memory.ts';

/** The longest time that a timer takes, ms: 24 days. */
const TIMER_MAX_MS = 2 ** 31 - 1;

interface Will<Session> {
  session: Session;
  timer: NodeJS.Timeout;
  publish: () => void;
}

/**
 * Wills of MQTT 5 that wait for their device to come back [MQTT5-3.1.3-9], by client id: of a device as many as
 * sessions are kept of it, where the oldest is published when there is one more; of all as many as there may be
 * connections, where one more is published at once.
 */
export class DelayedWills<Session extends { clientId: string }> {
  private readonly max: number;
  /** By device, then by client id, oldest first. */
  private readonly devices = new Map<string, Map<string, Will<Session>>>();
  private count = 0;

  constructor(options: { max: number }) {
    this.max = options.max;
  }

  get size(): number {
    return this.count;
  }

  hold(session: Session, delayMs: number, publish: () => void): void {
    const { clientId } = session;
    this.end(clientId);
    const [oldest, ...others] = this.devices.get(deviceOf(clientId))?.keys() ?? [];
    if (oldest !== undefined && others.length + 1 >= SESSIONS_PER_DEVICE_MAX) this.end(oldest);
    if (this.count >= this.max) {
      publish();
      return;
    }
    const timer = setTimeout(() => this.end(clientId), Math.min(delayMs, TIMER_MAX_MS));
    const wills = this.devices.get(deviceOf(clientId)) ?? new Map<string, Will<Session>>();
    this.devices.set(deviceOf(clientId), wills.set(clientId, { session, timer, publish }));
    this.count++;
  }

  /** The device is back in time, with the same session. */
  cancel(clientId: string): void {
    this.take(clientId);
  }

  /** The session is over: its will is published now. */
  end(clientId: string): void {
    this.take(clientId)?.publish();
  }

  /** These sessions are over. */
  endOf(isOver: (session: Session) => boolean): void {
    for (const wills of [...this.devices.values()])
      for (const { session } of [...wills.values()])
        if (isOver(session)) this.end(session.clientId);
  }

  /** The gateway stops, and its sessions with it. */
  endAll(): void {
    this.endOf(() => true);
  }

  private take(clientId: string): Will<Session> | undefined {
    const device = deviceOf(clientId);
    const wills = this.devices.get(device);
    const will = wills?.get(clientId);
    if (wills === undefined || will === undefined) return undefined;
    clearTimeout(will.timer);
    wills.delete(clientId);
    if (wills.size === 0) this.devices.delete(device);
    this.count--;
    return will;
  }
}
