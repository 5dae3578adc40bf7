// Storing files that are dropped or chosen.

import { $, button, copy, link, make, say, setText } from "./dom.js";
import { API, askToken, authorization, errorOf } from "./api.js";
import { bytes, contentUrl, duration, rate } from "./words.js";

const waiting = [];
let runs = false;

async function store(files) {
  for (const file of files) {
    const item = make("li");
    const told = make("p", "dim", "waits for those before it");
    const bar = make("progress");
    bar.max = file.size || 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Upload of ${file.name}`);
    item.append(make("span", "name", file.name), bar, told);
    $("uploads").prepend(item);
    waiting.push({ file, item, told, bar, shape: $("parity").value });
  }
  if (runs) return;
  runs = true;
  // One after the other: the disk is the bound, and half of them done is worth more than all begun.
  while (waiting.length) await upload(waiting.shift());
  runs = false;
}

async function upload(one) {
  const { file, item, told, bar } = one;
  try {
    const { cid } = await send(one, (sent, seconds) => {
      bar.value = sent;
      const speed = sent / Math.max(seconds, 0.001);
      const left = sent < file.size ? `${duration((file.size - sent) / speed)} left` : "being stored";
      setText(told, `${bytes(sent)} of ${bytes(file.size)} · ${rate(speed)} · ${left}`);
    });
    bar.remove();
    told.className = "stored";
    told.replaceChildren(make("code", "", cid), make("span", "row",
      button("Copy CID", `Copy the CID of ${file.name}`, () => copy(cid, "CID"), "small first"),
      link("Open", contentUrl(cid, file.name), "button small")));
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
function send(one, progress) {
  const { file, shape } = one;
  return new Promise((done, fail) => {
    const sender = new XMLHttpRequest();
    const since = performance.now();
    sender.upload.addEventListener("progress", (event) =>
      progress(event.loaded, (performance.now() - since) / 1000));
    sender.addEventListener("error", () =>
      fail(new Error("The upload was cut: the node stopped, or the file changed meanwhile.")));
    sender.addEventListener("load", async () => {
      if (sender.status === 200) return done(JSON.parse(sender.responseText));
      if (sender.status === 401 && (await askToken())) return send(one, progress).then(done, fail);
      const message = errorOf(sender.status, sender.responseText);
      const next = sender.status === 507 ? "; delete something, or give the node a larger --quota" : "";
      return fail(new Error(message + next));
    });
    const [data, parity] = shape.split("+");
    const protection = parity ? `&data=${data}&parity=${parity}` : "";
    sender.open("POST", `${API}put?name=${encodeURIComponent(file.name)}${protection}`);
    if (file.type) sender.setRequestHeader("content-type", file.type);
    for (const [name, value] of Object.entries(authorization())) sender.setRequestHeader(name, value);
    sender.send(file);
  });
}

/** The files of a drop; a folder is none, and is said to be none. */
function filesOf(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const isFolder = (item) => item.webkitGetAsEntry?.()?.isDirectory;
  const folders = items.filter(isFolder).length;
  if (folders) say("A folder cannot be dropped; barrow put DIR stores one");
  return items.filter((item) => !isFolder(item)).map((item) => item.getAsFile()).filter(Boolean);
}

export function listenUpload() {
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
    store(filesOf(event.dataTransfer));
  });
  $("file").addEventListener("change", () => {
    store([...$("file").files]);
    $("file").value = "";
  });
}
