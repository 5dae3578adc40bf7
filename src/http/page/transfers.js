// What comes from peers: how far, how fast, how long yet, from whom.

import { $, button, follow, make, say, setText } from "./dom.js";
import { request } from "./api.js";
import { nameOf } from "./datasets.js";
import { face, Rates, sparkline } from "./graph.js";
import { sending } from "./peers.js";
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
    one.rates.add(told.bytes, now);
    transfers.set(key, one);
  }
  for (const [key, one] of transfers) {
    if (live.has(key)) continue;
    if (one.ended === undefined && one.bytes) say(`${nameOf(one.cid)}: ${bytes(one.bytes)} came`);
    one.ended ??= now;
    // What ended without a byte from anyone was here already.
    if (now < one.ended || now - one.ended > LINGER_SECONDS * 1000 || !one.bytes) transfers.delete(key);
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
    await request("DELETE", `transfers/${item.one.cancel}`);
    say(`${name} stops; what came is kept as cache`);
  }, "small quiet");
  item.name = make("span", "name", name);
  item.append(make("div", "head", item.name, make("div", "row", item.percent, item.stop)),
    item.spark, item.bar, item.figures, item.from);
  return item;
}

function updateTransfer(item, one) {
  item.one = one;
  const ended = one.ended !== undefined;
  const whole = one.size && one.bytes >= one.size;
  const parts = [];
  if (ended) {
    parts.push(`${bytes(one.bytes)} came`, "ended");
  } else {
    parts.push(one.size ? `${bytes(one.bytes)} of ${bytes(one.size)}` : bytes(one.bytes), rate(one.rates.now));
    const left = one.size ? Math.max(0, one.size - one.bytes) : 0;
    if (left && one.rates.now > 0) parts.push(`${duration(left / one.rates.now)} left`);
    if (!one.bytes) parts.push(one.blocks_open ? "looking for who has it" : "starting");
  }
  setText(item.name, nameOf(one.cid));
  setText(item.figures, parts.join(" · "));
  setText(item.percent, one.size && !ended ? `${Math.min(100, Math.floor((one.bytes * 100) / one.size))} %` : "");
  item.stop.hidden = ended || one.cancel === undefined;
  item.spark.draw(one.rates.values);
  item.classList.toggle("ended", ended);
  if (one.size) {
    item.bar.max = one.size;
    item.bar.value = ended && whole ? one.size : Math.min(one.bytes, one.size);
  } else if (ended) {
    item.bar.value = 1;
  }
  showFrom(item.from, ended ? [] : from(one));
}

/** The node's own word on who sends; without it, all peers that send at this moment. */
const from = (one) => one.from?.map((peer) => ({ id: peer.peer_id, rate: peer.rate })) ?? sending();

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
