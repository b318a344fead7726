// The console's own script: times in the browser's zone, the theme, messages, and details of live parts.
"use strict";

const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" })
  .formatToParts(new Date()).find((part) => part.type === "timeZoneName")?.value ?? "";

function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const utc = moment.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
    element.dataset.local = "";
    if (element.dataset.relative === undefined) {
      element.textContent = whole.format(moment);
      element.title = utc;
    } else {
      element.title = `${whole.format(moment)} ${zone} · ${utc}`;
    }
  }
}

const themes = ["system", "light", "dark"];

function currentTheme() {
  return document.documentElement.dataset.theme ?? "system";
}

function showTheme() {
  for (const name of document.querySelectorAll("[data-theme-name]")) name.textContent = currentTheme();
}

function switchTheme() {
  const next = themes[(themes.indexOf(currentTheme()) + 1) % themes.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    if (next === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
  } catch { /* the choice lasts until the page is left */ }
  showTheme();
  document.dispatchEvent(new CustomEvent("themechange"));
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-theme-toggle], [data-dismiss], [data-copy], [data-close]");
  if (!target) return;
  if (target.dataset.themeToggle !== undefined) switchTheme();
  if (target.dataset.dismiss !== undefined) target.closest(".notice").remove();
  if (target.dataset.close !== undefined) target.closest("dialog, details")?.removeAttribute("open");
  if (target.dataset.copy !== undefined) {
    // Without a selector, the link of the page is copied.
    const text = target.dataset.copy ? document.querySelector(target.dataset.copy)?.textContent ?? "" : location.href;
    navigator.clipboard.writeText(text).then(() => { target.textContent = "Copied"; });
  }
});

document.addEventListener("submit", (event) => {
  // A form of filters keeps its URL short: empty fields are not sent.
  if (event.target.matches("form[method=get]")) {
    for (const input of event.target.elements) if (input.name && input.value === "") input.disabled = true;
  }
});

document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-submit-on-change]");
  if (form && event.target.matches("select")) form.requestSubmit();
});

// A field for a local time has no name; the hidden field that it names has the same time in UTC, for the server.
document.addEventListener("input", (event) => {
  if (event.target.dataset.utc === undefined) return;
  const moment = new Date(event.target.value);
  document.getElementById(event.target.dataset.utc).value = Number.isNaN(moment.getTime()) ? "" : moment.toISOString();
});

for (const field of document.querySelectorAll("input[data-utc]")) {
  const moment = new Date(document.getElementById(field.dataset.utc).value);
  if (Number.isNaN(moment.getTime())) continue;
  moment.setMinutes(moment.getMinutes() - moment.getTimezoneOffset());
  field.value = moment.toISOString().slice(0, 16);
}

// A request without an event is a poll of a live part, unless it loads what the page leaves out at first. A poll extends
// the session only if somebody has used the page since the last request.
const isPoll = (element, event) => !event && !element.getAttribute("hx-trigger")?.startsWith("load");
let isUsed = false;
for (const name of ["pointerdown", "keydown"]) document.addEventListener(name, () => { isUsed = true; }, true);
document.addEventListener("htmx:configRequest", (event) => {
  if (isPoll(event.detail.elt, event.detail.triggeringEvent)) event.detail.headers["X-Poll"] = isUsed ? "attended" : "unattended";
  isUsed = false;
});

// Live parts of a hidden page do not load.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && isPoll(event.detail.elt, event.detail.requestConfig.triggeringEvent)) event.preventDefault();
});

// A live part stays while something in it is pressed: a click needs the same element at its start and at its end.
const RETRY_MILLISECONDS = 500;
document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  if (!part.matches("[hx-select]:active")) return;
  event.detail.shouldSwap = false;
  setTimeout(() => htmx.ajax("GET", part.getAttribute("hx-get"), { source: part }), RETRY_MILLISECONDS);
});

// The element of the page that is equal to one that was replaced, with its form if it has one; it has to be the only one.
function successorOf(element) {
  const whole = element.closest("form") ?? element;
  const equal = [...document.getElementsByTagName(whole.localName)].filter((one) => one.isEqualNode(whole));
  if (equal.length !== 1) return null;
  return whole === element ? equal[0] : equal[0].elements[[...whole.elements].indexOf(element)];
}

