// Uses the pages of two nodes as a person does, and fails at the first thing that is not as it
// should be: a console error, a breach of the content policy, a request to another origin, a
// serious fault that axe-core finds, or other bytes than were dropped.
//
//     node drive.mjs BROWSER SCREENSHOTS DIR      (NODE_PATH has the packages)
//
// DIR has the data directories of three serving nodes: `b` dials `a` and `c`.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import zlib from "node:zlib";

const require = createRequire(path.join(process.env.NODE_PATH, "x.js"));
const puppeteer = require("puppeteer-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [browserPath, shots, dir] = process.argv.slice(2);
const about = (name) => JSON.parse(fs.readFileSync(path.join(dir, name, "node.json"), "utf8"));
const [urlA, urlB, urlC] = ["a", "b", "c"].map((name) => `http://${about(name).http}`);
const FILM_BYTES = 64 << 20;

const sha = (bytes) => createHash("sha256").update(bytes).digest("hex");
const step = (text) => console.log(`  ${text}`);
const faults = [];
/** Requests fail as they should, once a node was stopped. */
let stopped = false;

/** A picture with a gradient, written by hand: no tool for it is needed. */
function png(width, height) {
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(zlib.crc32(body), body.length + 4);
    return out;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const rows = Buffer.alloc(height * (width * 3 + 1));
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      rows.set([(x * 255) / width, (y * 255) / height, 160], y * (width * 3 + 1) + 1 + x * 3);
    }
  }
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", head),
    chunk("IDAT", zlib.deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

/** A page that notes all that must not happen. */
async function watch(browser, url) {
  const page = await browser.newPage();
  // High enough for what is said at its foot to stand below all that is shot.
  await page.setViewport({ width: 1100, height: 1900 });
  page.on("console", (message) => {
    if (message.type() === "error" && !stopped) faults.push(`console: ${message.text()} ${message.location().url}`);
  });
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (to.protocol !== "data:" && to.origin !== new URL(url).origin) faults.push(`request to ${to.origin}`);
  });
  await page.evaluateOnNewDocument(() => {
    window.breaches = [];
    document.addEventListener("securitypolicyviolation", (event) => window.breaches.push(event.violatedDirective));
  });
  const answer = await page.goto(url, { waitUntil: "domcontentloaded" });
  assert.match(answer.headers()["content-security-policy"], /default-src 'none'/);
  await page.waitForSelector("#link.live");
  return page;
}

async function check(page, what) {
  const { violations } = await page.evaluate(`${axe}; axe.run(document, { resultTypes: ["violations"] })`);
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  const minor = violations.filter((one) => !serious.includes(one)).map((one) => one.id);
  step(`axe-core, ${what}: ${serious.length} serious, ${minor.length} lesser ${minor.join(" ")}`);
  for (const one of serious) {
    faults.push(`axe, ${what}: ${one.id}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join("; ")}`);
  }
}

/** A change of the viewport may load the page anew. */
const settled = (page) => page.waitForFunction(() => document.querySelector("#link.live")
  && document.querySelectorAll("#datasets > li").length === 2 && document.querySelector("#peers > li"));

const shoot = (page, name) => page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });

/** Drops real files on the page, as the browser gets them from a file manager. */
async function drop(page, files) {
  const client = await page.createCDPSession();
  await page.evaluate(() => window.scrollTo(0, 0));
  const box = await (await page.$("#drop")).boundingBox();
  const data = { items: [], files, dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) {
    await client.send("Input.dispatchDragEvent", { type, x: box.x + 20, y: box.y + 20, data });
  }
  await client.detach();
}

const press = (page, label) => page.click(`::-p-aria([name="${label}"][role="button"])`);
const text = (page, selector) => page.$eval(selector, (element) => element.textContent);

/** The rarer things that can be done with a dataset. */
async function more(page, name) {
  await page.evaluate((label) => {
    document.querySelector(`summary[aria-label="${label}"]`).parentElement.open = true;
  }, `More for ${name}`);
}

