// How many losses a dataset can still bear, drawn as the shards of its weakest stripe.

import { make, setText } from "./dom.js";
import { json } from "./api.js";
import { count } from "./words.js";

/** Shards that are drawn one by one; more are drawn as shares. */
const CELLS_MAX = 64;
/** What asks again about each protected dataset that is shown. */
const asking = new Set();

/** Has all be asked again: something was mended, or found to be damaged. */
export function healthChanged() {
  for (const ask of asking) ask();
}

export function health(one) {
  const told = make("p", "health-told");
  if (!one.protection) {
    setText(told, "no parity: bears no loss here, unless a peer has it too");
    told.classList.add("dim");
    return make("div", "health", told);
  }
  const { data, parity, slot } = one.protection;
  if (slot) {
    setText(told, `holds slot ${slot.index} of ${slot.slots} (${data} + ${parity} shards a stripe)`);
    return make("div", "health", told);
  }
  const strip = make("div", "shards");
  strip.setAttribute("aria-hidden", "true");
  const shown = make("div", "health", strip, told);
  const ask = async () => {
    // An element that left the page asks no more.
    if (shown.isConnected === false && shown.wasShown) return asking.delete(ask);
    shown.wasShown = true;
    try {
      const { losses } = await json("GET", `losses/${one.root}`);
      tell(strip, told, data, parity, losses);
    } catch (failed) {
      strip.replaceChildren();
      setText(told, `its health cannot be told (${failed.message}); try Repair`);
      told.className = "health-told wrong";
    }
    return undefined;
  };
  asking.add(ask);
  ask();
  return shown;
}

/** `losses` says how many stripes lack how many shards here. */
function tell(strip, told, data, parity, losses) {
  const entries = Object.entries(losses).map(([lost, stripes]) => [Number(lost), stripes]);
  const stripes = entries.reduce((sum, [, of]) => sum + of, 0);
  const worst = Math.max(0, ...entries.map(([lost]) => lost));
  const hurt = entries.filter(([lost]) => lost > 0).reduce((sum, [, of]) => sum + of, 0);
  drawShards(strip, data, parity, worst);
  const left = parity - worst;
  const of = hurt ? `${count(hurt, "stripe")} of ${stripes} lack shards` : `${count(stripes, "stripe")}, nothing lacks`;
  setText(told, left >= 0
    ? `each stripe can still bear ${count(left, "loss", "losses")} (${of})`
    : `a stripe has lost ${worst} shards and bears ${parity}: choose Repair, which asks peers (${of})`);
  told.className = `health-told ${left < 0 ? "wrong" : hurt ? "warn" : "fine"}`;
}

function drawShards(strip, data, parity, lost) {
  const cells = (total, cls, gone) => {
    const drawn = Math.min(total, CELLS_MAX);
    return Array.from({ length: drawn }, (_, at) =>
      make("i", `${cls}${at >= drawn - Math.ceil((gone * drawn) / total) ? " lost" : ""}`));
  };
  // Which shard lacks does not matter to what is left: the last are drawn as lost.
  const ofParity = Math.min(lost, parity);
  strip.replaceChildren(...cells(data, "", Math.min(data, lost - ofParity)), ...cells(parity, "parity", ofParity));
}
