"use strict";
// The node's page: draws what /api/v1/events tells, and asks the API for the rest. Text from
// peers and files goes into the page as text alone, never as markup.

const $ = (id) => document.getElementById(id);
const API = "/api/v1/";
/** States that the graphs show, one a second. */
const HISTORY = 120;
/** Seconds that an ended transfer stays to be seen. */
const LINGER_SECONDS = 20;

/** An element with classes, text and children. */
function make(tag, cls, ...children) {
  const made = document.createElement(tag);
  if (cls) made.className = cls;
  made.append(...children);
  return made;
}

function setText(element, text) {
  // Screen readers hear a change of text; nothing that stays the same is to be one.
  if (element.textContent !== text) element.textContent = text;
}

function bytes(n) {
  if (n < 1024) return `${Math.round(n)} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = -1;
  do { n /= 1024; at += 1; } while (n >= 1023.95 && at + 1 < units.length);
  return `${n.toFixed(1)} ${units[at]}`;
}
const rate = (n) => `${bytes(Math.max(0, n))}/s`;

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
}
const short = (text) => (text.length > 24 ? `${text.slice(0, 12)}…${text.slice(-8)}` : text);
const contentUrl = (cid, name, path = "") =>
  `/ipfs/${encodeURIComponent(cid)}${path}${name ? `?filename=${encodeURIComponent(name)}` : ""}`;

let saidTimer = 0;
function say(text) {
  setText($("said"), text);
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => setText($("said"), ""), 6000);
}

// --- Asking the node ---

let token = sessionStorage.getItem("token") || "";
const authorization = () => (token ? { authorization: `Bearer ${token}` } : {});

/** Opens a dialog, and gives the button that closed it. */
function ask(dialog) {
  return new Promise((done) => {
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => done(dialog.returnValue), { once: true });
    dialog.showModal();
  });
}

async function askToken() {
  if ((await ask($("ask-token"))) !== "yes") return false;
  token = $("token").value.trim();
  $("token").value = "";
  sessionStorage.setItem("token", token);
  return true;
}

async function errorOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `the node answers ${response.status}`;
  }
}

/** Asks the API; an answer that is no success is an Error with what the node says. */
async function request(method, path, body) {
  let response;
  try {
    response = await fetch(API + path, { method, body, headers: authorization() });
  } catch {
    throw new Error("the node does not answer; is barrow serve still running?");
  }
  if (response.status === 401 && (await askToken())) return request(method, path, body);
  if (!response.ok) throw new Error(await errorOf(response));
  return response;
}

/** Runs a job of the API; `each` gets its lines, and the last is given back. */
async function job(path, each) {
  const reader = (await request("POST", path)).body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let last = {};
  for (;;) {
    const { done, value } = await reader.read();
    rest += value ? decoder.decode(value, { stream: true }) : "";
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      last = JSON.parse(line);
      each(last);
    }
    if (done) break;
  }
  if (last.error) throw new Error(last.error.message);
  if (!last.done) throw new Error("the node ended before it was done");
  return last;
}

/** Runs what a button does: the button rests meanwhile, and a failure is said. */
async function act(button, what) {
  button.disabled = true;
  try {
    await what();
  } catch (failed) {
    say(failed.message);
  } finally {
    button.disabled = false;
  }
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS or leave, the old way: a selection that is copied.
    const area = make("textarea", "hidden");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`${what} copied`);
}

function button(text, label, what, cls = "small") {
  const made = make("button", cls, text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => act(made, () => what(made)));
  return made;
}

/** Makes the children of `list` follow `items`: what stays keeps its element, and its focus. */
function follow(list, items, keyOf, create, update) {
  list.rows ??= new Map();
  const keys = new Set();
  items.forEach((item, at) => {
    const key = keyOf(item);
    keys.add(key);
    let row = list.rows.get(key);
    if (!row) {
      row = create(item);
      list.rows.set(key, row);
    }
    update(row, item);
    if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
  });
  for (const [key, row] of list.rows) {
    if (!keys.has(key)) {
      row.remove();
      list.rows.delete(key);
    }
  }
}

// --- Graphs ---

const SVG = "http://www.w3.org/2000/svg";

function line(values, max, width, height, closed, span = HISTORY) {
  if (values.length < 2 || max <= 0) return "";
  const step = width / (span - 1);
  const from = width - step * (values.length - 1);
  const points = values.map((value, at) => {
    const y = height - 1 - (value / max) * (height - 4);
    return `${(from + at * step).toFixed(1)} ${y.toFixed(1)}`;
  });
  const text = `M${points.join("L")}`;
  return closed ? `${text}L${width} ${height}L${from.toFixed(1)} ${height}Z` : text;
}

/** A small graph of what comes and, dashed, of what goes. */
function sparkline(label) {
  const svg = document.createElementNS(SVG, "svg");
  const paths = ["in fill", "out"].map((cls) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", cls);
    return path;
  });
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 600 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  svg.append(...paths);
  svg.draw = (...lines) => {
    const max = Math.max(1024, ...lines.flat());
    // A short transfer fills the graph too.
    const span = Math.max(20, ...lines.map((values) => values.length));
    lines.forEach((values, at) => paths[at].setAttribute("d", line(values, max, 600, 40, at === 0, span)));
  };
  return svg;
}

/** A counter's history as rates a second. */
class Rates {
  constructor() {
    this.values = [];
  }
  add(total, timeMs) {
    // A lower total or time is another run of the node.
    if (this.at !== undefined && timeMs > this.at && total >= this.total) {
      this.values.push(((total - this.total) * 1000) / (timeMs - this.at));
      if (this.values.length > HISTORY) this.values.shift();
    }
    this.total = total;
    this.at = timeMs;
  }
  /** Of the last three seconds: steady enough to be read. */
  get now() {
    const last = this.values.slice(-3);
    return last.length ? last.reduce((sum, value) => sum + value, 0) / last.length : 0;
  }
}

// --- What the node does ---

let features = new Set();
let own = {};
const totals = { in: new Rates(), out: new Rates(), http: new Rates() };

function showState(state) {
  own = state;
  features = new Set(state.features);
  setText($("peer-id"), state.peer_id);
  setText($("version"), `barrow ${state.version} · peers reach it at ${state.listen.join(", ") || "no address"}`);
  $("problem").hidden = !state.problem;
  setText($("problem"), state.problem ? `This node is not well: ${state.problem}` : "");
  showRates(state);
  showStore(state.store);
  showTransfers(state);
  showPeers(state);
}

function showRates(state) {
  totals.in.add(state.totals.received, state.time_ms);
  totals.out.add(state.totals.sent, state.time_ms);
  totals.http.add(state.totals.http, state.time_ms);
  let max = 1024;
  for (const one of Object.values(totals)) max = Math.max(max, ...one.values);
  for (const [name, one] of Object.entries(totals)) {
    $(`graph-${name}`).setAttribute("d", line(one.values, max, 600, 90, name === "in"));
    setText($(`rate-${name}`), rate(one.now));
  }
  $("graph").setAttribute("aria-label",
    `Rates of the last two minutes; at most ${rate(max)}`);
}

function showStore(store) {
  const quota = store.quota_bytes;
  $("store-meter").hidden = !quota;
  if (quota) {
    const meter = $("store-meter");
    meter.max = quota;
    meter.high = quota * 0.9;
    meter.value = store.bytes;
    const full = store.bytes > quota * 0.9 ? "; nearly full: delete or free something" : "";
    setText($("store-text"), `${bytes(store.bytes)} of ${bytes(quota)}, ${store.blocks} blocks${full}`);
  } else {
    setText($("store-text"), `${bytes(store.bytes)}, ${store.blocks} blocks, no quota`);
  }
}

/** Transfers by job, those that ended a while ago too. */
const transfers = new Map();

function showTransfers(state) {
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
    one.ended ??= now;
    // What ended without a byte from anyone was here already.
    if (now < one.ended || now - one.ended > LINGER_SECONDS * 1000 || !one.bytes) transfers.delete(key);
  }
  const shown = [...transfers.values()].reverse();
  $("no-transfers").hidden = shown.length > 0;
  follow($("transfers"), shown, (one) => one.key, makeTransfer, updateTransfer);
}

function makeTransfer(one) {
  const item = make("li");
  item.name = make("span", "name", nameOf(one.cid));
  item.figures = make("p", "dim");
  item.bar = make("progress");
  item.bar.setAttribute("aria-label", `Progress of ${nameOf(one.cid)}`);
  item.spark = sparkline(`Rate of ${nameOf(one.cid)}`);
  item.append(item.name, item.spark, item.bar, item.figures);
  return item;
}

function updateTransfer(item, one) {
  const parts = [];
  const left = one.size ? Math.max(0, one.size - one.bytes) : 0;
  if (one.ended !== undefined) {
    parts.push(`${bytes(one.bytes)} came`, "ended");
  } else {
    parts.push(one.size ? `${bytes(one.bytes)} of ${bytes(one.size)}` : bytes(one.bytes), rate(one.rates.now));
    if (left && one.rates.now > 0) parts.push(`${duration(left / one.rates.now)} left`);
    if (!one.bytes) parts.push(one.blocks_open ? "looking for who has it" : "starting");
    const from = sendingPeers();
    if (from.length) parts.push(`from ${from.slice(0, 3).join(", ")}${from.length > 3 ? ` and ${from.length - 3} more` : ""}`);
  }
  setText(item.figures, parts.join(" · "));
  item.spark.draw(one.rates.values);
  if (one.size) {
    item.bar.max = one.size;
    item.bar.value = one.ended !== undefined && one.bytes >= one.size ? one.size : Math.min(one.bytes, one.size);
  } else if (one.ended !== undefined) {
    item.bar.value = 1;
  }
}

const peerRates = new Map();

function sendingPeers() {
  return [...peerRates].filter(([, of]) => of.in.now > 1024).map(([id]) => short(id));
}

function showPeers(state) {
  const here = new Set(state.peers.map((peer) => peer.peer_id));
  for (const id of peerRates.keys()) if (!here.has(id)) peerRates.delete(id);
  for (const peer of state.peers) {
    const of = peerRates.get(peer.peer_id) ?? { in: new Rates(), out: new Rates() };
    of.in.add(peer.bytes_received, state.time_ms);
    of.out.add(peer.bytes_sent, state.time_ms);
    peerRates.set(peer.peer_id, of);
  }
  $("no-peers").hidden = state.peers.length > 0;
  follow($("peers"), state.peers, (peer) => peer.peer_id, makePeer, updatePeer);
}

function makePeer(peer) {
  const item = make("li");
  item.spark = sparkline(`Rates from and to ${short(peer.peer_id)}`);
  item.figures = make("p", "dim");
  const id = make("code", "", short(peer.peer_id));
  id.title = peer.peer_id;
  item.append(make("p", "row", id, make("span", "dim", peer.address),
    button("Copy", `Copy the address of ${short(peer.peer_id)}`,
      () => copy(`${peer.peer_id}@${peer.address}`, "Address"))), item.spark, item.figures);
  return item;
}

function updatePeer(item, peer) {
  const of = peerRates.get(peer.peer_id);
  const delay = peer.rtt_us === null ? "delay not known yet" : `${(peer.rtt_us / 1000).toFixed(1)} ms`;
  const parts = [delay, `in ${rate(of.in.now)}, ${bytes(peer.bytes_received)} in all`,
    `out ${rate(of.out.now)}, ${bytes(peer.bytes_sent)} in all`];
  if (peer.offences) parts.push(`${peer.offences} offences`);
  setText(item.figures, parts.join(" · "));
  item.spark.toggleAttribute("hidden", ![...of.in.values, ...of.out.values].some((value) => value > 1024));
  item.spark.draw(of.in.values, of.out.values);
}

// --- Datasets ---

const names = new Map();
const nameOf = (cid) => names.get(cid) ?? short(cid);

function showDatasets({ datasets, total }) {
  for (const one of datasets) if (one.name) names.set(one.root, one.name);
  $("no-datasets").hidden = total > 0;
  $("more-datasets").hidden = total <= datasets.length;
  setText($("more-datasets"), `The newest ${datasets.length} of ${total}; barrow ls lists all.`);
  const key = (one) => `${one.root} ${one.pinned} ${features.size} ${JSON.stringify(one.protection ?? 0)}`;
  follow($("datasets"), datasets, key, makeDataset, updateDataset);
}

function kindOf(one) {
  const ending = (one.name ?? "").toLowerCase().split(".").pop();
  const type = one.mimetype ?? "";
  if (type.startsWith("image/") || /^(png|jpe?g|gif|webp|avif|svg)$/.test(ending)) return "img";
  if (type.startsWith("video/") || /^(mp4|webm|mov|mkv|ogv)$/.test(ending)) return "video";
  if (type.startsWith("audio/") || /^(mp3|ogg|opus|flac|wav|m4a)$/.test(ending)) return "audio";
  return "";
}

function makeDataset(one) {
  const item = make("li");
  const name = one.name ?? short(one.root);
  const open = make("a", "name", name);
  open.href = contentUrl(one.root, one.name);
  open.target = "_blank";
  open.rel = "noopener";
  const cid = make("code", "", short(one.root));
  cid.title = one.root;
  item.figures = make("span", "dim");
  item.told = make("p", "dim");
  const row = make("p", "row");
  if (kindOf(one)) row.append(button("Show", `Show ${name}`, () => show(one.root, one.name, kindOf(one))));
  row.append(button("Copy CID", `Copy the CID of ${name}`, () => copy(one.root, "CID")));
  row.append(one.pinned
    ? button("Unpin", `Unpin ${name}`, async () => { await request("DELETE", `pins/${one.root}`); say(`${name} is no longer pinned`); })
    : button("Pin", `Pin ${name}`, () => pin(one.root, name)));
  protections(row, item, one, name);
  if (features.has("car")) {
    const car = make("a", "button small", "Export");
    car.href = `/ipfs/${one.root}?format=car`;
    car.download = `${one.name ?? one.root}.car`;
    car.setAttribute("aria-label", `Export ${name} as a CAR`);
    row.append(car);
  }
  row.append(button("Delete", `Delete ${name}`, () => remove(one, name), "small danger"));
  item.append(make("p", "row", open, make("span", "tag", one.pinned ? "pinned" : "not pinned")),
    make("p", "row", cid, item.figures), item.told, row);
  return item;
}

function protections(row, item, one, name) {
  if (!features.has("protect")) return;
  if (one.protection) {
    row.append(button("Repair", `Repair ${name}`, async () => {
      await job(`repair/${one.root}`, (told) => setText(item.told, `repairing: ${told.blocks ?? 0} blocks`));
      setText(item.told, "");
      say(`${name} is whole`);
    }));
    request("GET", `losses/${one.root}`).then((answer) => answer.json()).then(({ losses }) => {
      setText(item.told, typeof losses === "number" ? `can bear ${losses} more losses a stripe` : "");
    }, () => setText(item.told, "its health cannot be told; try Repair"));
  } else {
    row.append(button("Protect", `Protect ${name}`, async () => {
      if ((await ask($("shape"))) !== "yes") return;
      const [data, parity] = [$("shape-data").value, $("shape-parity").value];
      await request("POST", `protect/${one.root}?data=${data}&parity=${parity}`);
      say(`${name} is protected`);
    }));
  }
}

function updateDataset(item, one) {
  setText(item.figures, `${bytes(one.size)} in ${one.blocks} blocks`);
}

async function remove(one, name) {
  setText($("sure-title"), `Delete ${name}?`);
  setText($("sure-text"), `${bytes(one.size)}; what other datasets share stays. CID ${one.root}`);
  if ((await ask($("sure"))) !== "yes") return;
  await request("DELETE", `datasets/${one.root}`);
  say(`${name} was deleted`);
  $("datasets-title").scrollIntoView({ block: "nearest" });
}

async function pin(cid, name) {
  say(`Pinning ${name}…`);
  await job(`pins/${encodeURIComponent(cid)}`, () => {});
  say(`${name} is pinned: all of it is here`);
}

/** Shows a picture, video or sound from its CID; what it is, the element finds out. */
function show(cid, name, kind, path) {
  const body = $("viewer-body");
  const url = contentUrl(cid, name, path);
  setText($("viewer-title"), name ?? short(cid));
  const kinds = kind ? [kind] : ["img", "video"];
  const next = () => {
    const tag = kinds.shift();
    if (!tag) {
      const open = make("a", "", "Open it in a tab of its own");
      open.href = url;
      open.target = "_blank";
      open.rel = "noopener";
      body.replaceChildren(make("p", "", "This is no picture and no video, or nobody has it. "), open);
      return;
    }
    const shown = make(tag);
    if (tag === "img") shown.alt = name ?? `the picture ${cid}`;
    else shown.controls = true;
    shown.addEventListener("error", next, { once: true });
    shown.src = url;
    body.replaceChildren(shown);
  };
  next();
  $("viewer").showModal();
}

// --- Storing ---

const uploading = [];
let uploadRuns = false;

async function store(files) {
  for (const file of files) {
    const item = make("li");
    const told = make("p", "dim", "waits");
    const bar = make("progress");
    bar.max = file.size || 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Upload of ${file.name}`);
    item.append(make("span", "name", file.name), bar, told);
    $("uploads").prepend(item);
    uploading.push({ file, item, told, bar });
  }
  if (uploadRuns) return;
  uploadRuns = true;
  // One after the other: the disk is the bound, and half of them done is worth more than all begun.
  while (uploading.length) await upload(uploading.shift());
  uploadRuns = false;
}

