import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { z } from 'zod';
import { loadConfig } from '../../src/config/load.ts';

/** Documents as a stranger follows them: links lead somewhere, commands exist. */

const ROOT = join(import.meta.dirname, '../..');
const FOLDERS = ['', 'docs', 'docs/decisions', 'firmware-sim', 'firmware-sim/recordings'];
const files = FOLDERS.flatMap((folder) =>
  readdirSync(join(ROOT, folder)).map((name) => join(folder, name)),
);
const documents = files.filter((name) => name.endsWith('.md'));
const read = (name: string): string => readFileSync(join(ROOT, name), 'utf8');
const all = documents.map((name) => ({ name, text: read(name) }));

/** The anchors that GitHub makes of headings. */
function anchorsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

test('every link leads to a file, and to a heading of it', () => {
  const broken = all.flatMap(({ name, text }) =>
    [...text.matchAll(/\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)/g)].flatMap(
      ([link, path = '', anchor]) => {
        const target = path === '' ? name : join(dirname(name), path);
        if (!existsSync(join(ROOT, target))) return `${name}: ${link}`;
        if (anchor === undefined || anchorsOf(read(target)).includes(anchor)) return [];
        return `${name}: ${link}`;
      },
    ),
  );
  assert.ok(documents.includes('README.md') && documents.length > 15);
  assert.deepEqual(broken, []);
});

test('every plot is shown by a document', () => {
  const plots = files.filter((name) => /^docs\/.*\.svg$/.test(name));
  const unseen = plots.filter((plot) => !read('docs/overload.md').includes(plot.slice(5)));
  assert.ok(plots.length > 3);
  assert.deepEqual(unseen, []);
});

test('commands are npm scripts that exist, and none needs the Node of the host', () => {
  const { scripts } = z
    .object({ scripts: z.record(z.string(), z.string()) })
    .parse(JSON.parse(read('package.json')));
  for (const { name, text } of all) {
    for (const [, script = ''] of text.matchAll(/npm run (?:-s )?([a-z][\w:-]*)/g)) {
      assert.ok(script in scripts, `${name}: npm run ${script}`);
    }
    assert.doesNotMatch(text, /^(?: {4}|#? *)node (?:--|[\w-]+\/)/m, name);
  }
});

test('pieces of configuration are taken', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-documents-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const pieces = all.flatMap(({ name, text }) =>
    [...text.matchAll(/^```yaml\n([\s\S]*?)^```/gm)].map(([, yaml = '']) => ({ name, yaml })),
  );
  for (const [index, { name, yaml }] of pieces.entries()) {
    const file = join(dir, `${index}.yaml`);
    writeFileSync(file, yaml);
    assert.doesNotThrow(() => loadConfig({ file, env: {} }), name);
  }
  assert.ok(pieces.length > 3);
});

test('every row of a table belongs to a table', () => {
  for (const { name, text } of all) {
    const lines = text.split('\n');
    for (const [index, line] of lines.entries()) {
      if (!line.startsWith('|') || lines[index - 1]?.startsWith('|') === true) continue;
      assert.match(lines[index + 1] ?? '', /^\|[\s:|-]+\|$/, `${name}:${index + 1}`);
    }
  }
});
