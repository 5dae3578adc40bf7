// Who is connected, at what rate and delay.

import { $, act, button, copy, follow, make, say, setText } from "./dom.js";
import { request } from "./api.js";
import { face, Rates, sparkline } from "./graph.js";
import { bytes, rate, short } from "./words.js";

/** Delays that fill the bar, in microseconds; it is logarithmic, from a tenth of a millisecond. */
const DELAY_FULL_US = 1e6;
/** How a peer was come by, as people say it. */
const SOURCES = {
  incoming: "it came to us", given: "its address was given", exchange: "another peer told of it",
  dht: "found in the DHT", mdns: "on the local network", router: "a router told of it",
};
const rates = new Map();

/** Bytes a second that come from a peer at this moment. */
export const rateFrom = (id) => rates.get(id)?.in.now ?? 0;

export function showPeers(state) {
  const here = new Set(state.peers.map((peer) => peer.peer_id));
  for (const id of rates.keys()) if (!here.has(id)) rates.delete(id);
  for (const peer of state.peers) {
    const of = rates.get(peer.peer_id) ?? { in: new Rates(), out: new Rates() };
    of.in.add(peer.bytes_received, state.time_ms);
    of.out.add(peer.bytes_sent, state.time_ms);
    rates.set(peer.peer_id, of);
  }
  $("no-peers").hidden = state.peers.length > 0;
  setText($("peers-count"), state.peers.length ? String(state.peers.length) : "");
  follow($("peers"), state.peers, (peer) => peer.peer_id, makePeer, updatePeer);
}

function makePeer(peer) {
  const item = make("li", "peer");
  item.spark = sparkline(`Rates from and to ${short(peer.peer_id)}`);
  item.delay = make("span");
  item.bar = make("i", "delay-bar");
  item.told = make("p", "dim");
  const id = make("code", "", short(peer.peer_id));
  id.title = peer.peer_id;
  item.append(make("div", "row who", face(peer.peer_id), id,
    button("Copy", `Copy the address of ${short(peer.peer_id)}`,
      () => copy(`${peer.peer_id}@${peer.address}`, "Address"), "small quiet")),
  make("p", "dim where", `${peer.address} · ${SOURCES[peer.source] ?? peer.source}`),
  make("p", "dim delay", make("span", "", "round trip"), make("span", "track", item.bar), item.delay),
  item.spark, item.told);
  return item;
}

function updatePeer(item, peer) {
  const of = rates.get(peer.peer_id);
  const known = peer.rtt_us !== null && peer.rtt_us !== undefined;
  setText(item.delay, known ? `${(peer.rtt_us / 1000).toFixed(1)} ms` : "not known yet");
  const share = known ? Math.log10(Math.max(1, peer.rtt_us / 100)) / Math.log10(DELAY_FULL_US / 100) : 0;
  item.bar.style.width = known ? `${Math.min(100, 4 + share * 96).toFixed(0)}%` : "0";
  const parts = [`in ${rate(of.in.now)}, ${bytes(peer.bytes_received)} in all`,
    `out ${rate(of.out.now)}, ${bytes(peer.bytes_sent)} in all`];
  if (peer.offences) parts.push(`${peer.offences} of 3 offences`);
  if (peer.price) parts.push(`asks ${peer.price} a MiB`);
  setText(item.told, parts.join(" · "));
  item.spark.toggleAttribute("hidden", !of.in.isBusy && !of.out.isBusy);
  item.spark.draw(of.in.values, of.out.values);
}

export function listenConnect() {
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
