/** Questions of one thread to another, each with an answer of its own. */
export class Asking<Answer> {
  private readonly waiting = new Map<number, (answer: Answer) => void>();
  private readonly waitingMax: number;
  private nextId = 1;

  /** More than `waitingMax` questions are not asked. */
  constructor(waitingMax: number) {
    this.waitingMax = waitingMax;
  }

  /**
   * `post` sends the question with the id that its answer has to carry. Without an answer in time, or
   * when too many wait already, it is `otherwise`.
   */
  ask(post: (id: number) => void, otherwise: Answer, timeoutMs?: number): Promise<Answer> {
    if (this.waiting.size >= this.waitingMax) return Promise.resolve(otherwise);
    const id = this.nextId++;
    return new Promise((resolve) => {
      const late =
        timeoutMs === undefined
          ? undefined
          : setTimeout(() => this.settle(id, otherwise), timeoutMs);
      this.waiting.set(id, (answer) => {
        clearTimeout(late);
        resolve(answer);
      });
      post(id);
    });
  }

  /** An answer to a question that nobody waits for any more is dropped. */
  settle(id: number, answer: Answer): void {
    this.waiting.get(id)?.(answer);
    this.waiting.delete(id);
  }
}
