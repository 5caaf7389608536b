// The page of test.py --serve: sends one file at a time, then asks the server how far the videos are.
"use strict";

const { token, maxBytes, maxOwn } = document.body.dataset;
const PAUSE_MS = 1000; // between questions
const part = (id) => document.getElementById(id);
const rows = []; // {name, file, id, state, request, item} in the order on the page
const dismissed = new Set(); // ids
let sending = false;
let timer = 0;

function addRow(name, values) {
  const item = part("row").content.firstElementChild.cloneNode(true);
  const row = { name, item, state: "", ...values };
  item.querySelector("h3").textContent = name;
  item.querySelector("progress").setAttribute("aria-label", `Progress of ${name}`);
  item.querySelector("a").setAttribute("aria-label", `Open the verdict page of ${name} in a new tab`);
  item.querySelector("button").addEventListener("click", () => dismiss(row));
  part("videos").append(item);
  rows.push(row);
  part("heading").hidden = false;
  return row;
}

function show(row, state, text, done = 0, total = 0) {
  const { item, name } = row;
  const line = item.querySelector(".state"), bar = item.querySelector("progress");
  const button = item.querySelector("button"), ended = state === "done" || state === "failed";
  line.textContent = text;
  line.className = `state ${state}`;
  bar.hidden = state !== "sending" && state !== "running";
  if (total) bar.value = done / total; else bar.removeAttribute("value");
  button.textContent = ended ? "Delete" : "Cancel";
  button.setAttribute("aria-label", `${button.textContent} ${name}`);
  if (state !== row.state && (ended || state === "running")) tell(`${name}: ${ended ? text : "is judged now"}`);
  row.state = state;
}

function showVerdict(row, verdict) {
  if (row.state === "done") return;
  show(row, "done", `Verdict: ${verdict}`);
  const word = document.createElement("strong");
  word.textContent = verdict;
  word.className = verdict;
  row.item.querySelector(".state").replaceChildren("Verdict: ", word);
  const link = row.item.querySelector("a");
  link.href = `/videos/${row.id}/page`;
  link.hidden = false;
}

function tell(text) { // to screen readers
  part("news").textContent = text;
}

function complain(text) {
  part("trouble").textContent = text;
  part("trouble").hidden = !text;
}

function take(files) {
  for (const file of files) {
    const row = addRow(file.name, { file });
    if (file.size > Number(maxBytes)) show(row, "failed", `Not sent: larger than ${maxBytes / 1e6} MB.`);
    else if (!file.size) show(row, "failed", "Not sent: the file is empty.");
    else show(row, "unsent", "Waits to be sent");
  }
  sendNext();
}

function sendNext() {
  const row = rows.find((one) => one.state === "unsent");
  const own = rows.filter((one) => ["waiting", "running"].includes(one.state)).length;
  if (sending || !row || own >= Number(maxOwn)) return; // `ask` comes back when one is judged
  sending = true;
  const request = row.request = new XMLHttpRequest();
  const end = (state, text) => {
    sending = false;
    row.file = row.request = null;
    if (rows.includes(row)) show(row, state, text);
    sendNext();
    ask();
  };
  request.upload.addEventListener("progress", ({ loaded, total }) =>
    show(row, "sending", `Sending: ${Math.floor(100 * loaded / total)} %`, loaded, total));
  request.addEventListener("load", () => {
    if (request.status === 201) row.id = JSON.parse(request.response).id;
    if (row.id) end("waiting", "Waits to be judged"); else end("failed", `Not taken: ${reasonOf(request.response)}.`);
  });
  request.addEventListener("error", () => end("failed", "Not sent: the connection broke."));
  request.addEventListener("abort", () => end("failed", "Not sent."));
  request.open("POST", "/videos");
  request.setRequestHeader("X-Token", token);
  request.setRequestHeader("X-Name", encodeURIComponent(row.name.toWellFormed?.() ?? row.name));
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(row.file);
  show(row, "sending", "Sending");
}

function reasonOf(response) {
  try { return JSON.parse(response).error; } catch { return "the server failed"; }
}

function drop(row) {
  const place = rows.indexOf(row), hadFocus = row.item.contains(document.activeElement);
  rows.splice(place, 1);
  row.item.remove();
  part("heading").hidden = !rows.length;
  if (hadFocus) (rows[Math.min(place, rows.length - 1)]?.item.querySelector("button") ?? part("file")).focus();
}

function dismiss(row) {
  drop(row);
  tell(`${row.name}: removed`);
  row.request?.abort();
  dismissed.add(row.id);
  if (row.id) fetch(`/videos/${row.id}`, { method: "DELETE", headers: { "X-Token": token } }).catch(() => ask());
}

async function ask() {
  const asked = rows.filter((one) => one.id); // what is sent meanwhile may not be in the answer
  let videos;
  try {
    const response = await fetch("/videos");
    if (!response.ok) return complain("The server was started again and knows nothing of these videos: load this page again.");
    videos = (await response.json()).videos;
  } catch {
    return complain("The server does not answer.");
  } finally {
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE_MS);
  }
  complain("");
  const known = new Map(videos.map((video) => [video.id, video]));
  for (const row of asked.filter((one) => rows.includes(one))) {
    const video = known.get(row.id);
    known.delete(row.id);
    if (!video) {
      drop(row);
      tell(`${row.name}: was deleted`);
    } else update(row, video);
  }
  for (const video of known.values()) { // of this page before it was loaded again, or of another tab
    const isShown = rows.some((one) => one.id === video.id) || dismissed.has(video.id);
    if (!sending && !isShown && video.state !== "sending") update(addRow(video.name, { id: video.id }), video);
  }
  sendNext();
}

function update(row, { state, text, verdict, done, total }) {
  if (state === "done") showVerdict(row, verdict);
  else if (state === "failed") show(row, state, `Not judged: ${text}.`);
  else show(row, state, state === "running" ? `Judging: ${text}` : `Waits: ${text}`, done, total);
}

part("file").addEventListener("change", () => {
  take([...part("file").files]);
  part("file").value = "";
});
for (const [kind, isOver] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault(); // a browser would leave the page and show the file
    part("drop").classList.toggle("over", isOver);
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}
window.addEventListener("beforeunload", (event) => {
  if (rows.some((one) => ["unsent", "sending"].includes(one.state))) event.preventDefault();
});
ask();
