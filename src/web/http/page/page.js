// The node's page: draws what /api/v1/events tells, and asks the API for the rest.

import { $, act, copy, setText } from "./dom.js";
import { API } from "./api.js";
import { listenDatasets, nameOf, noteFeatures, pin, showDatasets } from "./datasets.js";
import { face } from "./graph.js";
import { showLedger } from "./ledger.js";
import { showProblem, showRates, showStore } from "./now.js";
import { listenConnect, showPeers } from "./peers.js";
import { showTransfers } from "./transfers.js";
import { listenUpload } from "./upload.js";
import { listenViewer, show } from "./viewer.js";
import { readCid, short } from "./words.js";

let own = {};

function showState(state) {
  if (own.peer_id !== state.peer_id) {
    setText($("peer-id"), short(state.peer_id));
    $("peer-id").title = state.peer_id;
    $("peer-face").replaceChildren(face(state.peer_id));
  }
  own = state;
  noteFeatures(state.features);
  setText($("version"), `barrow ${state.version} · peers reach it at ${state.listen.join(", ") || "no address"}`);
  showProblem(state.problem);
  showRates(state);
  showStore(state.store);
  showPeers(state);
  showTransfers(state);
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

function listenAddress() {
  $("copy-address").addEventListener("click", () => {
    const port = own.listen?.[0]?.split(":").pop();
    copy(port ? `${own.peer_id}@${location.hostname}:${port}` : own.peer_id ?? "", "Address");
  });
}

function link(text, cls) {
  setText($("link"), text);
  $("link").className = `state ${cls}`;
  $("lost").hidden = cls !== "lost";
  document.body.classList.toggle("stale", cls === "lost");
}

function listenEvents() {
  const source = new EventSource(`${API}events`);
  source.addEventListener("state", (event) => {
    link("live", "live");
    showState(JSON.parse(event.data));
  });
  source.addEventListener("datasets", (event) => showDatasets(JSON.parse(event.data)));
  source.addEventListener("ledger", (event) => showLedger(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    link("no answer", "lost");
    // A browser gives up for good where the node refuses; it may yet be started again.
    if (source.readyState === EventSource.CLOSED) setTimeout(listenEvents, 3000);
  });
}

listenFetch();
listenUpload();
listenViewer();
listenDatasets();
listenConnect();
listenAddress();
listenEvents();
