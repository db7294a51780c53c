import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, readlinkSync } from 'node:fs';
import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { freePort, pidListeningAt } from './listening-process.ts';

/** A Java and Kafka's jars. */
export interface KafkaProgram {
  java: string;
  classPath: string;
}

/**
 * The program that listens at the environment's Kafka, so that a test can start one of its own to kill;
 * `KAFKA_CLASSPATH` names another one. Undefined when it runs elsewhere.
 */
export function kafkaProgram(): KafkaProgram | undefined {
  const { KAFKA_CLASSPATH: named, KAFKA_BROKERS: brokers = '' } = process.env;
  if (named) return { java: 'java', classPath: named };
  const pid = pidListeningAt(Number(brokers.split(',')[0]?.split(':').at(-1)));
  if (pid === undefined) return undefined;
  const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  const at = words.findIndex((word) => word === '-cp' || word === '-classpath');
  const classPath = words[at + 1];
  if (at < 0 || classPath === undefined) return undefined;
  return { java: readlinkSync(`/proc/${pid}/exe`), classPath };
}

export const NO_PROGRAM =
  'Kafka does not run on this machine as a Java program; KAFKA_CLASSPATH may name its jars';

export interface OwnKafkaOptions {
  /** Brokers; the first one is the controller, too. Default 1. */
  nodes?: number;
  /** Of the listener for clients; default PLAINTEXT. */
  protocol?: 'PLAINTEXT' | 'SASL_SSL';
  /** The port at which clients are told to come, of a broker behind a proxy. */
  advertised?: number;
  /** More lines of the broker's properties. */
  properties?: Record<string, string>;
  /** More words for the formatting of the storage: `--add-scram …`. */
  format?: string[];
}

interface Node {
  id: number;
  port: number;
  properties: string;
  log: string;
  child?: ChildProcess | undefined;
}

/** A Kafka of a test's own, whose brokers can be killed, started again on their data, paused and resumed. */
export class OwnKafka {
  private readonly program: KafkaProgram;
  private readonly dir: string;
  private readonly nodes: Node[] = [];

  private constructor(program: KafkaProgram, dir: string) {
    this.program = program;
    this.dir = dir;
  }

  static async start(program: KafkaProgram, options: OwnKafkaOptions = {}): Promise<OwnKafka> {
    const dir = await mkdtemp(join(tmpdir(), 'spillway-kafka-'));
    const own = new OwnKafka(program, dir);
    try {
      await own.prepare(options);
      await Promise.all(own.nodes.map((_, at) => own.run(at)));
    } catch (error) {
      await own.remove();
      throw error;
    }
    return own;
  }

  get brokers(): string[] {
    return this.nodes.map(({ port }) => `127.0.0.1:${port}`);
  }

  private async prepare(options: OwnKafkaOptions): Promise<void> {
    const { nodes = 1, protocol = 'PLAINTEXT', properties = {}, format = [], advertised } = options;
    const cluster = randomBytes(16).toString('base64url');
    const controller = await freePort();
    for (let id = 1; id <= nodes; id++) {
      const port = await freePort();
      const inner = await freePort();
      const listeners = [`CLIENT://127.0.0.1:${port}`, `INNER://127.0.0.1:${inner}`];
      const isFirst = id === 1;
      const lines: Record<string, string> = {
        'process.roles': isFirst ? 'broker,controller' : 'broker',
        'node.id': String(id),
        'controller.quorum.voters': `1@127.0.0.1:${controller}`,
        'controller.listener.names': 'CONTROLLER',
        'inter.broker.listener.name': 'INNER',
        listeners: [
          ...listeners,
          ...(isFirst ? [`CONTROLLER://127.0.0.1:${controller}`] : []),
        ].join(),
        'advertised.listeners': `CLIENT://127.0.0.1:${advertised ?? port},INNER://127.0.0.1:${inner}`,
        'listener.security.protocol.map': `CLIENT:${protocol},INNER:PLAINTEXT,CONTROLLER:PLAINTEXT`,
        'log.dirs': join(this.dir, `data-${id}`),
        'auto.create.topics.enable': 'false',
        'offsets.topic.replication.factor': String(nodes),
        'offsets.topic.num.partitions': '2',
        'transaction.state.log.replication.factor': '1',
        'transaction.state.log.min.isr': '1',
        'share.coordinator.state.topic.replication.factor': '1',
        'share.coordinator.state.topic.min.isr': '1',
        'group.initial.rebalance.delay.ms': '0',
        'broker.session.timeout.ms': '3000',
        'broker.heartbeat.interval.ms': '500',
        ...properties,
      };
      const file = join(this.dir, `node-${id}.properties`);
      const text = Object.entries(lines).map(([key, value]) => `${key}=${value}\n`);
      await writeFile(file, text.join(''));
      await this.java(
        'kafka.tools.StorageTool',
        'format',
        `--cluster-id=${cluster}`,
        '-c',
        file,
        ...format,
      );
      this.nodes.push({ id, port, properties: file, log: join(this.dir, `node-${id}.log`) });
    }
  }

  /** One of the tools in Kafka's jars. */
  private async java(main: string, ...words: string[]): Promise<void> {
    const { java, classPath } = this.program;
    await promisify(execFile)(java, ['-XX:TieredStopAtLevel=1', '-cp', classPath, main, ...words]);
  }

  /** Starts a broker, again on its data, and waits until it takes connections. */
  async run(at = 0): Promise<void> {
    const node = this.node(at);
    const { java, classPath } = this.program;
    const child = spawn(
      java,
      [
        ...['-Xms128m', '-Xmx384m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1'],
        ...['-cp', classPath, 'kafka.Kafka', node.properties],
      ],
      { cwd: this.dir, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const keep = (chunk: Buffer) => void appendFile(node.log, chunk).catch(() => {});
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    node.child = child;
    for (let tries = 0; tries < 600 && child.exitCode === null; tries += 1) {
      if (await takesConnections(node.port)) return;
      await sleep(100);
    }
    const log = await readFile(node.log, 'utf8').catch(() => '');
    throw new Error(`Kafka did not start:\n${log.slice(-2_000)}`);
  }

  async kill(at = 0): Promise<void> {
    const node = this.node(at);
    const { child } = node;
    if (child === undefined) return;
    node.child = undefined;
    const ended = child.exitCode === null && child.signalCode === null && once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  pause(at = 0): void {
    this.node(at).child?.kill('SIGSTOP');
  }

  resume(at = 0): void {
    this.node(at).child?.kill('SIGCONT');
  }

  async remove(): Promise<void> {
    await Promise.all(this.nodes.map((_, at) => this.kill(at)));
    await rm(this.dir, { recursive: true, force: true });
  }

  private node(at: number): Node {
    const node = this.nodes[at];
    if (node === undefined) throw new Error(`there is no broker ${at}`);
    return node;
  }
}

async function takesConnections(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
