import { randomUUID } from 'node:crypto';
import type { DeviceView } from '../gateway/contract.ts';
import { mergeViews } from '../ops/device-views.ts';
import { parseUsername } from '../tenants/passwords.ts';
import type { SharedBus } from './bus.ts';

/** What the gateway of this process knows of a device; undefined without one. */
export type ViewHere = (tenant: string, device: string) => DeviceView | undefined;

/** How long the other gateways are waited for, ms: an answer takes some 50 ms. */
const ANSWERS_MS = 1_200;
const QUESTIONS_MAX = 100;
const GATEWAYS_MAX = 1_000;

interface Question {
  views: DeviceView[];
  /** Answers that are waited for. */
  left: number;
  done(): void;
}

/** What all gateways know of a device, each from its own memory. */
export class Views {
  private readonly here: ViewHere;
  private readonly bus: SharedBus | undefined;
  /** How many other processes are gateways now. */
  private readonly others: () => number;
  private readonly questions = new Map<string, Question>();

  constructor(here: ViewHere, bus: SharedBus | undefined, others: () => number) {
    this.here = here;
    this.bus = bus;
    this.others = others;
  }

  /** Undefined where no gateway answers. */
  async of(tenant: string, device: string): Promise<DeviceView | undefined> {
    const own = this.here(tenant, device);
    const others = await this.ask(tenant, device);
    return mergeViews(own === undefined ? others : [own, ...others]);
  }

  private async ask(tenant: string, device: string): Promise<DeviceView[]> {
    const left = Math.min(this.others(), GATEWAYS_MAX);
    if (this.bus === undefined || left === 0 || this.questions.size >= QUESTIONS_MAX) return [];
    const id = randomUUID();
    const views: DeviceView[] = [];
    const answered = new Promise<void>((resolve) => {
      this.questions.set(id, { views, left, done: resolve });
    });
    let late: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      late = setTimeout(resolve, ANSWERS_MS);
    });
    // Kafka may be away: then this gateway's own word is all that there is.
    const asking = this.bus.send(tenant, device, { ask: id }).then(
      (sent) => (sent ? answered : undefined),
      () => undefined,
    );
    await Promise.race([asking, timeout]);
    clearTimeout(late);
    this.questions.delete(id);
    return views;
  }

  /** A message of the bus, if it is a question or an answer. */
  hear(key: string, { ask, answer, view }: Record<string, unknown>): void {
    const names = parseUsername(key);
    if (names === undefined) return;
    if (typeof ask === 'string') {
      if (this.questions.has(ask)) return;
      const own = this.here(names.tenant, names.device);
      if (own === undefined) return;
      void this.bus?.send(names.tenant, names.device, { answer: ask, view: own }).catch(() => {});
    } else if (typeof answer === 'string') {
      const question = this.questions.get(answer);
      if (question === undefined) return;
      question.views.push(view as DeviceView);
      question.left -= 1;
      if (question.left === 0) question.done();
    }
  }
}
