// The page "Try it": classify a recording without a server. The ONNX file computes the log-mel features.
// This file decodes and shows; sound.mjs cuts windows and decide.mjs turns logits into a prediction, as Python does.
import * as ort from './ort/ort.wasm.min.mjs'
import {decide, inWords, logSoftmax} from './decide.mjs'
import {
  findSegments, languageOrder, MIN_SECONDS, oggLinks, RATE, slidingWindows, splitSources, spread, toMono, cut, trim, WINDOW, windows
} from './sound.mjs'

const ENOUGH = 60, MAX_MINUTES = 60, TIMELINE_SECONDS = 12, TIMELINE_WINDOW = 3
const here = name => new URL(name, import.meta.url).href
const sum = x => x.reduce((a, b) => a + b, 0)

// models: {name: {labels, decision (options of `decide`), languages (the candidates), names, megabytes}}
const {models, colours} = await fetch(here('models.json')).then(r => r.json())
const sessions = {}  // of onnxruntime, by the name of the model; opened at the first recording
let model = Object.keys(models)[0], about = models[model]

async function load(name) {
  ort.env.wasm.wasmPaths = here('ort/')
  ort.env.wasm.numThreads = 1  // several would need headers that static hosts do not send
  return ort.InferenceSession.create(here(`${name}.onnx`))
}

async function decodeLink(buffer) {  // any format that the browser can decode → an array of channels, 16 kHz
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(buffer)
  return Array.from({length: decoded.numberOfChannels}, (_, c) => decoded.getChannelData(c))
}

async function decode(buffer) {  // browsers read only the first link of a chained Ogg: each is decoded apart
  const links = oggLinks(new Uint8Array(buffer))
  const parts = links.length > 1 ? await Promise.all(links.map(l => decodeLink(l.buffer))) : [await decodeLink(buffer)]
  const alike = parts.every(p => p.length === parts[0].length), sounds = alike ? parts : parts.map(p => [toMono(p)])
  const length = sum(sounds.map(p => p[0].length))
  if (length > 60*MAX_MINUTES*RATE) throw new Error(`The recording is longer than ${MAX_MINUTES} minutes. Give a part of it.`)
  const channels = sounds[0].map((_, c) => {
    const whole = new Float32Array(length)
    let at = 0
    for (const p of sounds) { whole.set(p[c], at); at += p[c].length }
    return whole
  })
  if (!channels.every(c => c.every(Number.isFinite))) throw new Error('The recording holds samples that are no numbers.')
  return channels
}

async function windowLogits(wav) {  // logits of a window; null where it is too short
  const loud = trim(wav).slice()
  if (!loud.length && about.labels.includes('none')) return about.labels.map(l => l === 'none' ? 0 : -1000)
  if (loud.length < MIN_SECONDS*RATE) return null
  const found = await sessions[model].run({wavs: new ort.Tensor('float32', loud, [1, loud.length]),
    lengths: new ort.Tensor('int64', BigInt64Array.of(BigInt(loud.length)), [1])})
  const row = Array.from(Object.values(found)[0].data)
  if (!row.every(Number.isFinite)) throw new Error('The recording is too loud to be read: its samples exceed what sound can be.')
  return row
}

function speechOf(row) {
  const none = about.labels.indexOf('none')
  return none < 0 ? 1 : 1 - Math.exp(logSoftmax(row, about.decision.temperature)[none])
}

function settled(rows, least = 4, sure = 4) {  // the mean logit of one label exceeds every other by four standard errors
  if (rows.length < least) return false
  const mean = about.labels.map((_, i) => sum(rows.map(r => r[i]))/rows.length), best = mean.indexOf(Math.max(...mean))
  return about.labels.every((_, i) => {
    if (i === best) return true
    const ahead = rows.map(r => r[best] - r[i]), m = sum(ahead)/ahead.length
    return m > sure*Math.sqrt(sum(ahead.map(x => (x - m)**2))/(ahead.length - 1)/ahead.length)
  })
}

