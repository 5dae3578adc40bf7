// What peers and the node owe each other.

import { $, ask, button, follow, make, say, setText } from "./dom.js";
import { request } from "./api.js";
import { face } from "./graph.js";
import { bytes, short } from "./words.js";

export function showLedger({ accounts, total }) {
  $("no-accounts").hidden = accounts.length > 0;
  $("accounts-more").hidden = total <= accounts.length;
  setText($("accounts-more"), `The ${accounts.length} largest of ${total}; barrow ledger lists all.`);
  const most = Math.max(1, ...accounts.flatMap((one) => [one.sent, one.received]));
  follow($("accounts"), accounts, (one) => one.peer_id, makeAccount,
    (item, one) => updateAccount(item, one, most));
}

function makeAccount(one) {
  const item = make("li", "account");
  const id = make("code", "", short(one.peer_id));
  id.title = one.peer_id;
  item.settle = button("Note as settled", `Note what was settled with ${short(one.peer_id)}`,
    () => settle(item.one), "small quiet");
  item.given = make("i", "given");
  item.taken = make("i", "taken");
  const balance = make("div", "balance", make("span", "half", item.given), make("span", "half", item.taken));
  balance.setAttribute("aria-hidden", "true");
  item.told = make("p", "dim");
  item.debt = make("p", "");
  item.append(make("div", "row who", face(one.peer_id), id, item.settle), balance, item.told, item.debt);
  return item;
}

function updateAccount(item, one, most) {
  item.one = one;
  item.given.style.width = `${((one.sent / most) * 100).toFixed(1)}%`;
  item.taken.style.width = `${((one.received / most) * 100).toFixed(1)}%`;
  setText(item.told, `sent ${bytes(one.sent)} · received ${bytes(one.received)}`);
  const parts = [];
  if (one.owed_by_us || one.paid_by_us) parts.push(`we owe ${one.owed_by_us.toFixed(2)}, acknowledged ${one.paid_by_us}`);
  if (one.owed_to_us || one.paid_to_us) parts.push(`it owes ${one.owed_to_us.toFixed(2)}, acknowledged ${one.paid_to_us}`);
  if (one.to_settle > 0) parts.push(`it is to settle ${one.to_settle}`);
  if (one.to_settle < 0) parts.push(`we are to settle ${-one.to_settle}`);
  setText(item.debt, parts.join(" · "));
  item.settle.hidden = one.to_settle === 0;
}

async function settle(one) {
  setText($("settle-text"), `${one.peer_id}. Units that were settled elsewhere; barrow moves no money.`);
  $("settle-amount").max = Math.abs(one.to_settle);
  $("settle-amount").value = Math.abs(one.to_settle);
  if ((await ask($("settle"))) !== "yes") return;
  const amount = Number($("settle-amount").value);
  await request("POST", "ledger", JSON.stringify({ peer_id: one.peer_id, settle: amount }));
  say(`${amount} noted as settled`);
}
