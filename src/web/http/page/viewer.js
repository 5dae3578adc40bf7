// A picture, video or sound, shown from its CID.

import { $, link, make, setText } from "./dom.js";
import { contentUrl, short } from "./words.js";

/** Shows it as `kind`; if that is not known, the elements find out. */
export function show(cid, name, kind, path) {
  const body = $("viewer-body");
  const url = contentUrl(cid, name, path);
  setText($("viewer-title"), name ?? short(cid));
  const kinds = kind ? [kind] : ["img", "video"];
  const next = () => {
    const tag = kinds.shift();
    if (!tag) {
      body.replaceChildren(make("p", "", "This is no picture and no video, or nobody has it."),
        link("Open it in a tab of its own", url));
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

export function listenViewer() {
  $("viewer-close").addEventListener("click", () => $("viewer").close());
  // A film that nobody sees any more is not to be fetched.
  $("viewer").addEventListener("close", () => $("viewer-body").replaceChildren());
}
