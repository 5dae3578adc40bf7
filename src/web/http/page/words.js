// Numbers and names as people read them.

/** Bytes with a binary unit. */
export function bytes(n) {
  if (n < 1024) return `${Math.round(n)} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = -1;
  do { n /= 1024; at += 1; } while (n >= 1023.95 && at + 1 < units.length);
  return `${n.toFixed(1)} ${units[at]}`;
}

export const rate = (n) => `${bytes(Math.max(0, n))}/s`;

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.ceil(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
}

/** How long ago a second of Unix time is. */
export function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  if (past < 60) return "just now";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`;
  return new Date(seconds * 1000).toLocaleDateString();
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export const short = (text) => (text.length > 24 ? `${text.slice(0, 10)}…${text.slice(-6)}` : text);

export const contentUrl = (cid, name, path = "") =>
  `/ipfs/${encodeURIComponent(cid)}${path}${name ? `?filename=${encodeURIComponent(name)}` : ""}`;

/** The CID and the path in what was typed: a gateway's address is taken for the CID in it. */
export function readCid(text) {
  const found = /(?:^|\/ipfs\/|^ipfs:\/\/)([A-Za-z0-9]{10,})((?:\/[^?#]*)?)(?:[?#].*)?$/.exec(text.trim());
  return found ? { cid: found[1], path: found[2] } : null;
}

/** What shows a file of this name and media type: an element's name, or nothing. */
export function kindOf(name, type) {
  const ending = (name ?? "").toLowerCase().split(".").pop();
  const of = type ?? "";
  if (of.startsWith("image/") || /^(png|jpe?g|gif|webp|avif|svg)$/.test(ending)) return "img";
  if (of.startsWith("video/") || /^(mp4|webm|mov|mkv|ogv)$/.test(ending)) return "video";
  if (of.startsWith("audio/") || /^(mp3|ogg|opus|flac|wav|m4a)$/.test(ending)) return "audio";
  return "";
}