export async function classify(channels, only = []) {
  const size = WINDOW*RATE, long = channels[0].length >= 2*ENOUGH*RATE, rows = []
  let seconds = 0, speech = 0
  for (const window of long ? spread(channels, size) : windows(channels, size)) {
    const found = []
    for (const source of splitSources(window)) found.push(await windowLogits(source))
    const heard = found.filter(row => row), likely = heard.map(speechOf)
    rows.push(...heard)
    seconds += window[0].length/RATE
    speech += window[0].length/RATE*Math.max(0, ...likely)
    if (speech >= ENOUGH || likely.some(p => p > .5) && settled(rows.filter(r => speechOf(r) > .5))) break
  }
  const spoken = rows.filter(r => speechOf(r) > .5)  // where there is speech, windows without it do not count
  return decide(spoken.length ? spoken : rows, about.labels, {...about.decision, languages: only, seconds})
}

export async function timeline(channels, only = [], report = () => {}) {  // [[start s, end s, prediction], ...]
  const size = WINDOW*RATE, n = channels[0].length, mono = new Float32Array(n), rows = [], middles = []
  for (let at = 0; at < n; at += size) mono.set(toMono(cut(channels, at, at + size)), at)
  for (const [wav, middle] of slidingWindows(mono, TIMELINE_WINDOW*RATE)) {
    rows.push(await windowLogits(wav))
    middles.push(middle)
    if (rows.length % 10 === 0) await report(middle*RATE/n)
  }
  return findSegments(rows, middles, n/RATE, TIMELINE_WINDOW, about.labels, {...about.decision, languages: only})
}

// The page

const root = document.getElementById('spoken-lang')
root.innerHTML = `
  <p><button id="sl-record" type="button">● Record</button>
     <label>or a file: <input id="sl-file" type="file" accept="audio/*,video/*,.mkv"></label></p>
  <p><label>Model: <select id="sl-model">${Object.entries(models).map(([name, m], i) =>
    `<option value="${name}">${name}, ${m.megabytes} MB${i ? ', more accurate' : ''}</option>`).join('')}</select></label></p>
  <fieldset><legend>Only these (none ticked: all)</legend>${about.languages.map(c =>
    `<label><input type="checkbox" value="${c}"> ${about.names[c]}</label> `).join('')}</fieldset>
  <p id="sl-words" role="status" aria-live="polite">Record a few seconds, or choose a file. Nothing leaves this machine.</p>
  <audio id="sl-audio" controls hidden></audio>
  <div id="sl-bars"></div>
  <div id="sl-when" hidden><div id="sl-strip" aria-hidden="true"></div><ol id="sl-segments"></ol></div>`
