// Cut a recording as spoken_lang.core and spoken_lang.timeline do (nbs/00_core.ipynb, nbs/02_timeline.ipynb).
// Nothing here needs a browser: nbs/try_it.ipynb runs it in Node.js beside Python.
import {decide, logSoftmax} from './decide.mjs'

export const RATE = 16000, WINDOW = 6, MIN_SECONDS = .5, SILENCE = 3e-5, FRAME = RATE/50
const sum = x => x.reduce((a, b) => a + b, 0)
const power = x => { let p = 0; for (const v of x) p += v*v; return p/Math.max(x.length, 1) }

export function oggLinks(bytes) {  // a chained Ogg file → its links, each a file of its own
  const magic = at => bytes[at] === 79 && bytes[at + 1] === 103 && bytes[at + 2] === 103 && bytes[at + 3] === 83
  const starts = []
  let begun = true
  for (let at = 0; at + 27 <= bytes.length;) {
    if (!magic(at)) { at++; continue }
    const lacing = bytes.subarray(at + 27, at + 27 + bytes[at + 26]), first = bytes[at + 5] & 2
    if (first && (begun || !starts.length)) { starts.push(at); begun = false }  // a stream begins after pages of others
    else if (!first) begun = true
    at += 27 + lacing.length + sum(lacing)
  }
  return starts.map((at, i) => bytes.slice(at, starts[i + 1] ?? bytes.length))
}

function quantile(sorted, q) {
  const at = q*(sorted.length - 1), low = Math.floor(at), high = Math.ceil(at)
  return sorted[low] + (at - low)*(sorted[high] - sorted[low])
}

export function levelRange(x) {  // dB between the loud and the quiet 20 ms frames
  const size = Math.min(320, x.length), n = Math.max(1, Math.floor(x.length/320))
  const frames = Array.from({length: n}, (_, i) => power(x.subarray(size*i, size*(i + 1))) + 1e-12)
  frames.sort((a, b) => a - b)
  return 10*Math.log10(quantile(frames, .95)/quantile(frames, .1))
}

export function correlated(a, b, least = .5, within = 320) {  // whether two signals are alike at a shift of up to 20 ms
  const all = Math.sqrt(power(a)*a.length*power(b)*b.length + 1e-12)
  for (let n = 0; n <= within; n++) for (const shift of n ? [n, -n] : [0]) {
    let c = 0
    for (let i = Math.max(0, -shift); i < Math.min(a.length, b.length - shift); i++) c += a[i]*b[i + shift]
    if (Math.abs(c) > least*all) return true
  }
  return false
}

function mean(channels) {
  if (channels.length === 1) return channels[0]
  return channels[0].map((_, i) => sum(channels.map(c => c[i]))/channels.length)
}

export function splitSources(channels) {  // the different sounds in the channels, the loudest first
  if (channels.length === 1) return channels
  const levels = channels.map(power), top = Math.max(...levels)
  let order = channels.map((_, c) => c).sort((a, b) => levels[b] - levels[a] || a - b).slice(0, 8)
  order = order.filter(c => levels[c] >= top/1e6)
  const varied = order.filter(c => levelRange(channels[c]) > 5)
  if (varied.length) order = varied
  const sources = []
  for (const c of order) {
    const wav = channels[c]
    if (levels[c] < levels[order[0]]/1000) break  // 30 dB below
    const same = sources.find(s => correlated(s[0], wav))
    if (!same) sources.push([wav])
    else if (power(same[0].map((v, i) => v - wav[i])) < .2*power(same[0])) same.push(wav)
  }
  return sources.map(mean)
}

export const toMono = channels => mean(splitSources(channels))

export const cut = (channels, from, to) => channels.map(c => c.subarray(from, to))

export function* windows(channels, size) {  // what is left after whole windows is one window, or two of equal length
  const n = channels[0].length
  let at = 0
  for (; n - at >= 2*size; at += size) yield cut(channels, at, at + size)
  const half = at + (n - at >> 1)
  if (n - at > size) { yield cut(channels, at, half); yield cut(channels, half, n) }
  else if (n > at) yield cut(channels, at, n)
}

export function* spread(channels, size) {  // each part of a long recording once, in an order that covers all of it early
  const n = Math.ceil(channels[0].length/size), seen = new Set()
  for (let i = 0; seen.size < n; i++) {
    const k = Math.floor(i*.6180339887498949 % 1*n)
    if (!seen.has(k)) yield cut(channels, k*size, (k + 1)*size)
    seen.add(k)
  }
}

