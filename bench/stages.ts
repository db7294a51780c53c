import type { Profiler } from 'node:inspector';
import { Session } from 'node:inspector/promises';

/** Where a thread's time goes, by stage, from V8's sampling profiler. */

/** The first rule whose pattern matches a frame names its stage; frames without one belong to their caller's. */
export type StageRules = readonly (readonly [stage: string, file: RegExp, name?: RegExp])[];

interface Frame {
  id: number;
  callFrame: { functionName: string; url: string };
  children?: number[] | undefined;
}

const SAMPLING_MICROS = 500;
const NATIVE_STAGES: ReadonlyMap<string, string> = new Map([
  ['(garbage collector)', 'garbage'],
  ['(program)', 'native'],
]);

/** Starts a profile; the function that it returns ends it and gives the share of each stage, idle time left out. */
export async function profileStages(
  rules: StageRules,
): Promise<() => Promise<Map<string, number>>> {
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.setSamplingInterval', { interval: SAMPLING_MICROS });
  await session.post('Profiler.start');
  return async () => {
    const { profile } = await session.post('Profiler.stop');
    session.disconnect();
    return sharesOf(profile, rules);
  };
}

/** The share of each stage, idle time left out. */
export function sharesOf(profile: Profiler.Profile, rules: StageRules): Map<string, number> {
  const stages = stagesOf(profile.nodes, rules);
  const micros = new Map<string, number>();
  let total = 0;
  profile.samples?.forEach((id, index) => {
    const stage = stages.get(id) ?? 'other';
    const delta = profile.timeDeltas?.[index] ?? 0;
    if (stage === '(idle)') return;
    micros.set(stage, (micros.get(stage) ?? 0) + delta);
    total += delta;
  });
  return new Map([...micros].map(([stage, us]) => [stage, us / total]));
}

/** The stage of each node of the call tree; callers come before those whom they call. */
function stagesOf(nodes: readonly Frame[], rules: StageRules): Map<number, string> {
  const stages = new Map<number, string>();
  for (const { id, callFrame, children = [] } of nodes) {
    const stage = ownStage(callFrame, rules) ?? stages.get(id) ?? 'other';
    stages.set(id, stage);
    for (const child of children) stages.set(child, stage);
  }
  return stages;
}

function ownStage({ functionName, url }: Frame['callFrame'], rules: StageRules) {
  if (functionName === '(idle)') return functionName;
  const native = NATIVE_STAGES.get(functionName);
  if (native !== undefined) return native;
  return rules.find(([, file, name]) => file.test(url) && (name?.test(functionName) ?? true))?.[0];
}