async function upload(one) {
  const { file, item, told, bar } = one;
  try {
    const { cid } = await send(file, (sent, seconds) => {
      bar.value = sent;
      const speed = sent / Math.max(seconds, 0.001);
      const left = sent < file.size ? `${duration((file.size - sent) / speed)} left` : "being stored";
      setText(told, `${bytes(sent)} of ${bytes(file.size)} · ${rate(speed)} · ${left}`);
    });
    bar.remove();
    told.replaceChildren(make("code", "", cid), " ",
      button("Copy CID", `Copy the CID of ${file.name}`, () => copy(cid, "CID")));
    say(`${file.name} is stored`);
  } catch (failed) {
    bar.remove();
    told.className = "wrong";
    told.replaceChildren(`${failed.message} `, button("Try again", `Try ${file.name} again`, () => {
      item.remove();
      return store([file]);
    }));
  }
}

/** Sends a file; fetch cannot tell how far an upload is. */
function send(file, progress) {
  return new Promise((done, fail) => {
    const sender = new XMLHttpRequest();
    const since = performance.now();
    sender.upload.addEventListener("progress", (event) =>
      progress(event.loaded, (performance.now() - since) / 1000));
    sender.addEventListener("error", () =>
      fail(new Error("the upload was cut: a folder cannot be dropped (barrow put DIR stores one), or the node stopped")));
    sender.addEventListener("load", async () => {
      let answer = {};
      try {
        answer = JSON.parse(sender.responseText);
      } catch { /* told below */ }
      if (sender.status === 200) done(answer);
      else if (sender.status === 401 && (await askToken())) send(file, progress).then(done, fail);
      else if (sender.status === 507) fail(new Error(`${answer.error?.message ?? "the store is full"}; delete something, or give the node a larger --quota`));
      else fail(new Error(answer.error?.message ?? `the node answers ${sender.status}`));
    });
    sender.open("POST", `${API}put?name=${encodeURIComponent(file.name)}`);
    for (const [name, value] of Object.entries(authorization())) sender.setRequestHeader(name, value);
    sender.send(file);
  });
}

