import type { TestContext } from 'node:test';
import type { LogAppender, LogConsumer } from '../../src/log/contract.ts';
import type { AppenderEvents } from '../../src/log/embedded/appender.ts';
import type { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import type { Forwarder } from '../../src/log/kafka/forwarder.ts';
import { finish } from '../../src/rollup/aggregate.ts';
import type { Store } from '../../src/store/contract.ts';
import { openInfluxStore } from '../../src/store/influxdb/store.ts';
import { EmbeddedEngines, type Engines, type WriteHook } from '../model/engines.ts';
import { DAY, HOUR } from '../model/fleet.ts';
import type { Settings } from '../model/plan.ts';
import { type InfluxEnvironment, removeBuckets, uniquePrefix } from './influx-env.ts';
import { type KafkaPlace, openKafka, TOPICS } from './kafka-env.ts';

/** Times are those of the plan, so nothing may be dropped by its age. */
const KEPT = Object.fromEntries(
  Object.entries(TOPICS).map(([name, topic]) => [name, { ...topic, retainForMs: 0 }]),
);

/** Kafka behind a spool, and InfluxDB, with topics and buckets of their own. */
export class DistributedEngines implements Engines {
  private readonly spool: EmbeddedEngines;
  private readonly place: KafkaPlace;
  private readonly influx: InfluxEnvironment;
  private readonly bucketPrefix = uniquePrefix();
  private readonly settings: Settings;
  private forwarder: Forwarder | undefined;
  private spooled: EmbeddedConsumer | undefined;
  private opened: Store | undefined;
  private hook: WriteHook | undefined;

  private constructor(settings: Settings, place: KafkaPlace, influx: InfluxEnvironment) {
    this.settings = settings;
    this.spool = new EmbeddedEngines(settings);
    this.place = place;
    this.influx = influx;
  }

  static async open(
    t: TestContext,
    settings: Settings,
    influx: InfluxEnvironment,
  ): Promise<DistributedEngines> {
    return new DistributedEngines(settings, await openKafka(t, { topics: KEPT }), influx);
  }

  async openAppender(events: AppenderEvents): Promise<LogAppender> {
    const appender = await this.spool.openAppender(events);
    this.spooled = this.spool.consumer();
    this.forwarder = this.place.forwarder(this.spooled, { tallyIntervalMs: 100 });
    return appender;
  }

  async killAppender(): Promise<void> {
    await this.spool.killAppender();
    await this.endForwarder();
  }

  private async endForwarder(): Promise<void> {
    await this.forwarder?.close(0);
    await this.spooled?.close();
    this.forwarder = undefined;
  }

  durable(): Promise<number> {
    return this.spool.durable();
  }

  consumer(): LogConsumer {
    return this.place.consumer();
  }

  async store(): Promise<Store> {
    const { baseWindowMs } = this.settings;
    this.opened ??= this.watched(
      await openInfluxStore({
        ...this.influx,
        bucketPrefix: this.bucketPrefix,
        retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
        windowsMs: [...new Set([baseWindowMs, HOUR, DAY])],
        describe: finish,
      }),
    );
    return this.opened;
  }

  /** A request is what a kill comes between here. */
  private watched(store: Store): Store {
    const watch = async <T>(work: () => Promise<T>): Promise<T> => {
      this.hook?.('before');
      const result = await work();
      this.hook?.('after');
      return result;
    };
    const writes: Partial<Store> = {
      writeReadings: (readings) => watch(() => store.writeReadings(readings)),
      writeDeadLetters: (letters) => watch(() => store.writeDeadLetters(letters)),
      writeRollups: (rows) => watch(() => store.writeRollups(rows)),
      commit: (progress) => watch(() => store.commit(progress)),
    };
    return Object.assign(Object.create(store) as Store, writes);
  }

  async abandonStore(): Promise<void> {
    await this.opened?.close();
    this.opened = undefined;
  }

  async abandonAll(): Promise<void> {
    await this.abandonStore();
    await this.killAppender();
  }

  watchWrites(hook: WriteHook | undefined): void {
    this.hook = hook;
  }

  async forwarded(): Promise<void> {
    await this.forwarder?.drained();
  }

  async close(): Promise<void> {
    await this.opened?.close();
    await this.endForwarder();
    await this.spool.close();
    await removeBuckets(this.influx, this.bucketPrefix);
  }
}
