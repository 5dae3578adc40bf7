// Asking the node.

import { $, ask } from "./dom.js";

export const API = "/api/v1/";

let token = sessionStorage.getItem("token") || "";

export const authorization = () => (token ? { authorization: `Bearer ${token}` } : {});

/** Asks for the node's token; whether one was given. */
export async function askToken() {
  if ((await ask($("ask-token"))) !== "yes") return false;
  token = $("token").value.trim();
  $("token").value = "";
  sessionStorage.setItem("token", token);
  return true;
}

/** What the node says in an answer that is no success. */
export function errorOf(status, text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `the node answers ${status}`;
  }
}

/** Asks the API; an answer that is no success is an Error with what the node says. */
export async function request(method, path, body) {
  let response;
  try {
    response = await fetch(API + path, { method, body, headers: authorization() });
  } catch {
    throw new Error("the node does not answer; is barrow serve still running?");
  }
  if (response.status === 401 && (await askToken())) return request(method, path, body);
  if (!response.ok) throw new Error(errorOf(response.status, await response.text()));
  return response;
}

export const json = async (method, path, body) => (await request(method, path, body)).json();

/** Runs a job of the API; `each` gets its lines, and the last is given back. */
export async function job(path, each = () => {}) {
  const reader = (await request("POST", path)).body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let last = {};
  for (;;) {
    const { done, value } = await reader.read();
    rest += value ? decoder.decode(value, { stream: true }) : "";
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      last = JSON.parse(line);
      each(last);
    }
    if (done) break;
  }
  if (last.error) throw new Error(last.error.message);
  if (!last.done) throw new Error("the node ended before it was done");
  return last;
}
