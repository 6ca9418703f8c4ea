// As much of DAG-CBOR as it takes to find the seq of a frame.

// The seq of a frame of subscribeRepos; undefined if it has none.
export function seqOf(frame) {
  const payload = skip(frame, 0) // behind the header
  const map = head(frame, payload)
  if (map.major !== 5) return undefined
  let at = map.next
  for (let left = map.value; left > 0; left--) {
    const key = head(frame, at)
    const value = key.next + key.value
    if (frame.latin1Slice(key.next, value) === 'seq') return head(frame, value).value
    at = skip(frame, value)
  }
  return undefined
}

// The major type and the argument of the item at an offset, and where its content begins.
function head(bytes, at) {
  const major = bytes[at] >> 5, info = bytes[at] & 31
  if (info < 24) return { major, value: info, next: at + 1 }
  if (info === 24) return { major, value: bytes[at + 1], next: at + 2 }
  if (info === 25) return { major, value: bytes.readUInt16BE(at + 1), next: at + 3 }
  if (info === 26) return { major, value: bytes.readUInt32BE(at + 1), next: at + 5 }
  if (info === 27) return { major, value: Number(bytes.readBigUInt64BE(at + 1)), next: at + 9 }
  throw new Error(`no DAG-CBOR at offset ${at}`)
}

// Where the item at an offset ends.
function skip(bytes, at) {
  const { major, value, next } = head(bytes, at)
  if (major === 2 || major === 3) return next + value // bytes, text
  if (major < 2 || major === 7) return next // a number, a boolean, null
  let end = next
  const items = major === 4 ? value : major === 5 ? 2 * value : 1 // a list, a map, a tagged item
  for (let item = 0; item < items; item++) end = skip(bytes, end)
  return end
}
