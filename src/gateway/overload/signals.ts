import type { Config } from '../../config/schema.ts';
import type { LogAppender } from '../../log/contract.ts';
import { Baseline } from './baseline.ts';
import type { Signals, Thresholds } from './levels.ts';

/**
 * The signals of overload and where their levels begin.
 *
 *   loopDelay  delay of the event loop, ms           ┐ at least the configured times, and `adapt` times
 *   commit     duration of a group commit, ms        ┘ what they are here when nothing is wrong
 *   demand     part of the time that somebody waits for the window, 0 to 1
 *   wait       how long those wait, ms
 *   lag        how late reports are or will be, since the rollup worker lacks the CPU, ms
 *   backlog    part of the log's disk budget that holds what is not processed  ┐
 *   memory     part of the memory that the process may use                     ├ hard: waiting doesn't help
 *   sockets    open connections as part of the most                            ┘
 */
export type SignalName =
  | 'loopDelay'
  | 'commit'
  | 'demand'
  | 'wait'
  | 'lag'
  | 'backlog'
  | 'memory'
  | 'sockets';
export type Readings = Record<SignalName, number>;

const LEVELS = ['brake', 'shed', 'refuse'] as const;
/** Somebody waits for half of the time: as much comes as can be taken. */
const DEMAND = 0.5;
/** The largest delays that a baseline takes for normal, ms. */
const LOOP_DELAY_MAX_MS = 50;
const COMMIT_MAX_MS = 1_000;

export class SignalScale {
  private readonly config: Config['overload'];
  private readonly loopDelay = new Baseline({ max: LOOP_DELAY_MAX_MS });
  private readonly commit = new Baseline({ max: COMMIT_MAX_MS });

  constructor(config: Config['overload']) {
    this.config = config;
  }

  /** Readings of a time when nothing is wrong. */
  learn({ loopDelay, commit }: Readings): void {
    this.loopDelay.learn(loopDelay);
    if (commit > 0) this.commit.learn(commit);
  }

  /** `paced`: what waits does so for the rollup worker's sake, which is no reason to drop anything. */
  signals(readings: Readings, paced: boolean): Signals<SignalName> {
    const { config } = this;
    const { loopDelay, commit, demand, wait, lag, backlog, memory, sockets } = readings;
    return {
      loopDelay: { value: loopDelay, thresholds: this.adapted(config.loopDelay, this.loopDelay) },
      commit: { value: commit, thresholds: this.adapted(config.commit, this.commit) },
      demand: { value: demand, thresholds: { brake: DEMAND } },
      wait: { value: wait, thresholds: paced ? {} : given({ shed: config.wait.shed }) },
      lag: { value: lag, thresholds: given({ brake: config.lag.brake }), hard: true },
      backlog: { value: backlog, thresholds: given(config.backlog), hard: true },
      memory: { value: memory, thresholds: given(config.memory), hard: true },
      sockets: { value: sockets, thresholds: { refuse: 1 }, hard: true },
    };
  }

  private adapted(floors: Required<Thresholds>, baseline: Baseline): Thresholds {
    const thresholds: Thresholds = {};
    let adapted = baseline.value;
    for (const level of LEVELS) {
      adapted *= this.config.adapt;
      if (floors[level] > 0) thresholds[level] = Math.max(floors[level], adapted);
    }
    return thresholds;
  }
}

function given(thresholds: Thresholds): Thresholds {
  return Object.fromEntries(Object.entries(thresholds).filter(([, from]) => from > 0));
}

/** What the log says of itself. */
export class LogWatch {
  private readonly appender: LogAppender;
  private readonly now: () => number;
  private readonly share: (() => number) | undefined;
  private commits = 0;
  private commitsAt: number;

  constructor(appender: LogAppender, now: () => number, share: (() => number) | undefined) {
    this.appender = appender;
    this.now = now;
    this.share = share;
    this.commitsAt = now();
  }

  /** Duration of recent commits, or of one that doesn't end; 0 while nothing is committed or the log is full. */
  commitMs(): number {
    const { commits, commitMsMean, pendingRecords, full } = this.appender.stats();
    const now = this.now();
    const fresh = commits !== this.commits;
    if (fresh || pendingRecords === 0 || full) {
      this.commits = commits;
      this.commitsAt = now;
    }
    if (full) return 0;
    if (pendingRecords === 0) return fresh ? commitMsMean : 0;
    return Math.max(commitMsMean, now - this.commitsAt);
  }

  backlogShare(): number {
    const { full, diskBytes, diskBytesMax } = this.appender.stats();
    if (full) return 1;
    return this.share?.() ?? diskBytes / diskBytesMax;
  }
}
