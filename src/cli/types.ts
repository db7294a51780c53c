import type { Command } from 'commander';
import { definitionOf, isSameDefinition } from '../config/type-definitions.ts';
import { typeKey } from '../tenants/registry-entries.ts';
import { readConfig } from './context.ts';
import { withRegistry } from './registry.ts';

/** `spillway type …` */
export function addTypeCommands(program: Command): void {
  const type = program.command('type').description('device types that are in effect');
  type
    .command('list')
    .description('name, definition')
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const types = await withRegistry(readConfig(options.config), (open) => open.types);
      for (const [name, one] of Object.entries(types)) {
        process.stdout.write(`${name} ${JSON.stringify(definitionOf(one))}\n`);
      }
    });
  type
    .command('apply')
    .description(
      'make the types of the configuration those of all processes that share a registry; running ones follow within seconds',
    )
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const config = readConfig(options.config);
      const changed = await withRegistry(config, ({ registry, change }) => {
        const known = registry.typeDefinitions();
        return Object.entries(config.types).flatMap(([name, one]) => {
          const definition = definitionOf(one);
          if (known.has(name) && isSameDefinition(known.get(name), definition)) return [];
          change(typeKey(name), definition);
          return [name];
        });
      });
      process.stdout.write(
        changed.length === 0 ? 'Nothing to change.\n' : `${changed.join('\n')}\n`,
      );
    });
  type
    .command('remove <name>')
    .description('take a type back; readings of its devices are refused from then on')
    .option('--config <file>', 'configuration file')
    .action(async (name, options) => {
      await withRegistry(readConfig(options.config), ({ change }) =>
        change(typeKey(String(name)), null),
      );
    });
}
