import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { loadAssets } from '../../src/http/assets.ts';

const DIR = join(import.meta.dirname, '../../src/http/console');

describe('the console', () => {
  test('serves every file of its folder, and uPlot', async () => {
    const assets = await loadAssets();
    const paths = [...assets.keys()];
    for (const file of await readdir(DIR)) {
      assert.ok(paths.includes(file === 'index.html' ? '/' : `/console/${file}`), file);
    }
    assert.match(String(assets.get('/console/uplot.js')?.body), /export/);
  });

  test('has nothing inline and nothing from elsewhere', async () => {
    const assets = await loadAssets();
    for (const [path, { body }] of assets) {
      if (path.includes('uplot')) continue;
      const text = String(body);
      const links = [...text.matchAll(/\b(?:href|src|from|import)(?:=|\s+)["'](\S+?)["']/g)].map(
        (m) => m[1] ?? '',
      );
      for (const link of links) assert.ok(/^(\/console\/|\.\/)/.test(link), `${path}: ${link}`);
      assert.ok(!/https?:\/\/(?!www\.w3\.org\/2000\/svg)/.test(text), path);
      if (path === '/') assert.ok(!/<style|style=|\son\w+=|<script(?![^>]*\ssrc=)/.test(text));
    }
  });

  test('every module that is imported is served', async () => {
    const assets = await loadAssets();
    for (const [path, { body, type }] of assets) {
      if (!type.startsWith('text/javascript') || path.includes('uplot')) continue;
      for (const [, name] of String(body).matchAll(/from '\.\/(\S+)'/g)) {
        assert.ok(assets.has(`/console/${name}`), `${path} imports ${name}`);
      }
    }
  });

  test('puts text in as text alone', async () => {
    for (const file of await readdir(DIR)) {
      if (!file.endsWith('.js')) continue;
      const text = await readFile(join(DIR, file), 'utf8');
      assert.ok(
        !/innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function/.test(text),
        file,
      );
    }
  });

  test('every id that a script asks for is in the page, every control has a label', async () => {
    const page = await readFile(join(DIR, 'index.html'), 'utf8');
    for (const file of await readdir(DIR)) {
      if (!file.endsWith('.js')) continue;
      const text = await readFile(join(DIR, file), 'utf8');
      for (const [, id] of text.matchAll(/element\('([a-z-]+)'\)/g)) {
        assert.ok(page.includes(`id="${id}"`), `${file}: ${id}`);
      }
    }
    for (const [, id] of page.matchAll(/<(?:select|input)[^>]*id="([a-z-]+)"/g)) {
      assert.match(
        page,
        new RegExp(`<label>[^<]*<(select|input)[^>]*id="${id}"|<label[^>]*for="${id}"`),
        id,
      );
    }
  });
});