async function dropAndCopy(page, file) {
  const name = path.basename(file);
  await drop(page, [file]);
  await page.waitForFunction((name) => [...document.querySelectorAll("#uploads li")].some(
    (item) => item.querySelector(".name").textContent === name && item.querySelector("code")), { timeout: 60000 }, name);
  await page.bringToFront();
  await press(page, `Copy the CID of ${name}`);
  await page.waitForFunction(() => document.getElementById("said").textContent === "CID copied");
  const cid = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(cid, /^baf[a-z2-7]{20,}$/);
  return cid;
}

/** Pins on the second node what the first has, and sees it move. */
async function watchTransfer(page, cid) {
  await page.bringToFront();
  await page.type("#cid", cid);
  await press(page, "Pin");
  await page.waitForSelector("#transfers li progress[value]", { timeout: 20000 });
  const seen = new Set();
  let drawn = false;
  let shot = false;
  for (let look = 0; look < 60; look += 1) {
    const now = await page.evaluate(() => {
      const item = document.querySelector("#transfers li");
      const path = item?.querySelector("path.in")?.getAttribute("d") ?? "";
      const said = (cls) => item?.querySelector(cls)?.textContent ?? "";
      return { value: item?.querySelector("progress")?.value, path, text: `${said(".figures-line")} ${said(".from")}` };
    });
    if (now.value > 0) seen.add(now.value);
    drawn ||= now.path.includes("L") && / left/.test(now.text) && /from.*12D3.*12D3/.test(now.text);
    if (seen.size >= 3 && now.value > FILM_BYTES / 2 && !shot) {
      shot = true;
      step(`a transfer moves: ${now.text}`);
      await shoot(page, "transfer");
      await check(page, "during a transfer");
    }
    if (/ended/.test(now.text)) break;
    await new Promise((done) => setTimeout(done, 250));
  }
  assert.ok(seen.size >= 3, `the transfer was seen at ${seen.size} places`);
  assert.ok(drawn, "graph, rate, time and both senders were not drawn");
  await page.waitForFunction((cid) => document.querySelector(`#datasets a[href*="${cid}"]`)
    ?.closest("li").querySelector(".tag").textContent === "pinned", {}, cid);
}

async function looks(page) {
  for (const scheme of ["light", "dark"]) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.setViewport({ width: 1100, height: 900 });
    await settled(page);
    await shoot(page, scheme);
    await check(page, scheme);
    await page.setViewport({ width: 360, height: 740, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    await settled(page);
    await shoot(page, `phone-${scheme}`);
    await check(page, `phone, ${scheme}`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(wide <= 0, `the page is ${wide} pixels wider than a phone`);
  }
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
  await page.setViewport({ width: 1100, height: 900 });
  await settled(page);
}

/** All that can be pressed is reached with the Tab key, and its focus is seen. */
async function tabThrough(page) {
  await page.evaluate(() => document.activeElement.blur());
  await page.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  const all = "main button, main a, main input, main select, main summary";
  const count = await page.evaluate((all) => [...document.querySelectorAll(all)]
    .filter((element) => element.offsetParent !== null && !element.disabled).length, all);
  const reached = new Set();
  for (let at = 0; at < count + 10; at += 1) {
    await page.keyboard.press("Tab");
    const here = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element.closest("main") || element.id === "main") return null;
      element.dataset.tab ??= String(Math.random());
      return getComputedStyle(element).outlineStyle === "none" ? "unseen" : element.dataset.tab;
    });
    assert.notEqual(here, "unseen", "a focus cannot be seen");
    if (here) reached.add(here);
  }
  assert.equal(reached.size, count, "the keyboard does not reach everything");
  step(`the Tab key reaches all ${count} of what can be pressed`);
}

