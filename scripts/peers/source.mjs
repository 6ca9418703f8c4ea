// Serves a recording as a firehose on loopback: every frame, byte for byte, as fast as the client reads.
//
//   node source.mjs FRAMES
//
// Prints one line of JSON when it is ready: {"port", "frames", "lastSeq"}. A WebSocket of any path gets the
// frames after the seq that `?cursor=` names, all of them without one. `GET /_state` answers with
// {"connectedAt", "sent"}: when the first client came (milliseconds since 1970), and how many frames were
// handed to the socket of the newest.
import crypto from 'node:crypto'
import fs from 'node:fs'
import http from 'node:http'
import { seqOf } from './cbor.mjs'

const SLAB = 1 << 20

const recording = fs.readFileSync(process.argv[2])
const parts = [], seqs = [], ends = []
for (let at = 0, end = 0; at < recording.length;) {
  const length = recording.readUInt32BE(at)
  const frame = recording.subarray(at + 4, at + 4 + length)
  const head = websocketHead(length)
  parts.push(head, frame)
  // An #info has no seq. It goes with the frame before it.
  seqs.push(seqOf(frame) ?? seqs.at(-1) ?? 0)
  ends.push(end += head.length + length)
  at += 4 + length
}
const stream = Buffer.concat(parts)
const state = { connectedAt: null, sent: 0 }

function websocketHead(length) {
  if (length < 126) return Buffer.from([0x82, length])
  if (length < 65536) return Buffer.from([0x82, 126, length >> 8, length & 255])
  const head = Buffer.alloc(10)
  head[0] = 0x82
  head[1] = 127
  head.writeBigUInt64BE(BigInt(length), 2)
  return head
}

async function send(socket, cursor) {
  state.connectedAt ??= Date.now()
  let next = seqs.findIndex((seq) => seq > cursor)
  if (next < 0) next = seqs.length
  state.sent = next
  let isGone = false, goOn = () => {}
  socket.on('drain', () => goOn())
  socket.on('close', () => { isGone = true; goOn() })
  while (next < seqs.length && !isGone) {
    const start = next ? ends[next - 1] : 0
    do next++
    while (next < seqs.length && ends[next] - start < SLAB)
    const isFull = !socket.write(stream.subarray(start, ends[next - 1]))
    if (isFull && !isGone) await new Promise((resolve) => { goOn = resolve })
    state.sent = next
  }
}

// Answers what keeps a client content: a pong, and the end of the connection.
function answer(socket, data) {
  const opcode = data[0] & 15
  if (opcode === 8) socket.end()
  if (opcode !== 9) return
  const length = data[1] & 127, mask = data.subarray(2, 6)
  const payload = data.subarray(6, 6 + length).map((byte, index) => byte ^ mask[index & 3])
  socket.write(Buffer.concat([Buffer.from([0x8a, length]), payload]))
}

const server = http.createServer((request, response) => {
  if (request.url !== '/_state') response.statusCode = 404
  response.end(JSON.stringify(state))
})
server.on('upgrade', (request, socket) => {
  const cursor = Number(new URL(request.url, 'http://source').searchParams.get('cursor') ?? 0)
  const accept = crypto.createHash('sha1')
    .update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
  socket.setNoDelay(true)
  socket.on('error', () => socket.destroy())
  socket.on('data', (data) => answer(socket, data))
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`)
  send(socket, cursor)
})
server.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ port: server.address().port, frames: seqs.length, lastSeq: seqs.at(-1) }))
})
