// The service worker of the page "Try it" (browser/listen.js): what the page names is kept, and served where there is no network.
const CACHE = 'spoken_lang'

self.addEventListener('install', () => self.skipWaiting())
self.addEventListener('activate', e => e.waitUntil(self.clients.claim()))

self.addEventListener('message', e => e.waitUntil((async () => {
  const cache = await caches.open(CACHE)
  for (const url of new Set(e.data)) if (!await cache.match(url)) await cache.add(url).catch(() => {})
  e.source.postMessage('kept')
})()))

self.addEventListener('fetch', e => {
  if (e.request.method !== 'GET' || new URL(e.request.url).origin !== location.origin) return
  e.respondWith((async () => {
    const cache = await caches.open(CACHE), kept = await cache.match(e.request)
    if (!kept) return fetch(e.request)  // not a part of the page
    try {
      const fresh = await fetch(e.request)
      if (fresh.status === 200) await cache.put(e.request, fresh.clone())
      return fresh
    } catch { return kept }
  })())
})