/** Protects a dataset, hurts the store, and has the page mend it. */
async function protectAndMend(page, name) {
  await more(page, name);
  await press(page, `Protect ${name}`);
  await page.waitForSelector("#shape[open]");
  await check(page, "a question with fields");
  await page.$eval("#shape-data", (field) => { field.value = "4"; });
  await page.$eval("#shape-parity", (field) => { field.value = "2"; });
  await page.click("#shape-yes");
  const told = (what) => page.waitForFunction((what) => [...document.querySelectorAll(".health-told")]
    .some((one) => new RegExp(what).test(one.textContent)), { timeout: 60000 }, what);
  await told("can still bear 2 losses");
  assert.equal(await page.$$eval(".shards", (strips) => strips[0].children.length), 6, "4 + 2 shards are drawn");
  const packs = path.join(dir, "a", "packs");
  const [pack] = fs.readdirSync(packs).map((file) => path.join(packs, file))
    .sort((a, b) => fs.statSync(b).size - fs.statSync(a).size);
  const file = fs.openSync(pack, "r+");
  fs.writeSync(file, randomBytes(64), 0, 64, 5 << 20);
  fs.closeSync(file);
  await press(page, "Verify all");
  await page.waitForFunction(() => /were damaged.*All datasets are whole/.test(document.querySelector("#jobs p")?.textContent),
    { timeout: 60000 });
  step(`a damaged pack: ${await text(page, "#jobs p")}`);
  await told("can still bear 2 losses");
  await more(page, `${name} (protected)`);
  await press(page, `Repair ${name} (protected)`);
  await page.waitForFunction(() => /is whole/.test(document.getElementById("said").textContent));
}

/** Spreads a protected dataset over the one peer that is trusted. */
async function spread(page, name) {
  await more(page, `${name} (protected)`);
  await press(page, `Spread ${name} (protected)`);
  await page.waitForFunction(() => [...document.querySelectorAll("#datasets [role=status]")].some(
    (one) => /slot 0 of 1: 12D3.*, held\. Any 0 of them/.test(one.textContent)), { timeout: 30000 });
  step(`spread: ${await text(page, "#datasets [role=status]")}`);
}

/** A CAR of a dataset begins with its head, and has all its bytes. */
async function exportCar(page, name, size) {
  await more(page, name);
  const href = await page.$eval(`::-p-aria([name="Export ${name} as a CAR"])`, (link) => link.href);
  const car = Buffer.from(await (await fetch(href)).arrayBuffer());
  assert.ok(car.length > size && car.subarray(0, 64).includes("roots"), "no CAR came");
  step(`exported as a CAR of ${car.length} bytes`);
}

/** Stops the node, and sees the page say so and what to do. */
async function stopNode(page) {
  stopped = true;
  process.kill(about("a").pid, "SIGTERM");
  await page.waitForFunction(() => /barrow serve/.test(document.querySelector("#lost:not([hidden])")?.textContent),
    { timeout: 20000 });
  await check(page, "a node that is gone");
  await shoot(page, "gone");
}

async function showOpenAndDelete(page, cid, bytes) {
  await page.bringToFront();
  await press(page, "Show test.png");
  await page.waitForFunction(() => document.querySelector("#viewer img")?.naturalWidth > 0);
  await check(page, "a picture");
  await shoot(page, "picture");
  await page.keyboard.press("Escape");
  const href = await page.$eval('#datasets a[href*="test.png"]', (link) => link.href);
  const opened = Buffer.from(await (await fetch(href)).arrayBuffer());
  assert.equal(sha(opened), sha(bytes), "other bytes were opened");
  assert.ok(href.includes(cid));
  await press(page, "Unpin test.png");
  await page.waitForSelector('::-p-aria([name="Pin test.png"][role="button"])');
  await press(page, "Pin test.png");
  await page.waitForSelector('::-p-aria([name="Unpin test.png"][role="button"])');
  await press(page, "Verify all");
  await page.waitForFunction(() => /^All [\d,]+ blocks/.test(document.querySelector("#jobs p")?.textContent));
  await more(page, "test.png");
  await press(page, "Delete test.png");
  await page.waitForSelector("#sure[open]");
  await check(page, "a question");
  await page.click("#sure-yes");
  await page.waitForFunction((cid) => !document.querySelector(`#datasets a[href*="${cid}"]`), {}, cid);
}

