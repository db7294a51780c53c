import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import {
  definitionOf,
  isSameDefinition,
  parseDefinition,
} from '../../src/config/type-definitions.ts';

const { types } = loadConfig({
  file: join(import.meta.dirname, '../../config/demo.yaml'),
  env: {},
}).config;

test('a definition comes back as the type that it was made of', () => {
  for (const [name, type] of Object.entries(types)) {
    const definition = JSON.parse(JSON.stringify(definitionOf(type)));
    assert.deepEqual(parseDefinition(definition), type, name);
    assert.ok(isSameDefinition(definition, definitionOf(type)));
  }
});

test('the order of keys makes no difference, a bound does', () => {
  const [type] = Object.values(types);
  assert.ok(type !== undefined);
  const definition = definitionOf(type);
  const turned = Object.fromEntries(Object.entries(definition).reverse());
  assert.ok(isSameDefinition(definition, turned));
  assert.ok(!isSameDefinition(definition, { ...definition, futureMax: '1s' }));
});

test('what a later release may have written is not taken for a type', () => {
  const [type] = Object.values(types);
  assert.ok(type !== undefined);
  assert.equal(parseDefinition({ ...definitionOf(type), formula: 'x' }), undefined);
  assert.equal(parseDefinition('meter'), undefined);
});
