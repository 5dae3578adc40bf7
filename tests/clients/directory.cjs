// The page of a directory in headless Chromium: it lists, its links lead on, a picture shows, and
// a recording plays and is gone forward in by Range.
//
//     node directory.cjs make DIRECTORY      writes the files of the directory
//     node directory.cjs BROWSER URL         looks at its page
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const zlib = require("node:zlib");
const puppeteer = require("puppeteer-core");

/** A picture of one colour, written by hand: no tool for it is needed. */
function png(width, height) {
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const ends = Buffer.alloc(8);
    ends.writeUInt32BE(data.length, 0);
    ends.writeUInt32BE(zlib.crc32(body), 4);
    return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const rows = zlib.deflateSync(Buffer.alloc(height * (width * 3 + 1), 0x60));
  const magic = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  return Buffer.concat([magic, chunk("IHDR", head), chunk("IDAT", rows), chunk("IEND", Buffer.alloc(0))]);
}

/** A quiet recording: 16 bits, two channels, 48,000 samples a second. */
function wav(seconds) {
  const bytes = seconds * 48_000 * 4;
  const head = Buffer.alloc(44);
  head.write("RIFF", 0);
  head.writeUInt32LE(36 + bytes, 4);
  head.write("WAVEfmt ", 8);
  [[16, 16, 4], [20, 1, 2], [22, 2, 2], [24, 48_000, 4], [28, 192_000, 4], [32, 4, 2], [34, 16, 2]]
    .forEach(([at, value, size]) => head.writeUIntLE(value, at, size));
  head.write("data", 36);
  head.writeUInt32LE(bytes, 40);
  return Buffer.concat([head, Buffer.alloc(bytes, 1)]);
}

function make(dir) {
  fs.mkdirSync(path.join(dir, "sub"), { recursive: true });
  fs.writeFileSync(path.join(dir, "picture.png"), png(320, 200));
  fs.writeFileSync(path.join(dir, "sound.wav"), wav(240));
  fs.writeFileSync(path.join(dir, "a #1 & <b>.txt"), "odd name\n");
  fs.writeFileSync(path.join(dir, "sub", "below.txt"), "below\n");
}

async function follow(page, name) {
  const link = await page.evaluateHandle((text) =>
    [...document.querySelectorAll("a")].find((a) => a.textContent.replace(/\/$/, "") === text), name);
  assert.ok(link.asElement(), `no link ${name}`);
  const [answer] = await Promise.all([page.waitForNavigation({ waitUntil: "domcontentloaded" }), link.asElement().click()]);
  return answer;
}

async function main(browserPath, url) {
  const browser = await puppeteer.launch({
    executablePath: browserPath,
    args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"],
  });
  const page = await browser.newPage();
  await page.goto(url);
  const names = await page.$$eval("a", (links) => links.map((a) => a.textContent));
  for (const name of ["picture.png", "sound.wav", "a #1 & <b>.txt"]) {
    assert.ok(names.includes(name), `${name} in ${names}`);
  }
  console.log("browser: the directory is listed");

  assert.equal(await (await follow(page, "a #1 & <b>.txt")).text(), "odd name\n");
  await page.goto(url);
  await follow(page, "sub");
  assert.equal(await (await follow(page, "below.txt")).text(), "below\n");
  console.log("browser: links lead to a file with an odd name, and into a directory");

  await page.goto(url);
  await follow(page, "picture.png");
  const size = await page.$eval("img", (img) => [img.naturalWidth, img.naturalHeight]);
  assert.deepEqual(size, [320, 200]);
  console.log("browser: the picture shows");

  const ranges = [];
  page.on("response", (answer) => {
    if (answer.status() === 206) ranges.push(answer.headers()["content-range"]);
  });
  await page.goto(url);
  await follow(page, "sound.wav");
  const played = await page.$eval("video", async (media) => {
    const until = (event) => new Promise((resolve, reject) => {
      media.addEventListener(event, resolve, { once: true });
      media.addEventListener("error", () => reject(new Error(media.error.message)), { once: true });
    });
    if (media.readyState < media.HAVE_FUTURE_DATA) await until("canplay");
    media.play();
    await until("timeupdate");
    media.currentTime = 230;
    await until("seeked");
    await until("timeupdate");
    return [media.duration, media.currentTime];
  });
  assert.equal(Math.round(played[0]), 240);
  assert.ok(played[1] >= 230, `${played}`);
  const starts = ranges.map((range) => Number(/^bytes (\d+)-/.exec(range)[1]));
  assert.ok(starts.some((start) => start > 40_000_000), `ranges ${ranges}`);
  console.log(`browser: the recording plays, and on from 230 s of 240 s by Range (${ranges.join("; ")})`);
  await browser.close();
}

const [first, ...rest] = process.argv.slice(2);
if (first === "make") make(rest[0]);
else main(first, rest[0]).catch((error) => { console.error(error); process.exit(1); });
