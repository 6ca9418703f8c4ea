#!/usr/bin/env node
// Runs one recording through several systems in turn, and prints one table. README.md says how.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { measure } from './measure.mjs'
import { builtIn, install, named } from './systems.mjs'

const many = { type: 'string', multiple: true, default: [] }
const { values: options } = parseArgs({ options: {
  recording: { type: 'string' },
  packages: { type: 'string' },
  worker: { type: 'string' },
  collections: { type: 'string', default: 'com.huddle.*' },
  rounds: { type: 'string', default: '1' },
  seconds: { type: 'string', default: '600' },
  only: { type: 'string' },
  peer: many, end: many, prepare: many, verifies: many, stores: many,
} })
for (const name of ['recording', 'packages', 'worker']) {
  if (!options[name]) {
    console.error(`--${name} is missing; see README.md`)
    process.exit(2)
  }
  options[name] = path.resolve(options[name])
}

install(options.packages)
const only = options.only?.split(',')
const systems = [...builtIn(options.packages, options.worker), ...named(options)]
  .filter(({ name }) => !only || only.includes(name))

const rounds = new Map(systems.map(({ name }) => [name, []]))
for (let round = 0; round < Number(options.rounds); round++) {
  for (const system of systems) {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'peers-'))
    try {
      const { recording, collections, seconds } = options
      const run = await measure(system, { recording, collections, dir, seconds: Number(seconds) })
      rounds.get(system.name).push(run)
      if (run.line) console.error(`${system.name}: ${run.line}`)
      fs.rmSync(dir, { recursive: true })
    } catch (error) {
      console.error(error.message)
      process.exitCode = 1
    }
  }
}

console.log('| system | verifies | stores | processor s | of it system | wall s | events/s | peak RSS MiB |')
console.log('|---|---|---|---|---|---|---|---|')
for (const { name, verifies, stores } of systems) {
  const runs = rounds.get(name)
  const figures = [['processor', 1], ['system', 1], ['wall', 1], ['rate', 0], ['peak', 0]]
    .map(([figure, digits]) => span(runs.map((run) => run[figure]), digits))
  console.log(`| ${[name, verifies, stores, ...figures].join(' | ')} |`)
}

// The least and the greatest figure of the rounds.
function span(figures, digits) {
  if (!figures.length) return 'failed'
  const [least, most] = [Math.min(...figures), Math.max(...figures)].map((figure) => figure.toFixed(digits))
  return least === most ? least : `${least} to ${most}`
}
