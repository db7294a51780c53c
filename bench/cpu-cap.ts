import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Gives processes a part of a core each, by control groups of Linux (version 1 or 2), so that several on one
 * machine have a capacity of their own that another's end does not add to. Needs root.
 */
const V1 = '/sys/fs/cgroup/cpu';
const V2 = '/sys/fs/cgroup';
/** Short, so that a process that has used its part up stands still for no more than this. */
const PERIOD_US = 10_000;

export class CpuCap {
  private readonly dir: string;

  /** `share` of one core. Throws where groups can't be made. */
  constructor(name: string, share: number) {
    const quota = Math.round(PERIOD_US * share);
    const isV1 = existsSync(join(V1, 'cpu.cfs_quota_us'));
    this.dir = join(isV1 ? V1 : V2, name);
    mkdirSync(this.dir);
    if (isV1) {
      writeFileSync(join(this.dir, 'cpu.cfs_period_us'), String(PERIOD_US));
      writeFileSync(join(this.dir, 'cpu.cfs_quota_us'), String(quota));
    } else writeFileSync(join(this.dir, 'cpu.max'), `${quota} ${PERIOD_US}`);
  }

  /** With the threads that it has and will have. */
  add(pid: number): void {
    writeFileSync(join(this.dir, 'cgroup.procs'), String(pid));
  }

  /** When its processes have ended. */
  remove(): void {
    if (readFileSync(join(this.dir, 'cgroup.procs'), 'utf8') === '') rmdirSync(this.dir);
  }

  static get isPossible(): boolean {
    const name = `spillway-try-${process.pid}`;
    try {
      new CpuCap(name, 0.5).remove();
      return true;
    } catch {
      return false;
    }
  }
}
