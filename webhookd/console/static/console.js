"use strict";
// Makes the console's pages live: local times, copying, suggestions, deliveries as they come. Pages work without it.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function localTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const today = at.toDateString() === new Date().toDateString();
    time.textContent = today && time.closest(".row, .hooklast") ? clock.format(at) : full.format(at);
    time.title = time.dateTime;
  }
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = source.value ?? source.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    if (source.select) { source.focus(); source.select(); }
    button.textContent = "Select and copy";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function makeSecret(button) {
  const bytes = crypto.getRandomValues(new Uint8Array(24));
  const field = document.getElementById(button.dataset.make);
  field.value = btoa(String.fromCharCode(...bytes));
  field.dispatchEvent(new Event("input"));
  field.select();
}

function suggestEvents() {
  const source = document.getElementById("datasource");
  const event = document.getElementById("event");
  if (!source || !event) return;
  const follow = () => {
    const known = [...document.querySelectorAll("datalist[id^='events-']")].some((list) => list.id === `events-${source.value}`);
    event.setAttribute("list", known ? `events-${source.value}` : "events");
  };
  source.addEventListener("input", follow);
  follow();
}

// Opens a WebSocket of this page and keeps it open; `say` gets each document, `status` words about the connection.
function listen(element, say) {
  let pause = 500;
  const open = () => {
    const url = new URL(element.dataset.live, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    socket.addEventListener("open", () => { pause = 500; element.textContent = "live"; element.classList.add("on"); });
    socket.addEventListener("message", (message) => say(JSON.parse(message.data)));
    socket.addEventListener("close", (closed) => {
      element.classList.remove("on");
      if (closed.code === 4401) { element.textContent = "signed out"; location.reload(); return; }
      if (closed.code === 1000) { element.textContent = "no longer live"; return; }
      element.textContent = "connection lost, trying again";
      setTimeout(open, pause);
      pause = Math.min(pause * 2, 15000);
    });
  };
  open();
}

function liveDeliveries() {
  const element = document.getElementById("live");
  const rows = document.getElementById("rows");
  if (!element || !rows || element.dataset.paged) return;
  listen(element, (document_) => {
    document.getElementById("spark").innerHTML = document_.spark;
    for (const row of document_.rows) {
      if (element.dataset.filter && element.dataset.filter !== row.outcome) continue;
      rows.insertAdjacentHTML("afterbegin", row.html);
      localTimes(rows.firstElementChild);
      document.getElementById("empty")?.remove();
    }
    while (rows.children.length > 100) rows.lastElementChild.remove();
  });
}

document.addEventListener("DOMContentLoaded", () => {
  localTimes(document);
  suggestEvents();
  liveDeliveries();
  document.querySelector("[aria-invalid=true]")?.focus();
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
  for (const button of document.querySelectorAll("[data-filled]")) {
    const field = document.getElementById(button.dataset.copy);
    field.addEventListener("input", () => { button.hidden = !field.value; });
  }
  for (const button of document.querySelectorAll("[data-make]")) {
    button.hidden = false;
    button.addEventListener("click", () => makeSecret(button));
  }
});