/** A film that the browser itself makes, stored and then shown from its CID. */
async function showFilm(page) {
  const made = await page.evaluate(async () => {
    const canvas = document.createElement("canvas");
    const pen = canvas.getContext("2d");
    const recorder = new MediaRecorder(canvas.captureStream(20), { mimeType: "video/webm" });
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    const ended = new Promise((done) => { recorder.onstop = done; });
    recorder.start();
    for (let frame = 0; frame < 20; frame += 1) {
      pen.fillStyle = `hsl(${frame * 18} 80% 50%)`;
      pen.fillRect(0, 0, canvas.width, canvas.height);
      await new Promise((done) => setTimeout(done, 50));
    }
    recorder.stop();
    await ended;
    return [...new Uint8Array(await new Blob(parts).arrayBuffer())];
  });
  const film = path.join(dir, "clip.webm");
  fs.writeFileSync(film, Buffer.from(made));
  await dropAndCopy(page, film);
  await page.waitForSelector('::-p-aria([name="Show clip.webm"][role="button"])');
  await press(page, "Show clip.webm");
  await page.waitForFunction(() => document.querySelector("#viewer video")?.videoWidth === 300);
  await check(page, "a film");
  await page.keyboard.press("Escape");
  await more(page, "clip.webm");
  await press(page, "Delete clip.webm");
  await page.waitForSelector("#sure[open]");
  await page.click("#sure-yes");
  await page.waitForFunction(() => !document.querySelector('#datasets a[href*="clip.webm"]'));
}

async function main() {
  const film = path.join(dir, "film.bin");
  const picture = path.join(dir, "test.png");
  const bytes = png(640, 360);
  fs.writeFileSync(film, randomBytes(FILM_BYTES));
  fs.writeFileSync(picture, bytes);
  const browser = await puppeteer.launch({
    executablePath: browserPath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  try {
    for (const url of [urlA, urlB]) {
      await browser.defaultBrowserContext().overridePermissions(url, ["clipboard-read", "clipboard-write"]);
    }
    const a = await watch(browser, urlA);
    const b = await watch(browser, urlB);
    await a.bringToFront();
    await a.waitForFunction(() => document.querySelector("#peers li"));
    assert.ok(await a.$eval("#no-datasets", (element) => element.offsetParent !== null));
    await check(a, "empty");
    await shoot(a, "empty");
    const cid = await dropAndCopy(a, film);
    step(`dropped, and its CID copied: ${cid}`);
    // A second node to get it from, and something that is there already.
    const pinned = await fetch(`${urlC}/api/v1/pins/${cid}`, { method: "POST" });
    assert.match(await pinned.text(), /"done":true/);
    await b.bringToFront();
    await b.select("#parity", "4+2");
    await dropAndCopy(b, picture);
    await b.waitForFunction(() => /bear 2 losses/.test(document.querySelector(".health-told")?.textContent));
    await watchTransfer(b, cid);
    const got = Buffer.from(await (await fetch(`${urlB}/ipfs/${cid}`)).arrayBuffer());
    assert.equal(sha(got), sha(fs.readFileSync(film)), "other bytes came");
    await a.bringToFront();
    const pictureCid = await dropAndCopy(a, picture);
    await looks(a);
    await tabThrough(a);
    await showOpenAndDelete(a, pictureCid, bytes);
    await showFilm(a);
    await exportCar(a, "film.bin", FILM_BYTES);
    await protectAndMend(a, "film.bin");
    await spread(a, "film.bin");
    await shoot(a, "protected");
    await check(a, "with a protected dataset");
    assert.ok(await a.$eval("#accounts .account", (one) => /sent 64/.test(one.textContent)), "no ledger");
    step(`the store: ${await text(a, "#store-text")}`);
    await a.type("#cid", "no cid!");
    await press(a, "Open");
    assert.match(await text(a, "#cid-wrong"), /begins with/);
    await stopNode(a);
    for (const page of [a, b]) faults.push(...(await page.evaluate(() => window.breaches)));
  } finally {
    await browser.close();
  }
  for (const fault of faults) console.error(fault);
  assert.equal(faults.length, 0, `${faults.length} faults`);
  console.log("the page does what it should");
}

await main();
