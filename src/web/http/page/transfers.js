// What comes from peers: how far, how fast, how long yet, from whom.

import { $, button, follow, make, say, setText } from "./dom.js";
import { request } from "./api.js";
import { nameOf } from "./datasets.js";
import { face, Rates, sparkline } from "./graph.js";
import { rateFrom } from "./peers.js";
import { bytes, duration, rate, short } from "./words.js";

/** Seconds that an ended transfer stays to be seen. */
const LINGER_SECONDS = 20;
/** Peers that a transfer names; the rest are counted. */
const PEERS_SHOWN = 6;

/** Transfers by job, those that ended a while ago too. */
const transfers = new Map();

export function showTransfers(state) {
  const now = state.time_ms;
  const live = new Set();
  for (const told of state.transfers) {
    const key = `${told.job}`;
    live.add(key);
    const one = transfers.get(key) ?? { key, rates: new Rates() };
    Object.assign(one, told);
    one.rates.add(told.received, now);
    transfers.set(key, one);
  }
  for (const [key, one] of transfers) {
    if (live.has(key)) continue;
    if (one.ended === undefined && one.received) say(`${nameOf(one.cid)}: ${bytes(one.received)} came`);
    one.ended ??= now;
    // What ended without a byte from anyone was here already.
    if (now < one.ended || now - one.ended > LINGER_SECONDS * 1000 || !one.received) transfers.delete(key);
  }
  const shown = [...transfers.values()].reverse();
  const running = shown.filter((one) => one.ended === undefined);
  $("no-transfers").hidden = shown.length > 0;
  setText($("transfers-count"), running.length ? String(running.length) : "");
  follow($("transfers"), shown, (one) => one.key, makeTransfer, updateTransfer);
}

function makeTransfer(one) {
  const name = nameOf(one.cid);
  const item = make("li", "transfer");
  item.percent = make("strong", "percent");
  item.figures = make("p", "figures-line");
  item.bar = make("progress");
  item.bar.setAttribute("aria-label", `Progress of ${name}`);
  item.spark = sparkline(`Rate of ${name}`);
  item.from = make("p", "row from");
  item.stop = button("Stop", `Stop the transfer of ${name}`, async () => {
    await request("DELETE", `transfers/${item.one.job}`);
    say(`${name} stops; what came is kept as cache`);
  }, "small quiet");
  item.name = make("span", "name", name);
  item.append(make("div", "head", item.name, make("div", "row", item.percent, item.stop)),
    item.spark, item.bar, item.figures, item.from);
  return item;
}

function updateTransfer(item, one) {
  item.one = one;
  const { total, done, received } = one;
  const ended = one.ended !== undefined;
  const parts = [];
  if (ended) {
    parts.push(`${bytes(received)} came`, "ended");
  } else {
    parts.push(total ? `${bytes(done)} of ${bytes(total)}` : bytes(received), rate(one.rate));
    if (one.remaining_seconds) parts.push(`${duration(one.remaining_seconds)} left`);
    if (!received) parts.push(one.blocks_left ? "looking for who has it" : "starting");
  }
  setText(item.name, nameOf(one.cid));
  setText(item.figures, parts.join(" · "));
  setText(item.percent, total && !ended ? `${Math.min(100, Math.floor((done * 100) / total))} %` : "");
  item.stop.hidden = ended;
  item.spark.draw(one.rates.values);
  item.classList.toggle("ended", ended);
  if (total) {
    item.bar.max = total;
    item.bar.value = ended && received >= total ? total : done;
  } else if (ended) {
    item.bar.value = 1;
  }
  const from = ended ? [] : one.peers.map((id) => ({ id, rate: rateFrom(id) }));
  showFrom(item.from, from.sort((a, b) => b.rate - a.rate));
}

function showFrom(element, peers) {
  const shown = peers.slice(0, PEERS_SHOWN);
  element.hidden = !shown.length;
  element.label ??= element.appendChild(make("span", "dim"));
  const more = peers.length > shown.length ? ` (${peers.length - shown.length} more)` : "";
  setText(element.label, `from${more}`);
  element.chips ??= element.appendChild(make("span", "row"));
  follow(element.chips, shown, (peer) => peer.id, makeChip,
    (chip, peer) => setText(chip.rate, rate(peer.rate)));
}

function makeChip(peer) {
  const chip = make("span", "chip", face(peer.id), make("code", "", short(peer.id)));
  chip.title = peer.id;
  chip.rate = chip.appendChild(make("span", "dim"));
  return chip;
}
