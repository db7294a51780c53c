import { HttpError } from './errors.ts';

/** Lets a few through at a time and a bounded number wait; the others are told to come back. */
export class Turnstile {
  private inside = 0;
  private readonly waiting: (() => void)[] = [];
  private readonly insideMax: number;
  private readonly waitingMax: number;

  constructor(options: { insideMax: number; waitingMax: number }) {
    this.insideMax = options.insideMax;
    this.waitingMax = options.waitingMax;
  }

  /** Throws BUSY when too many wait. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.inside >= this.insideMax) {
      if (this.waiting.length >= this.waitingMax) {
        throw new HttpError('BUSY', 'Too many queries at a time.');
      }
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    } else this.inside += 1;
    try {
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.inside -= 1;
      else next();
    }
  }
}