// A live part that is loaded again keeps its open details and its checked boxes, by their ids, and the focus.
let kept = { open: [], checked: [], focused: null };
document.addEventListener("htmx:beforeSwap", (event) => {
  const ids = (selector) => [...event.detail.target.querySelectorAll(selector)].map((one) => one.id);
  const focused = event.detail.target.contains(document.activeElement) ? document.activeElement : null;
  kept = { open: ids("details[id][open]"), checked: ids("input[id]:checked"), focused };
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of kept.open) document.getElementById(id)?.setAttribute("open", "");
  for (const id of kept.checked) {
    const box = document.getElementById(id);
    if (box) box.checked = true;
  }
  if (kept.focused && !kept.focused.isConnected && document.activeElement === document.body) {
    successorOf(kept.focused)?.focus({ preventScroll: true });
  }
  kept = { open: [], checked: [], focused: null };
});

document.addEventListener("change", (event) => {
  const name = event.target.dataset.checkAll;
  if (name === undefined) return;
  for (const box of document.getElementsByName(name)) box.checked = event.target.checked;
});
document.addEventListener("htmx:load", (event) => showTimes(event.detail.elt));

// A form whose change has succeeded is empty again.
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful && event.detail.elt.matches("form[data-reset]")) event.detail.elt.reset();
});

// The field of a form; a hidden field for a time has a visible one.
function fieldOf(form, name) {
  const found = form.elements.namedItem(name);
  const field = found instanceof RadioNodeList ? [...found].find((one) => one.checked) ?? found[0] : found;
  return field?.type === "hidden" ? form.querySelector(`[data-utc="${field.id}"]`) : field;
}

function clearFaults(form) {
  for (const message of form.querySelectorAll(".fault")) message.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.setAttribute("aria-describedby", field.getAttribute("aria-describedby").replace(`${field.id}-fault`, "").trim());
  }
}

function showFault(field, fault) {
  for (let box = field.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  let message = document.getElementById(`${field.id}-fault`);
  if (!message) {
    message = document.createElement("p");
    message.className = "fault";
    message.id = `${field.id}-fault`;
    (field.closest(".field, fieldset") ?? field.parentElement).append(message);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", `${field.getAttribute("aria-describedby") ?? ""} ${message.id}`.trim());
  }
  message.append(fault.lastElementChild.cloneNode(true));
  const link = document.createElement("a");
  link.href = `#${encodeURIComponent(field.id)}`;
  link.append(...fault.childNodes);
  fault.append(link);
}

// The answer to a refused form lists its faults. Each also appears at its field, and the first faulty field gets the focus.
document.addEventListener("htmx:afterRequest", (event) => {
  const form = event.detail.elt.matches("form, button") && event.detail.elt.closest("form");
  const { target, xhr } = event.detail;
  if (!form || !xhr.status) return;
  clearFaults(form);
  if (target.id !== "notices") document.getElementById("notices").replaceChildren();
  for (const fault of target.querySelectorAll("[data-field]")) {
    const field = fieldOf(form, fault.dataset.field);
    if (field?.id) showFault(field, fault);
  }
  form.querySelector("[aria-invalid]")?.focus();
});

function notice(text) {
  const box = document.createElement("div");
  box.className = "notice bad";
  box.setAttribute("role", "alert");
  const sentence = document.createElement("p");
  sentence.textContent = text;
  box.append(sentence);
  return box;
}

// Requests that the server did not answer, and the first one that it answers again.
let isOffline = false;
document.addEventListener("htmx:sendError", () => {
  isOffline = true;
  document.getElementById("notices")?.replaceChildren(notice("The server does not answer. The page keeps trying."));
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (isOffline && event.detail.successful) {
    isOffline = false;
    document.getElementById("notices")?.replaceChildren();
  }
});

// The menu is a column on wide screens, and closed at first on narrow ones.
const narrow = matchMedia("(max-width: 48rem)");
const showMenu = () => document.querySelector("details.menu")?.toggleAttribute("open", !narrow.matches);
narrow.addEventListener("change", showMenu);
showMenu();
showTimes(document);
showTheme();
