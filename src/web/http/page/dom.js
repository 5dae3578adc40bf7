// Elements. Text from peers and files goes into the page as text alone, never as markup.

export const $ = (id) => document.getElementById(id);

/** An element with classes, text and children. */
export function make(tag, cls, ...children) {
  const made = document.createElement(tag);
  if (cls) made.className = cls;
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** An element of a drawing, with attributes. */
export function draw(tag, attributes, ...children) {
  const drawn = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) drawn.setAttribute(name, value);
  drawn.append(...children);
  return drawn;
}

export function setText(element, text) {
  // Screen readers hear a change of text; nothing that stays the same is to be one.
  if (element.textContent !== text) element.textContent = text;
}

let saidTimer = 0;

/** Says something that passes, to the eye and to a screen reader. */
export function say(text) {
  setText($("said"), text);
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => setText($("said"), ""), 6000);
}

/** Runs what a button does: the button rests meanwhile, and a failure is said. */
export async function act(button, what) {
  button.disabled = true;
  try {
    await what();
  } catch (failed) {
    say(failed.message);
  } finally {
    button.disabled = false;
  }
}

export function button(text, label, what, cls = "small") {
  const made = make("button", cls, text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => act(made, () => what(made)));
  return made;
}

export function link(text, href, cls = "") {
  const made = make("a", cls, text);
  made.href = href;
  made.target = "_blank";
  made.rel = "noopener";
  return made;
}

export async function copy(text, what) {
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

/** Opens a dialog, and gives the value of the button that closed it. */
export function ask(dialog) {
  return new Promise((done) => {
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => done(dialog.returnValue), { once: true });
    dialog.showModal();
  });
}

/** Makes the children of `list` follow `items`: what stays keeps its element, and its focus. */
export function follow(list, items, keyOf, create, update) {
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