const reflect = (i, n) => {  // the index of a mirrored array
  const at = Math.abs(i) % Math.max(2*n - 2, 1)
  return at < n ? at : 2*n - 2 - at
}

export function loudFrames(wav) {  // which frames of 20 ms are at most 40 dB below the loud ones, single clicks left out
  const n = Math.ceil(wav.length/FRAME), powers = new Float64Array(n)
  for (let f = 0; f < n; f++) {
    const frame = Array.from({length: FRAME}, (_, k) => wav[Math.min(f*FRAME + k, wav.length - 1)])
    const mean = sum(frame)/FRAME
    powers[f] = sum(frame.map(x => (x - mean)**2))/FRAME
  }
  const around = f => [-2, -1, 0, 1, 2].map(d => powers[reflect(f + d, n)]).sort((a, b) => a - b)
  const smooth = Array.from(powers, (_, f) => around(f)[2])
  const level = sum(smooth.map(p => p*p))/Math.max(sum(smooth), 1e-20)
  return smooth.map(p => p > Math.max(SILENCE**2, 1e-4*level))
}

export function trim(wav) {  // without silence at its ends, and with at most .2 s of each pause
  const loud = loudFrames(wav), first = loud.indexOf(true), last = loud.lastIndexOf(true)
  const near = f => f >= first && f <= last && loud.slice(Math.max(0, f - 5), f + 6).includes(true)
  const parts = first < 0 ? [] : loud.flatMap((_, f) => near(f) ? [wav.subarray(f*FRAME, (f + 1)*FRAME)] : [])
  const out = new Float32Array(sum(parts.map(p => p.length)))
  let at = 0
  for (const part of parts) { out.set(part, at); at += part.length }
  return out
}

export function* slidingWindows(wav, size) {  // [samples, s of their middle]; the last window is what is left
  const step = size >> 1, n = wav.length
  let at = 0
  for (; n - at > size; at += step) yield [wav.subarray(at, at + size), (at + size/2)/RATE]
  if (n > at) yield [wav.subarray(at), (at + n)/2/RATE]
}

export function viterbi(scores, change = 6) {  // the best path of states through the windows
  let best = scores[0]
  const back = []
  for (const row of scores.slice(1)) {
    const top = best.indexOf(Math.max(...best)), move = best[top] - change
    back.push(best.map((stay, i) => stay >= move ? i : top))
    best = row.map((s, i) => Math.max(best[i], move) + s)
  }
  const path = [best.indexOf(Math.max(...best))]
  for (const b of back.reverse()) path.push(b[path.at(-1)])
  return path.reverse()
}

function within(rows, middles, start, end, margin) {  // rows of the windows that hold only this segment; all of them where none does
  const between = (a, b) => rows.filter((_, i) => middles[i] >= a && middles[i] <= b)
  const pure = between(start + margin, end - margin)
  return pure.length ? pure : between(start, end)
}

export function findSegments(rows, middles, total, size, labels, options) {  // → [start s, end s, prediction]; a row is null where it is too short
  const codes = options.languages?.length ? options.languages : options.default ?? labels.filter(l => l !== 'other' && l !== 'none')
  const silent = labels.map(l => l === 'none' ? 0 : -1000), whole = rows.map(row => row ?? silent)
  const states = labels.map((l, i) => i).filter(i => codes.includes(labels[i]) || ['other', 'none'].includes(labels[i]))
  const edges = [0, ...middles.slice(1).map((m, i) => (m + middles[i])/2), total]
  const scores = (row, i) => { const p = logSoftmax(row, options.temperature); return states.map(k => p[k]*(edges[i + 1] - edges[i])/1.5) }
  const path = viterbi(whole.map(scores)), segments = []
  for (let a = 0, b = 1; b <= path.length; b++) {
    if (b < path.length && path[b] === path[a]) continue
    const [start, end] = [edges[a], edges[b]], here = within(whole, middles, start, end, size/2)
    segments.push([start, end, decide(here, labels, {...options, seconds: end - start})])
    a = b
  }
  return segments
}

export function languageOrder(segments) {  // {codes in their order, [code, share of the time] by share, whether each comes once}
  const spoken = segments.filter(s => s[2].status === 'ok').map(s => [Object.keys(s[2].probabilities)[0], s[1] - s[0]])
  const order = spoken.map(s => s[0]).filter((code, i, all) => code !== all[i - 1]), codes = [...new Set(order)]
  const total = segments.at(-1)?.[1], share = code => sum(spoken.filter(s => s[0] === code).map(s => s[1]))/total
  return {codes, shares: codes.map(c => [c, share(c)]).sort((a, b) => b[1] - a[1]), once: codes.length === order.length}
}
