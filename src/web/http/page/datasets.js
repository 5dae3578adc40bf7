// What is stored, how well it is kept, and what can be done with it.

import { $, act, ask, button, copy, follow, link, make, say, setText } from "./dom.js";
import { job, json, request } from "./api.js";
import { health, healthChanged } from "./health.js";
import { noteDatasets } from "./now.js";
import { ago, bytes, contentUrl, count, kindOf, short } from "./words.js";
import { show } from "./viewer.js";

const names = new Map();
let features = new Set();

export const nameOf = (cid) => names.get(cid) ?? short(cid);

/** What this node can do; the page shows no button for the rest. */
export function noteFeatures(told) {
  if (told.length !== features.size) features = new Set(told);
}

export function showDatasets({ datasets, total }) {
  for (const one of datasets) if (one.name) names.set(one.root, one.name);
  noteDatasets(datasets);
  $("no-datasets").hidden = total > 0;
  setText($("datasets-count"), total ? total.toLocaleString("en") : "");
  $("more-datasets").hidden = total <= datasets.length;
  setText($("more-datasets"), `The newest ${datasets.length} of ${total}; barrow ls lists all.`);
  const key = (one) => `${one.root} ${one.pinned} ${one.expires} ${features.size} ${JSON.stringify(one.protection ?? 0)}`;
  follow($("datasets"), datasets, key, makeDataset, updateDataset);
}

function makeDataset(one) {
  const item = make("li", "dataset");
  const plain = one.name ?? nameOf(one.protection?.root ?? one.root);
  const name = one.protection ? `${plain} (protected)` : plain;
  item.told = make("p", "dim");
  item.told.setAttribute("role", "status");
  item.figures = make("span", "dim");
  const cid = make("code", "dim", short(one.root));
  cid.title = one.root;
  const first = make("div", "row");
  const kind = kindOf(one.name, one.mimetype);
  if (kind) first.append(button("Show", `Show ${name}`, () => show(one.root, one.name, kind)));
  first.append(button("Copy CID", `Copy the CID of ${name}`, () => copy(one.root, "CID")), pinButton(one, name));
  const more = make("details", "more");
  const summary = make("summary", "", "More");
  summary.setAttribute("aria-label", `More for ${name}`);
  more.append(summary, make("div", "row", ...rarer(item, one, name)));
  first.append(more);
  item.append(make("div", "head", make("div", "row title", link(plain, contentUrl(one.root, one.name), "name"),
    make("span", one.pinned ? "tag pinned" : "tag", tagOf(one)),
    ...(one.protection ? [make("span", "tag", `${one.protection.data} + ${one.protection.parity}`)] : [])), item.figures),
  cid, health(one), item.told, first);
  return item;
}

function tagOf(one) {
  if (!one.pinned) return "cache";
  return one.expires ? `pinned until ${new Date(one.expires * 1000).toLocaleDateString()}` : "pinned";
}

function updateDataset(item, one) {
  setText(item.figures, `${bytes(one.size)} · ${count(one.blocks, "block")} · ${ago(one.created)}`);
}

const pinButton = (one, name) => (one.pinned
  ? button("Unpin", `Unpin ${name}`, async () => {
    await request("DELETE", `pins/${one.root}`);
    say(`${name} is no longer pinned; Free unpinned may take it`);
  })
  : button("Pin", `Pin ${name}`, () => pin(one.root, name)));

function rarer(item, one, name) {
  const buttons = [];
  if (features.has("protect")) {
    if (!one.protection) buttons.push(button("Protect", `Protect ${name}`, () => protect(one, name)));
    buttons.push(button("Repair", `Repair ${name}`, () => repair(item, one, name)));
  }
  if (features.has("spread") && one.protection && !one.protection.slot) {
    buttons.push(button("Spread", `Spread ${name}`, () => spread(item, one, name)));
  }
  if (features.has("car")) {
    const car = make("a", "button small", "Export");
    car.href = `/ipfs/${one.root}?format=car`;
    car.download = `${one.name ?? one.root}.car`;
    car.setAttribute("aria-label", `Export ${name} as a CAR`);
    buttons.push(car);
  }
  buttons.push(button("Delete", `Delete ${name}`, () => remove(one, name), "small danger"));
  return buttons;
}

