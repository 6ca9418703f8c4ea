// D1 itself, for tests: the engine of the production service (workerd), with the gateway of
// deploy/cloudflare before it.
//
//   node engine.mjs MODULES GATEWAY DATA TOKEN
//
// Prints the gateway's URL and the id of the engine's process, and ends with its standard input.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [modules, gateway, data, token] = process.argv.slice(2);
const { Miniflare } = createRequire(join(modules, "package.json"))("miniflare");

const miniflare = new Miniflare({
  host: "127.0.0.1",
  port: 0,
  modules: [{ type: "ESModule", path: "gateway.js", contents: readFileSync(gateway, "utf8") }],
  compatibilityDate: "2026-01-01",
  bindings: { TOKEN: token },
  d1Databases: { DB: "huddle" },
  d1Persist: data,
  cf: false,
});
const url = (await miniflare.ready).href;
// The only child is the engine.
const workerd = readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim();
console.log(`${url} ${workerd}`);
process.stdin.resume();
process.stdin.on("end", async () => {
  await miniflare.dispose();
  process.exit(0);
});
