import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readlinkSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { InfluxEnvironment } from './influx-env.ts';
import { freePort, pidListeningAt } from './listening-process.ts';

/**
 * The program that listens at the environment's InfluxDB, so that a test can start one of its own to
 * kill; `INFLUXD` names another one. Undefined when it runs elsewhere.
 */
export function influxdProgram(env: InfluxEnvironment): string | undefined {
  if (process.env.INFLUXD) return process.env.INFLUXD;
  const pid = pidListeningAt(Number(new URL(env.url).port));
  return pid === undefined ? undefined : readlinkSync(`/proc/${pid}/exe`);
}

/** An InfluxDB of a test's own, which can be killed, started again on its data, paused and resumed. */
export class OwnInfluxd {
  readonly env: InfluxEnvironment;
  private readonly program: string;
  private readonly dir: string;
  private child: ChildProcess | undefined;

  private constructor(program: string, dir: string, port: number) {
    this.program = program;
    this.dir = dir;
    this.env = { url: `http://127.0.0.1:${port}`, org: 'own', token: 'own-test-token' };
  }

  static async start(program: string): Promise<OwnInfluxd> {
    const dir = await mkdtemp(join(tmpdir(), 'spillway-influxd-'));
    const own = new OwnInfluxd(program, dir, await freePort());
    await own.run();
    const { url, org, token } = own.env;
    const answer = await fetch(`${url}/api/v2/setup`, {
      method: 'POST',
      body: JSON.stringify({
        username: 'admin',
        password: 'own-password',
        org,
        bucket: 'own',
        token,
      }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    return own;
  }

  async run(): Promise<void> {
    const { dir } = this;
    this.child = spawn(
      this.program,
      [
        ...['--bolt-path', join(dir, 'bolt'), '--sqlite-path', join(dir, 'sqlite')],
        ...[
          '--engine-path',
          join(dir, 'engine'),
          '--http-bind-address',
          new URL(this.env.url).host,
        ],
        ...['--reporting-disabled', '--log-level', 'error'],
      ],
      { cwd: dir, stdio: 'ignore' },
    );
    for (let tries = 0; tries < 300; tries += 1) {
      if (await isReady(this.env.url)) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error('influxd did not start');
  }

  async kill(): Promise<void> {
    const { child } = this;
    if (child === undefined) return;
    this.child = undefined;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  pause(): void {
    this.child?.kill('SIGSTOP');
  }

  resume(): void {
    this.child?.kill('SIGCONT');
  }

  async remove(): Promise<void> {
    await this.kill();
    await rm(this.dir, { recursive: true, force: true });
  }
}

async function isReady(url: string): Promise<boolean> {
  try {
    const answer = await fetch(`${url}/health`);
    await answer.text();
    return answer.ok;
  } catch {
    return false;
  }
}
