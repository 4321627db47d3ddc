// The page "Try it": classify a recording without a server. The ONNX file computes the log-mel features.
// This file decodes and cuts windows as spoken_lang.inference does (nbs/03_inference.ipynb);
// decide.mjs turns logits into a prediction.
import * as ort from './ort/ort.wasm.min.mjs'
import {decide, inWords, logSoftmax} from './decide.mjs'

const RATE = 16000, WINDOW = 6, MIN_SECONDS = .5, SILENCE = 1e-4, ENOUGH = 60, MAX_MINUTES = 60
const here = name => new URL(name, import.meta.url).href
const sum = x => x.reduce((a, b) => a + b, 0)

// {labels, decision (options of `decide`), languages (the candidates), names, colours}
const about = await fetch(here('model.json')).then(r => r.json())
let session  // of onnxruntime, opened at the first recording

async function load() {
  ort.env.wasm.wasmPaths = here('ort/')
  ort.env.wasm.numThreads = 1  // several would need headers that static hosts do not send
  return ort.InferenceSession.create(here('model.onnx'))
}

async function decode(buffer) {  // any format that the browser can decode → Float32Array, 16 kHz, mono
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(buffer)
  if (decoded.duration > 60*MAX_MINUTES) throw new Error(`The recording is longer than ${MAX_MINUTES} minutes. Give a part of it.`)
  return mono(Array.from({length: decoded.numberOfChannels}, (_, c) => decoded.getChannelData(c)))
}

const power = x => { let p = 0; for (const v of x) p += v*v; return p/x.length }

function levelRange(x) {  // dB between the loud and the quiet 20 ms frames
  const frames = Array.from({length: Math.max(1, Math.floor(x.length/320))}, (_, i) => power(x.subarray(320*i, 320*i + 320)) + 1e-12)
  frames.sort((a, b) => a - b)
  return 10*Math.log10(frames[Math.floor(.95*(frames.length - 1))]/frames[Math.floor(.1*(frames.length - 1))])
}

function mono(channels) {  // mean of the channels whose level varies; the loudest where they cancel
  if (channels.length === 1) return channels[0]
  const varied = channels.filter(c => levelRange(c) > 5), used = varied.length ? varied : channels
  const mean = used[0].map((_, i) => sum(used.map(c => c[i]))/used.length)
  const loudest = used.reduce((a, b) => power(b) > power(a) ? b : a)
  return power(mean) < .4*power(loudest) ? loudest : mean
}

function* windows(wav, size) {  // what is left after whole windows is one window, or two of equal length
  let at = 0
  for (; wav.length - at >= 2*size; at += size) yield wav.subarray(at, at + size)
  const rest = wav.subarray(at), half = rest.length >> 1
  if (rest.length > size) { yield rest.subarray(0, half); yield rest.subarray(half) }
  else if (rest.length) yield rest
}

function* spread(wav, size) {  // each part of a long recording once, in an order that covers all of it early
  const n = Math.ceil(wav.length/size), seen = new Set()
  for (let i = 0; seen.size < n; i++) {
    const k = Math.floor(i*.6180339887498949 % 1*n)
    if (!seen.has(k)) yield wav.subarray(k*size, (k + 1)*size)
    seen.add(k)
  }
}

async function windowLogits(wav) {  // logits of a window; null where it is too short
  let a = 0, b = wav.length
  while (a < b && Math.abs(wav[a]) <= SILENCE) a++
  while (b > a && Math.abs(wav[b - 1]) <= SILENCE) b--
  if (a === b && about.labels.includes('none')) return about.labels.map(l => l === 'none' ? 0 : -1000)
  if (b - a < MIN_SECONDS*RATE) return null
  const loud = wav.slice(a, b)
  const found = await session.run({wavs: new ort.Tensor('float32', loud, [1, loud.length]),
    lengths: new ort.Tensor('int64', BigInt64Array.of(BigInt(loud.length)), [1])})
  return Array.from(Object.values(found)[0].data)
}

const none = about.labels.indexOf('none')
const speechOf = row => none < 0 ? 1 : 1 - Math.exp(logSoftmax(row, about.decision.temperature)[none])

function settled(rows, least = 4, sure = 4) {  // the mean logit of one label exceeds every other by four standard errors
  if (rows.length < least) return false
  const mean = about.labels.map((_, i) => sum(rows.map(r => r[i]))/rows.length), best = mean.indexOf(Math.max(...mean))
  return about.labels.every((_, i) => {
    if (i === best) return true
    const ahead = rows.map(r => r[best] - r[i]), m = sum(ahead)/ahead.length
    return m > sure*Math.sqrt(sum(ahead.map(x => (x - m)**2))/(ahead.length - 1)/ahead.length)
  })
}

export async function classify(buffer, only = []) {
  session ??= await load()
  const wav = await decode(buffer), size = WINDOW*RATE, n = ENOUGH/WINDOW
  const rows = []
  let seconds = 0, speech = 0
  for (const w of wav.length >= 2*n*size ? spread(wav, size, n) : windows(wav, size)) {
    seconds += w.length/RATE
    const row = await windowLogits(w)
    if (!row) continue
    rows.push(row)
    speech += w.length/RATE*speechOf(row)
    if (speech >= ENOUGH || settled(rows.filter(r => speechOf(r) > .5))) break
  }
  const spoken = rows.filter(r => speechOf(r) > .5)  // where there is speech, windows without it do not count
  return decide(spoken.length ? spoken : rows, about.labels, {...about.decision, languages: only, seconds})
}

// The page

const root = document.getElementById('spoken-lang')
root.innerHTML = `
  <p><button id="sl-record" type="button">● Record</button>
     <label>or a file: <input id="sl-file" type="file" accept="audio/*,video/*"></label></p>
  <fieldset><legend>Only these (none ticked: all)</legend>${about.languages.map(c =>
    `<label><input type="checkbox" value="${c}"> ${about.names[c]}</label> `).join('')}</fieldset>
  <p id="sl-words" role="status" aria-live="polite">Record a few seconds, or choose a file. Nothing leaves this machine.</p>
  <audio id="sl-audio" controls hidden></audio>
  <div id="sl-bars"></div>`
const find = id => root.querySelector(id), words = find('#sl-words')
let last, recorder

async function show() {
  if (!last) return
  words.textContent = session ? 'Classifying …' : 'Fetching the model …'
  const only = [...root.querySelectorAll('fieldset input:checked')].map(i => i.value), start = performance.now()
  try {
    const p = await classify(last.slice(0), only), ms = Math.round(performance.now() - start)
    const bars = Object.entries(p.probabilities)
    words.textContent = inWords(p, about.names, ms)
    find('#sl-bars').innerHTML = (p.status === 'ok' ? bars : []).map(([c, q]) =>
      `<label>${about.names[c]} (${c}) <span class="sl-bar"><span style="width: ${100*q}%; background: ${about.colours[c] ?? '#bbbbbb'}">
       </span></span> ${(100*q).toFixed(1)} %</label>`).join('')
    root.dataset.answer = JSON.stringify(p)
  } catch (e) {
    find('#sl-bars').innerHTML = ''
    words.textContent = e.name === 'EncodingError' ? 'The file is not a recording that this browser can read. Is it complete, and really audio?' : e.message
  }
}

async function take(blob) {
  find('#sl-audio').src = URL.createObjectURL(blob); find('#sl-audio').hidden = false
  last = await blob.arrayBuffer()
  await show()
}

find('#sl-file').onchange = e => e.target.files[0] && take(e.target.files[0])
root.querySelector('fieldset').onchange = show
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