async function protect(one, name) {
  if ((await ask($("shape"))) !== "yes") return;
  const [data, parity] = [$("shape-data").value, $("shape-parity").value];
  say(`Making parity for ${name}…`);
  await request("POST", `protect/${one.root}?data=${data}&parity=${parity}`);
  say(`${name} is protected: any ${parity} of ${Number(data) + Number(parity)} shards may be lost`);
}

async function repair(item, one, name) {
  setText(item.told, "looking for what lacks…");
  try {
    await job(`repair/${one.root}`, (told) =>
      setText(item.told, `mending: ${count(told.blocks ?? 0, "block")}, ${bytes(told.bytes_fetched ?? 0)} fetched`));
    say(`${name} is whole`);
  } finally {
    setText(item.told, "");
    healthChanged();
  }
}

const holders = ({ holders: all, slots }) => all.map(({ slot, peer, state }) =>
  `slot ${slot} of ${slots}: ${short(peer)}, ${state}`).join(" · ");

/** Asks trusted peers to hold the slots of a protected dataset, and tells who does. */
async function spread(item, one, name) {
  setText(item.told, "asking the trusted peers…");
  try {
    const done = await job(`spread/${one.root}`, (told) => setText(item.told, holders(told)));
    const bears = done.bears === null ? "What they hold does not give all of it."
      : `Any ${done.bears} of them may be lost.`;
    setText(item.told, `${holders(done)}. ${bears}`);
    say(done.whole ? `${name} is spread` : "Not every slot is held; spread it again when the peers are there");
  } catch (failed) {
    setText(item.told, "");
    throw failed;
  }
}

async function remove(one, name) {
  setText($("sure-title"), `Delete ${name}?`);
  setText($("sure-text"), `${bytes(one.size)}; what other datasets share stays. CID ${one.root}`);
  if ((await ask($("sure"))) !== "yes") return;
  await request("DELETE", `datasets/${one.root}`);
  say(`${name} was deleted`);
  $("datasets-title").focus();
}

export async function pin(cid, name) {
  say(`Pinning ${name}…`);
  await job(`pins/${encodeURIComponent(cid)}`);
  say(`${name} is pinned: all of it is here`);
}

async function verify() {
  const bar = make("progress");
  const told = make("p", "dim", "verifying…");
  bar.setAttribute("aria-label", "Progress of the verification");
  $("jobs").replaceChildren(bar, told);
  try {
    const repairs = features.has("protect") ? "?repair=true" : "";
    const done = await job(`verify${repairs}`, (step) => {
      if (!step.blocks_total) return;
      bar.max = step.blocks_total;
      bar.value = step.blocks;
      setText(told, `${step.blocks} of ${count(step.blocks_total, "block")} verified`);
    });
    told.className = done.lost?.length ? "wrong" : done.damaged.length ? "warn" : "fine";
    setText(told, verdict(done));
    bar.remove();
  } catch (failed) {
    $("jobs").replaceChildren(make("p", "wrong", failed.message));
  }
  healthChanged();
}

function verdict(done) {
  const damaged = done.damaged.length;
  if (!damaged && !done.lost?.length) return `All ${count(done.blocks, "block")} have the bytes that their names say.`;
  const parts = [`${damaged} of ${count(done.blocks, "block")} were damaged.`];
  if (done.repaired?.length) parts.push(`${count(done.repaired.length, "dataset")} mended from parity and peers.`);
  for (const lost of done.lost ?? []) parts.push(`${nameOf(lost.cid)}: ${lost.reason}.`);
  // The node may have been quicker, and have mended it by itself.
  if (done.lost?.length === 0) parts.push("All datasets are whole.");
  if (done.lost?.length) parts.push("Connect a peer that has it, and choose Repair.");
  return parts.join(" ");
}

export function listenDatasets() {
  $("verify").addEventListener("click", () => act($("verify"), verify));
  $("gc").addEventListener("click", () => act($("gc"), async () => {
    const removed = await json("POST", "gc");
    say(removed.blocks ? `${count(removed.blocks, "block")} removed, ${bytes(removed.bytes)}` : "Nothing was unpinned");
  }));
}
