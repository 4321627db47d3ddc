// Turn logits into a prediction, as `decide` of spoken_lang.prediction (nbs/01_prediction.ipynb) does.
// The test vectors in nbs/results/decide.json test both (nbs/try_it.ipynb).
const sum = x => x.reduce((a, b) => a + b, 0)
const isLanguage = label => label !== 'other' && label !== 'none'

export function logSoftmax(logits, temperature = 1) {
  const x = logits.map(v => v/temperature), top = Math.max(...x), total = top + Math.log(sum(x.map(v => Math.exp(v - top))))
  return x.map(v => v - total)
}

function candidates(labels, {languages, priors, default: usual}) {  // [codes of the candidates, logarithms of their priors]
  const all = labels.filter(isLanguage)
  const asked = languages === 'all' ? all : languages?.length ? languages : null
  const given = priors && Object.keys(priors).length ? priors : null
  const codes = asked ?? (given ? Object.keys(given) : usual ?? all)
  return [codes, codes.map(c => Math.log(given ? given[c] ?? 0 : 1))]
}

function knownShare(mean, labels, codes) {  // [probability of a known language, most probable one outside]
  const p = Object.fromEntries(labels.map((l, i) => [l, Math.exp(mean[i])])), all = labels.filter(isLanguage)
  const other = labels.includes('other'), inside = other ? all : codes
  const outside = other ? ['other'] : all.filter(l => !codes.includes(l))
  const total = sum(inside.map(l => p[l])), best = outside.reduce((a, b) => a !== null && p[a] >= p[b] ? a : b, null)
  return [total/(total + sum(outside.map(l => p[l]))), other ? null : best]
}

const MIN_SHARE = .1  // of the speech: less of a language is not named

function windowShares(scores, speech, codes) {  // {code: share of the speech}, or null where the windows agree
  const shares = {}, total = sum(speech.filter(s => s >= .5))
  scores.forEach((row, w) => {
    const code = codes[row.indexOf(Math.max(...row))]
    if (speech[w] >= .5) shares[code] = (shares[code] ?? 0) + speech[w]/total
  })
  const sorted = Object.entries(shares).filter(x => x[1] >= MIN_SHARE).sort((x, y) => y[1] - x[1])
  return sorted.length > 1 ? Object.fromEntries(sorted) : null
}

export function decide(logits, labels, options = {}) {  // logits: an array of windows, each an array of labels
  const {temperature = 1, min_speech = .5, min_known = .5, min_evidence = null, seconds = 0} = options
  const result = {status: 'ok', probabilities: {}, seconds, speech: 1, known: 1, outside: null, shares: null}
  if (!logits.length) return {...result, status: 'too_short'}
  const [codes, logPrior] = candidates(labels, options), columns = codes.map(c => labels.indexOf(c))
  const rows = logits.map(row => logSoftmax(row, temperature)), none = labels.indexOf('none')
  const speech = rows.map(row => none < 0 ? 1 : 1 - Math.exp(row[none])), weight = Math.max(sum(speech), 1e-9)
  const mean = labels.map((_, l) => sum(rows.map((row, w) => row[l]*speech[w]))/weight)
  const [known, outside] = knownShare(mean, labels, codes)
  Object.assign(result, {speech: Math.max(...speech), known})
  if (result.speech < min_speech) return {...result, status: 'no_speech'}
  const score = logSoftmax(columns.map((l, c) => mean[l] + logPrior[c])).map(Math.exp)
  result.probabilities = Object.fromEntries(codes.map((c, i) => [c, score[i]]).sort((x, y) => y[1] - x[1]))
  if (known < min_known) return {...result, status: 'unknown_language', outside}
  const highest = logits.map(row => Math.max(...row.filter((_, l) => isLanguage(labels[l]))))
  const evidence = sum(highest.map((h, w) => h*speech[w]))/weight
  if (min_evidence !== null && evidence < min_evidence) return {...result, status: 'unknown_language'}
  const scores = rows.map(row => columns.map((l, c) => row[l] + logPrior[c]))
  const counted = speech.map((s, w) => Math.max(...columns.map(l => rows[w][l])) > Math.log(.5) ? s : 0)
  return {...result, shares: windowShares(scores, counted, codes)}
}

const WORDS = {no_speech: 'No speech detected. Is the microphone on?',
               too_short: 'The recording is too short. Half a second is the minimum.',
               unknown_language: 'The speech is in none of these languages'}
const percent = p => `${(100*p).toFixed(0)} %`

export function inWords(p, names, ms) {  // a prediction as sentences; names: {code: name}, ms: how long it took
  if (p.status === 'unknown_language') return WORDS[p.status] + (p.outside ? `, probably ${names[p.outside]}.` : '.')
  if (p.status !== 'ok') return WORDS[p.status]
  const [code, best] = Object.entries(p.probabilities)[0]
  const answer = `${names[code]}, ${percent(best)}, from ${p.seconds.toFixed(1)} s in ${ms} ms.`
  const shares = Object.entries(p.shares ?? {}).map(([c, share]) => `${names[c]} ${percent(share)}`).join(', ')
  return shares ? `${answer} Of the speech: ${shares}.` : answer
}
