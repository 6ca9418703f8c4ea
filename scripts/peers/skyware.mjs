// Reads a firehose with @skyware/firehose, and counts the operations on the collections.
//
//   node skyware.mjs SOURCE PLC LAST_SEQ COLLECTIONS
//
// Runs from the folder that has its packages. Prints "END" and what it saw after LAST_SEQ, and waits.
import { Firehose } from '@skyware/firehose'
import WebSocket from 'ws'

const [relay, , lastSeq, collections] = process.argv.slice(2)
const prefixes = collections.split(',').map((pattern) => pattern.replace(/\*$/, ''))
const seen = { events: 0, kept: 0, errors: 0 }
const firehose = new Firehose({ relay, cursor: '0', autoReconnect: false, ws: WebSocket })
for (const kind of ['commit', 'identity', 'account', 'sync', 'info', 'unknown']) {
  firehose.on(kind, (message) => {
    seen.events++
    const ops = message.ops ?? []
    seen.kept += ops.filter((op) => prefixes.some((prefix) => op.path.startsWith(prefix))).length
    if (message.seq >= Number(lastSeq)) console.log('END', JSON.stringify(seen))
  })
}
firehose.on('error', () => { seen.errors++ })
firehose.start()
setInterval(() => {}, 60_000)