// --- Beginning ---

function readCid(text) {
  // A gateway's address is taken for the CID in it.
  const found = /(?:^|\/ipfs\/|^ipfs:\/\/)([A-Za-z0-9]{10,})((?:\/[^?#]*)?)(?:[?#].*)?$/.exec(text.trim());
  return found ? { cid: found[1], path: found[2] } : null;
}

function listenFetch() {
  $("fetch").addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = readCid($("cid").value);
    const what = event.submitter?.value ?? "open";
    setText($("cid-wrong"), asked ? "" : "A CID begins with bafy, bafk or Qm, and has letters and digits alone.");
    $("cid").setAttribute("aria-invalid", String(!asked));
    if (!asked) return;
    if (what === "open") window.open(`/ipfs/${asked.cid}${asked.path}`, "_blank", "noopener");
    else if (what === "show") show(asked.cid, undefined, "", asked.path);
    else act(event.submitter, () => pin(asked.cid, nameOf(asked.cid)));
  });
}

function listenDrop() {
  const drop = $("drop");
  let depth = 0;
  const over = (by) => {
    depth = Math.max(0, depth + by);
    drop.classList.toggle("over", depth > 0);
  };
  // A file dropped beside the field would replace the page.
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
  window.addEventListener("dragenter", () => over(1));
  window.addEventListener("dragleave", () => over(-1));
  window.addEventListener("drop", (event) => {
    depth = 0;
    over(0);
    store([...event.dataTransfer.files]);
  });
  $("file").addEventListener("change", () => {
    store([...$("file").files]);
    $("file").value = "";
  });
}

function listenButtons() {
  $("viewer-close").addEventListener("click", () => $("viewer").close());
  // A film that nobody sees any more is not to be fetched.
  $("viewer").addEventListener("close", () => $("viewer-body").replaceChildren());
  $("copy-address").addEventListener("click", () => {
    const port = own.listen?.[0]?.split(":").pop();
    copy(port ? `${own.peer_id}@${location.hostname}:${port}` : own.peer_id ?? "", "Address");
  });
  $("verify").addEventListener("click", () => act($("verify"), verify));
  $("gc").addEventListener("click", () => act($("gc"), async () => {
    const removed = await (await request("POST", "gc")).json();
    say(removed.blocks ? `${removed.blocks} blocks removed, ${bytes(removed.bytes)}` : "Nothing was unpinned");
  }));
  $("connect").addEventListener("submit", (event) => {
    event.preventDefault();
    setText($("address-wrong"), "");
    const body = JSON.stringify({ address: $("address").value.trim() });
    act(event.submitter, async () => {
      try {
        await request("POST", "peers", body);
        say("Dialing; it shows among the peers once it answers");
        $("address").value = "";
      } catch (failed) {
        setText($("address-wrong"), failed.message);
      }
    });
  });
}

async function verify() {
  const bar = make("progress");
  const told = make("p", "dim", "verifying…");
  bar.setAttribute("aria-label", "Progress of the verification");
  $("jobs").replaceChildren(bar, told);
  try {
    const repair = features.has("protect") ? "?repair=true" : "";
    const done = await job(`verify${repair}`, (step) => {
      if (!step.blocks_total) return;
      bar.max = step.blocks_total;
      bar.value = step.blocks;
      setText(told, `${step.blocks} of ${step.blocks_total} blocks verified`);
    });
    const damaged = done.damaged.length;
    setText(told, damaged
      ? `${damaged} of ${done.blocks} blocks are damaged. Pin their datasets again to fetch them from peers.`
      : `All ${done.blocks} blocks have the bytes that their names say.`);
    told.className = damaged ? "wrong" : "dim";
    bar.remove();
  } catch (failed) {
    $("jobs").replaceChildren(make("p", "wrong", failed.message));
  }
}

function listenEvents() {
  const source = new EventSource(`${API}events`);
  const link = (text, cls) => {
    setText($("link"), text);
    $("link").className = `state ${cls}`;
  };
  source.addEventListener("state", (event) => {
    link("live", "live");
    showState(JSON.parse(event.data));
  });
  source.addEventListener("datasets", (event) => showDatasets(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    link("the node does not answer; start it with barrow serve", "lost");
    // A browser gives up for good where the node refuses; it may yet be started again.
    if (source.readyState === EventSource.CLOSED) setTimeout(listenEvents, 3000);
  });
}

listenFetch();
listenDrop();
listenButtons();
listenEvents();
