import { ManualClock } from '../../src/core/clock.ts';
import { audit } from '../../src/ops/ledger.ts';
import { assertRight } from './check.ts';
import type { Engines } from './engines.ts';
import { ModelGateway } from './gateway.ts';
import { expectedOf } from './naive.ts';
import { type LifeFaults, type Plan, type Step, T0 } from './plan.ts';
import { GROUP, WorkerLife } from './worker.ts';

/** What a run came to. */
export interface Summary {
  messages: number;
  rows: number;
  duplicates: number;
  letters: number;
  workerDeaths: number;
  gatewayDeaths: number;
  resent: number;
  fulls: number;
}

/** Does what the plan says, drains, and compares everything with the model. Throws what differs. */
export async function runPlan(plan: Plan, engines: Engines): Promise<Summary> {
  const run = new Run(plan, engines);
  try {
    await run.open();
    for (const step of plan.steps) await run.step(step);
    await run.drain();
    return await run.check();
  } finally {
    await run.close();
  }
}

class Run {
  private readonly plan: Plan;
  private readonly engines: Engines;
  private readonly clock = new ManualClock(T0);
  private readonly gateway: ModelGateway;
  private life: WorkerLife | undefined;
  private deaths = 0;

  constructor(plan: Plan, engines: Engines) {
    this.plan = plan;
    this.engines = engines;
    this.gateway = new ModelGateway(engines, this.clock, plan.devices);
  }

  async open(): Promise<void> {
    await this.gateway.open();
  }

  async step(step: Step): Promise<void> {
    const { gateway } = this;
    if (this.life?.isOver === true) await this.bury();
    switch (step.kind) {
      case 'advance':
        this.clock.advance(step.ms);
        break;
      case 'publish':
        gateway.publish(step.messages, step.acknowledged);
        if (step.settles) await gateway.committed();
        break;
      case 'work':
        this.life?.trouble(step.faults);
        await this.begin(step.faults);
        if (step.settles) await this.settle();
        break;
      case 'killWorker':
        await this.life?.kill();
        await this.bury();
        break;
      case 'stopWorker':
        await this.stopWorker();
        break;
      case 'killGateway':
        await gateway.kill({ hurries: step.hurries });
        break;
      case 'stopGateway':
        await gateway.restart();
        break;
      case 'killAll':
        await this.killAll();
        break;
      case 'fill':
        await gateway.fill();
        break;
      case 'audit':
        await this.audit();
        break;
    }
  }

  private async begin(faults?: LifeFaults): Promise<void> {
    if (this.life !== undefined) return;
    const store = await this.engines.store();
    this.life = new WorkerLife(this.engines, store, this.clock, this.plan.settings, faults);
  }

  /** After the end of a life: a dead one's store is opened anew from what is on disk. */
  private async bury(): Promise<void> {
    const { life } = this;
    if (life === undefined) return;
    this.life = undefined;
    await life.ended;
    if (life.failure !== undefined) throw life.failure;
    if (!life.hasDied) return;
    this.deaths += 1;
    await this.engines.abandonStore();
  }

  private async stopWorker(): Promise<void> {
    await this.life?.stop();
    await this.bury();
  }

  private async killAll(): Promise<void> {
    await this.gateway.kill({
      abandon: async () => {
        await this.life?.kill();
        if (this.life !== undefined) this.deaths += 1;
        if (this.life?.failure !== undefined) throw this.life.failure;
        this.life = undefined;
        await this.engines.abandonAll();
      },
    });
  }

  /** Until the store has everything that the log has; with other lives where one ends. */
  private async settle(): Promise<void> {
    await this.engines.forwarded();
    const consumer = this.engines.consumer();
    try {
      const ends = await consumer.bounds();
      for (;;) {
        if (this.life?.isOver === true) await this.bury();
        await this.begin();
        await this.life?.reaches(ends, await this.engines.store());
        if (this.life?.isOver !== true) return;
      }
    } finally {
      await consumer.close();
    }
  }

  /** At any time the account must not say that something is missing. */
  private async audit(): Promise<void> {
    const consumer = this.engines.consumer();
    try {
      const store = await this.engines.store();
      const { balanced, rows } = await audit({ store, consumer, group: GROUP, by: 'hour' });
      if (balanced === false) {
        const wrong = rows.filter(({ difference }) => difference !== 0);
        throw new Error(`an audit on the way does not balance: ${JSON.stringify(wrong)}`);
      }
    } finally {
      await consumer.close();
    }
  }

  async drain(): Promise<void> {
    await this.gateway.drain(() => this.settle());
    // Counts of drops are in the log only after a while, or after an end in order.
    await this.gateway.close();
    await this.settle();
    await this.stopWorker();
  }

  async check(): Promise<Summary> {
    const { gateway, plan, engines, clock } = this;
    const arrivals = gateway.arrivals();
    const expected = expectedOf(arrivals, gateway.sheds(), plan.devices);
    const consumer = engines.consumer();
    try {
      const store = await engines.store();
      await assertRight({ store, consumer, expected, plan, gateway, now: clock.now() });
    } finally {
      await consumer.close();
    }
    let duplicates = 0;
    for (const [key, count] of expected.ledger) if (key.includes('duplicate')) duplicates += count;
    return {
      ...{ messages: arrivals.length, rows: expected.rows.size, duplicates },
      ...{ letters: expected.letters.length, workerDeaths: this.deaths },
      ...{ gatewayDeaths: gateway.kills, resent: gateway.resent, fulls: gateway.fulls },
    };
  }

  async close(): Promise<void> {
    await this.life?.kill();
    await this.gateway.close();
    await this.engines.close();
  }
}
