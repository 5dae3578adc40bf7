// What the node does at this moment: its rates, and its store.

import { $, make, setText } from "./dom.js";
import { graph, HISTORY, Rates } from "./graph.js";
import { bytes, count, rate } from "./words.js";

const totals = { in: new Rates(), out: new Rates(), http: new Rates() };
const drawing = graph(["in fill", "out", "http"], "graph", 120);
$("graph").prepend(drawing);

export function showRates(state) {
  totals.in.add(state.totals.received, state.time_ms);
  totals.out.add(state.totals.sent, state.time_ms);
  totals.http.add(state.totals.http, state.time_ms);
  for (const [name, one] of Object.entries(totals)) setText($(`rate-${name}`), rate(one.now));
  const top = drawing.draw("Rates of the last two minutes", HISTORY,
    totals.in.values, totals.out.values, totals.http.values);
  setText($("graph-top"), rate(top).replace(".0 ", " "));
  setText($("graph-half"), rate(top / 2).replace(".0 ", " "));
}

let pinnedBytes = 0;
let last;

/** Notes how much of the store is pinned. */
export function noteDatasets(datasets) {
  pinnedBytes = datasets.reduce((sum, one) => sum + (one.pinned ? one.bytes : 0), 0);
  if (last) showStore(last);
}

export function showStore(store) {
  last = store;
  const quota = store.quota_bytes;
  const whole = Math.max(quota, store.bytes, 1);
  // Blocks that two datasets share are counted with the pinned one.
  const pinned = Math.min(pinnedBytes, store.bytes);
  const share = (part) => `${((part / whole) * 100).toFixed(2)}%`;
  $("store-pinned").style.width = share(pinned);
  $("store-cached").style.width = share(store.bytes - pinned);
  const full = quota > 0 && store.bytes > quota * 0.9;
  // Without a quota there is nothing to draw it against.
  $("store-bar").hidden = !quota;
  $("store-bar").classList.toggle("full", full);
  const of = quota ? ` of ${bytes(quota)}` : ", no quota";
  setText($("store-text"), `${bytes(store.bytes)}${of}`);
  const told = [count(store.blocks, "block"), `${bytes(pinned)} pinned`,
    `${bytes(store.bytes - pinned)} can be freed`];
  if (quota) told.push(`${bytes(Math.max(0, quota - store.bytes))} free`);
  setText($("store-told"), told.join(" · "));
  $("store-full").hidden = !full;
}

/** Tells what is wrong with the node itself, and what to do. */
export function showProblem(problem) {
  $("problem").hidden = !problem;
  if (!problem) return;
  const text = `This node is not well: ${problem}`;
  if ($("problem").dataset.text === text) return;
  $("problem").dataset.text = text;
  $("problem").replaceChildren(make("strong", "", text),
    " What is stored can still be read. See the log of barrow serve, and docs/TROUBLESHOOTING.md.");
}