const find = id => root.querySelector(id), words = find('#sl-words')
const colour = code => colours[code] ?? '#bbbbbb'
const clock = s => `${Math.floor(s/60)}:${String(Math.floor(s % 60)).padStart(2, '0')}`
const listed = names => names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`
let last, recorder, asked = 0  // the channels of the last recording, the recorder, how many answers were begun

const sentence = (p, ms) => inWords(p, about.names, ms)

function inOrder(segments) {  // the languages of a timeline, their shares of the time and their order; empty for one
  const {codes, shares, once} = languageOrder(segments)
  if (codes.length < 2) return ''
  const named = listed(shares.map(([c, q]) => `${about.names[c]} (${(100*q).toFixed(0)} %)`))
  const when = once ? `First ${codes.map(c => about.names[c]).join(', then ')}.` : 'They take turns.'
  return `${named} of ${segments.at(-1)[1].toFixed(0)} s. ${when}`
}

function drawTimeline(segments) {
  const total = segments.at(-1)[1], name = p => p.status === 'ok' ? Object.keys(p.probabilities)[0] : null
  const said = p => about.names[name(p)] ?? p.status.replace('_', ' ')
  find('#sl-strip').innerHTML = segments.map(([a, b, p]) =>
    `<span style="width: ${100*(b - a)/total}%; background: ${colour(name(p))}"></span>`).join('')
  find('#sl-segments').innerHTML = segments.map(([a, b, p]) => `<li>${clock(a)} to ${clock(b)} ${said(p)}</li>`).join('')
  find('#sl-when').hidden = false
}

function clear() {
  for (const id of ['#sl-bars', '#sl-strip', '#sl-segments']) find(id).innerHTML = ''
  find('#sl-when').hidden = true
}

async function show() {
  if (!last) return
  const mine = ++asked, old = () => mine !== asked  // a newer recording or choice replaces this one
  clear()
  words.textContent = sessions[model] ? 'Classifying …' : `Fetching ${model}, ${about.megabytes} MB …`
  const only = [...root.querySelectorAll('fieldset input:checked')].map(i => i.value)
  try {
    sessions[model] ??= await load(model)
    if (old()) return
    const start = performance.now(), p = await classify(last, only), ms = Math.round(performance.now() - start)
    if (old()) return
    words.textContent = sentence(p, ms)
    find('#sl-bars').innerHTML = (p.status === 'ok' ? Object.entries(p.probabilities) : []).map(([c, q]) =>
      `<label>${about.names[c]} (${c}) <span class="sl-bar"><span style="width: ${100*q}%; background: ${colour(c)}">
       </span></span> ${(100*q).toFixed(1)} %</label>`).join('')
    root.dataset.answer = JSON.stringify(p)
    setTimeout(keep, 1000)
    if (last[0].length <= TIMELINE_SECONDS*RATE || p.status === 'no_speech') return
    const segments = await timeline(last, only, async done => {
      if (old()) throw null
      words.textContent = `${sentence(p, ms)} Which language when: ${(100*done).toFixed(0)} %`
      await new Promise(r => setTimeout(r))  // let the page be drawn
    })
    if (old()) return
    words.textContent = inOrder(segments) || sentence(p, ms)
    drawTimeline(segments)
    root.dataset.timeline = JSON.stringify(segments)
  } catch (e) { if (e && !old()) { clear(); words.textContent = e.message } }
}

async function take(blob) {
  find('#sl-audio').src = URL.createObjectURL(blob); find('#sl-audio').hidden = false
  root.querySelectorAll('fieldset input').forEach(i => { i.checked = false })
  last = null
  const mine = ++asked
  clear()
  words.textContent = 'Decoding …'
  try { last = await decode(await blob.arrayBuffer()) }
  catch (e) {
    words.textContent = e.name === 'EncodingError' ? 'The file is not a recording that this browser can read. Is it complete, and really audio?' : e.message
    return
  }
  if (mine === asked) await show()
}

find('#sl-file').onchange = e => e.target.files[0] && take(e.target.files[0])
root.querySelector('fieldset').onchange = show
find('#sl-model').onchange = ({target}) => { model = target.value; about = models[model]; show() }
find('#sl-record').onclick = async ({target}) => {
  if (recorder?.state === 'recording') return recorder.stop()
  try { recorder = new MediaRecorder(await navigator.mediaDevices.getUserMedia({audio: true})) }
  catch { words.textContent = 'The microphone cannot be used. Allow it in the address bar, or choose a file.'; return }
  const parts = []
  recorder.ondataavailable = e => parts.push(e.data)
  recorder.onstop = () => {
    recorder.stream.getTracks().forEach(t => t.stop())
    target.textContent = '● Record'
    take(new Blob(parts, {type: recorder.mimeType}))
  }
  recorder.start()
  target.textContent = '■ Stop'
  words.textContent = 'Speak …'
}

// Offline: a service worker keeps what this page has loaded, the models and their runtime, for the next visit.
let registered
async function keep() {  // after an answer, which would have to wait, or after 10 s
  if (!('serviceWorker' in navigator) || navigator.connection?.saveData) return
  await (registered ??= navigator.serviceWorker.register(here('../offline.js')))
  const {active} = await navigator.serviceWorker.ready
  navigator.serviceWorker.onmessage = () => { root.dataset.offline = 'ready' }
  const loaded = performance.getEntriesByType('resource').map(r => r.name), first = `${Object.keys(models)[0]}.onnx`
  const own = [first, 'models.json', 'ort/ort-wasm-simd-threaded.mjs', 'ort/ort-wasm-simd-threaded.wasm'].map(here)
  active.postMessage([location.href.split('#')[0], ...loaded, ...own].filter(u => u.startsWith(location.origin)))
}
setTimeout(keep, 10_000)
